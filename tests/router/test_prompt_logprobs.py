"""Log-probabilities of prompts on TGI's and OpenAI's routes, with a scripted engine behind them.

The engine gives the token at index i the log-probability -i / 4, in two messages, and as
alternatives the ids from its own on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import pytest

from tests.conftest import TOOLS, MakeServer, sse_events
from tests.fake_engine import FakeToken
from tests.fake_text import FakePool
from tgi_llamacpp.messages import Finish, Submit
from tgi_llamacpp.router.echo import Echo

T = TypeVar("T")

COMPLETIONS = "/v1/completions"


def submits(server: Any) -> list[Submit]:
    return [m for m in server.engine.received if isinstance(m, Submit)]


def generate(http: httpx.Client, inputs: str, **parameters: object) -> dict[str, Any]:
    answer = http.post("/generate", json={"inputs": inputs, "parameters": parameters}).json()
    details: dict[str, Any] = answer["details"]
    return details


def one_token(submit: Submit) -> list[FakeToken]:
    tops = [(5360, -0.5), (775, -1.5)][: submit.params.num_top_tokens]
    return [FakeToken(5360, -0.5, Finish.LENGTH, tops)]


# TGI's routes


def test_prefill_has_every_token_of_the_prompt_and_null_for_the_first(http: httpx.Client) -> None:
    details = generate(http, "Hello a", decoder_input_details=True, max_new_tokens=2)
    assert details["prefill"] == [
        {"id": 1, "text": "<s>", "logprob": None},
        {"id": 4321, "text": "Hello", "logprob": -0.25},
        {"id": 32, "text": " ", "logprob": -0.5},
        {"id": 97, "text": "a", "logprob": -0.75},
    ]
    assert [token["logprob"] for token in details["tokens"]] == [-0.34, -0.5078125]


def test_prefill_is_empty_and_nothing_is_scored_unless_it_is_asked_for(
    make_server: MakeServer,
) -> None:
    server = make_server()
    body = {"inputs": "a", "parameters": {"details": True}}
    assert httpx.post(server.url + "/generate", json=body).json()["details"]["prefill"] == []
    assert not submits(server)[0].prompt_logprobs


def test_prefill_begins_where_the_prompt_was_truncated(http: httpx.Client) -> None:
    details = generate(http, "abcd", decoder_input_details=True, truncate=2)
    assert details["prefill"] == [
        {"id": 99, "text": "c", "logprob": None},
        {"id": 100, "text": "d", "logprob": -0.25},
    ]


def test_every_candidate_of_best_of_shows_the_prompt_which_is_scored_once(
    make_server: MakeServer,
) -> None:
    server = make_server()
    parameters = {"decoder_input_details": True, "best_of": 2, "do_sample": True}
    body = {"inputs": "ab", "parameters": parameters}
    details = httpx.post(server.url + "/generate", json=body).json()["details"]
    (other,) = details["best_of_sequences"]
    assert other["prefill"] == details["prefill"]
    assert len(details["prefill"]) == 3
    assert [submit.prompt_logprobs for submit in submits(server)] == [True, False]


def test_a_stream_with_prefill_is_refused_in_tgis_words(http: httpx.Client) -> None:
    body = {"inputs": "a", "parameters": {"decoder_input_details": True}}
    (event,) = sse_events(http.post("/generate_stream", json=body))
    assert event == {
        "error": "Input validation error: `decoder_input_details` == true is not supported when"
        " streaming tokens",
        "error_type": "validation",
    }


# Completions


def test_echo_with_logprobs_begins_with_the_prompts(make_server: MakeServer) -> None:
    server = make_server(one_token)
    body = {"prompt": "Hello a", "echo": True, "logprobs": 2, "max_tokens": 1}
    choice = httpx.post(server.url + COMPLETIONS, json=body).json()["choices"][0]
    assert choice["text"] == "Hello a love"
    assert choice["logprobs"] == {
        "tokens": ["<s>", "Hello", " ", "a", " love"],
        "token_logprobs": [None, -0.25, -0.5, -0.75, -0.5],
        "top_logprobs": [
            None,
            {"Hello": -0.25, chr(4322): -1.25},
            {" ": -0.5, "!": -1.5},
            {"a": -0.75, "b": -1.75},
            {" love": -0.5, " code": -1.5},
        ],
        "text_offset": [0, 0, 5, 6, 7],
    }


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_0_with_echo_is_about_the_prompt_alone(http: httpx.Client, stream: bool) -> None:
    body = {"prompt": [[97, 98], "c"], "echo": True, "logprobs": 0, "max_tokens": 0}
    body |= {"stream": stream, "stream_options": {"include_usage": True}}
    response = http.post(COMPLETIONS, json=body)
    if stream:
        *chunks, last = sse_events(response)
        choices, usage = [chunk["choices"][0] for chunk in chunks], last["usage"]
    else:
        choices, usage = response.json()["choices"], response.json()["usage"]
    assert [choice["text"] for choice in choices] == ["ab", "c"]
    assert [choice["logprobs"]["tokens"] for choice in choices] == [["a", "b"], ["<s>", "c"]]
    assert [choice["logprobs"]["token_logprobs"] for choice in choices] == [[None, -0.25]] * 2
    assert [choice["logprobs"]["text_offset"] for choice in choices] == [[0, 1], [0, 0]]
    assert [choice["finish_reason"] for choice in choices] == ["length"] * 2
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_0_with_echo_alone_answers_with_the_prompt(
    http: httpx.Client, stream: bool
) -> None:
    body = {"prompt": "ab", "echo": True, "max_tokens": 0, "n": 2, "stream": stream}
    response = http.post(COMPLETIONS, json=body)
    events = sse_events(response) if stream else [response.json()]
    choices = [choice for event in events for choice in event["choices"]]
    assert [choice["text"] for choice in choices] == ["ab", "ab"]
    assert [choice["finish_reason"] for choice in choices] == ["length", "length"]
    assert [choice["logprobs"] for choice in choices] == [None, None]


def test_max_tokens_0_without_echo_is_refused(http: httpx.Client) -> None:
    response = http.post(COMPLETIONS, json={"prompt": "ab", "max_tokens": 0})
    assert response.status_code == 422
    assert "`max_tokens` must be > 0" in response.json()["error"]["message"]


def test_a_streams_echo_carries_the_prompts_logprobs_before_any_token(
    make_server: MakeServer,
) -> None:
    server = make_server(one_token)
    body = {"prompt": ["ab", "c"], "n": 2, "echo": True, "logprobs": 1, "max_tokens": 1}
    response = httpx.post(server.url + COMPLETIONS, json={**body, "stream": True})
    choices = [chunk["choices"][0] for chunk in sse_events(response)]
    echoes, tokens = choices[:4], choices[4:]
    assert [choice["index"] for choice in echoes] == [0, 1, 2, 3]
    assert [choice["text"] for choice in echoes] == ["ab", "ab", "c", "c"]
    scored = [[None, -0.25, -0.5]] * 2 + [[None, -0.25]] * 2
    assert [choice["logprobs"]["token_logprobs"] for choice in echoes] == scored
    assert sorted(choice["index"] for choice in tokens) == [0, 1, 2, 3]
    by_index = {choice["index"]: choice["logprobs"]["text_offset"] for choice in tokens}
    assert by_index == {0: [2], 1: [2], 2: [1], 3: [1]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_prompts_logprobs_are_written_in_a_worker(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch, stream: bool, max_tokens: int
) -> None:
    pool = _WatchedPool()
    server = make_server(one_token, text=dataclasses.replace(TOOLS, pool=pool))
    in_worker: list[bool] = []
    of_prompt = Echo.logprobs

    def logprobs(echo: Echo) -> Any:
        in_worker.append(pool.is_running)
        return of_prompt(echo)

    monkeypatch.setattr(Echo, "logprobs", logprobs)
    body = {"prompt": ["ab", "c"], "echo": True, "logprobs": 1, "max_tokens": max_tokens}
    httpx.post(server.url + COMPLETIONS, json={**body, "stream": stream}).raise_for_status()
    assert in_worker == [True, True]


class _WatchedPool(FakePool):
    """Knows whether a job of its runs."""

    is_running = False

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self.is_running = True
        try:
            return await super().run(function, *args, **kwargs)
        finally:
            self.is_running = False


def test_whole_choices_of_one_prompt_share_its_scores(make_server: MakeServer) -> None:
    server = make_server(one_token)
    body = {"prompt": ["ab", "c"], "n": 2, "echo": True, "logprobs": 1, "max_tokens": 1}
    choices = httpx.post(server.url + COMPLETIONS, json=body).json()["choices"]
    lengths = [len(choice["logprobs"]["tokens"]) for choice in choices]
    assert lengths == [4, 4, 3, 3]
    scored = [submit.prompt_logprobs for submit in submits(server)]
    assert scored == [True, False, True, False]


def test_offsets_count_characters_and_not_bytes(http: httpx.Client) -> None:
    body = {"prompt": "é☺a", "echo": True, "logprobs": 0, "max_tokens": 0}
    logprobs = http.post(COMPLETIONS, json=body).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["<s>", "é", "☺", "a"]
    assert logprobs["text_offset"] == [0, 0, 1, 2]
