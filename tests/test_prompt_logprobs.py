"""Log-probabilities of prompts over HTTP: equal to what generation reported.

A prompt that is what another request generated must score, to the last bit, what was reported for
each of its tokens: one was computed token by token, the other in chunks of a prompt. So it is with
the demo model's exact copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server_process import ServerProcess

MAX_STEP_TOKENS = 48  # a prompt below has more, so that it is scored over several steps
PROMPT = "The capital of France is"


@pytest.fixture(scope="module", params=["split", "unified"])
def http(request: pytest.FixtureRequest, exact: tuple[str, ...]) -> Iterator[httpx.Client]:
    flags = [f"--max-physical-batch-total-tokens={MAX_STEP_TOKENS}", "--max-batch-size=4"]
    flags += ["--max-total-tokens=512", "--max-input-tokens=500"]
    if request.param == "unified":
        flags.append("--max-batch-total-tokens=1024")
    with (
        ServerProcess("serve", *exact, *flags) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        yield client
        assert process.stop() == 0


def complete(http: httpx.Client, prompt: str | list[int], **fields: object) -> dict[str, Any]:
    body = {"prompt": prompt, "temperature": 0, "logprobs": 3, **fields}
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def generated(http: httpx.Client, num_tokens: int) -> tuple[list[int], list[float]]:
    """Ids of the prompt and of what followed it, and what was reported of the latter."""
    parameters = {"details": True, "max_new_tokens": num_tokens, "decoder_input_details": True}
    parameters |= {"do_sample": True, "seed": 11, "temperature": 1.5}
    body = {"inputs": PROMPT, "parameters": parameters}
    details = http.post("/generate", json=body).json()["details"]
    ids = [token["id"] for token in (*details["prefill"], *details["tokens"])]
    return ids, [token["logprob"] for token in details["tokens"]]


def test_a_prompt_scores_what_generation_reported_for_its_tokens(http: httpx.Client) -> None:
    num_compared = 0
    for prompt_tokens in (60, 200):
        ids, reported = generated(http, prompt_tokens)
        scored = complete(http, ids, echo=True, max_tokens=0)["logprobs"]["token_logprobs"]
        assert len(scored) == len(ids)
        assert scored[0] is None
        assert scored[-len(reported) :] == reported
        num_compared += len(reported)
    assert num_compared > 0


def test_prefill_and_echo_agree(http: httpx.Client) -> None:
    body = {"inputs": PROMPT, "parameters": {"decoder_input_details": True, "max_new_tokens": 1}}
    prefill = http.post("/generate", json=body).json()["details"]["prefill"]
    logprobs = complete(http, PROMPT, echo=True, max_tokens=1)["logprobs"]
    assert [token["logprob"] for token in prefill] == logprobs["token_logprobs"][:-1]
    assert prefill[0]["logprob"] is None
    assert all(token["logprob"] < 0 for token in prefill[1:])


def test_the_text_can_be_cut_at_its_offsets(http: httpx.Client) -> None:
    choice = complete(http, PROMPT, echo=True, max_tokens=2)
    text, logprobs = choice["text"], choice["logprobs"]
    ends = [*logprobs["text_offset"][1:], len(text)]
    pieces = [text[start:end] for start, end in zip(logprobs["text_offset"], ends, strict=True)]
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == [
        token for token, piece in zip(logprobs["tokens"], pieces, strict=True) if piece
    ]


def test_a_likely_continuation_scores_better_as_an_evaluation_asks(http: httpx.Client) -> None:
    """As harnesses rank answers: the sum over the tokens behind the context, and is it greedy."""

    def rank(continuation: str) -> tuple[float, bool]:
        logprobs = complete(http, PROMPT + continuation, echo=True, max_tokens=1)["logprobs"]
        first = next(i for i, at in enumerate(logprobs["text_offset"]) if at >= len(PROMPT))
        total = sum(logprobs["token_logprobs"][first:-1])
        pairs = zip(logprobs["tokens"][first:-1], logprobs["top_logprobs"][first:-1], strict=True)
        return total, all(max(tops, key=tops.__getitem__) == token for token, tops in pairs)

    right, is_greedy = rank(" Paris")
    wrong, is_wrong_greedy = rank(" small")
    assert right > wrong
    assert is_greedy
    assert not is_wrong_greedy


def test_a_prompt_is_scored_alike_beside_streams(http: httpx.Client) -> None:
    ids, _ = generated(http, 150)
    alone = complete(http, ids, echo=True, max_tokens=0)["logprobs"]

    def stream() -> int:
        body = {"prompt": "a", "max_tokens": 200, "stream": True, "ignore_eos": True}
        return http.post("/v1/completions", json=body).text.count("data: ")

    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(stream) for _ in range(2)]
        again = complete(http, ids, echo=True, max_tokens=0)["logprobs"]
        assert [one.result() for one in streams] == [201, 201]
    assert again == alone
