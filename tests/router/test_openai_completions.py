import re

import httpx
import numpy as np
import pytest

from tests.conftest import MakeServer, sse_data, sse_events
from tests.fake_engine import FakeToken
from tests.fake_text import EOS
from tgi_llamacpp.messages import Finish, Submit
from tgi_llamacpp.router.sampling import sequence_seed

PATH = "/v1/completions"


def _submits(server: object) -> list[Submit]:
    return [m for m in server.engine.received if isinstance(m, Submit)]


def test_a_prompt_is_completed(http: httpx.Client) -> None:
    response = http.post(PATH, json={"prompt": "hi"})
    answer = response.json()
    assert re.fullmatch(r"cmpl-[0-9a-f]{24}", answer["id"])
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"index": 0, "text": " love to code", "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert "x-compute-time" not in response.headers
    assert response.headers["x-generated-tokens"] == "4"


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [[1, 97, 98]]),
        (["a", "b"], [[1, 97], [1, 98]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
)
def test_prompts_are_texts_or_token_ids(
    make_server: MakeServer, prompt: object, ids: list[list[int]]
) -> None:
    server = make_server()
    answer = httpx.post(server.url + PATH, json={"prompt": prompt}).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(ids)))
    sent = [np.frombuffer(submit.prompt_ids, np.int32).tolist() for submit in _submits(server)]
    assert sent == ids
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))


def test_choices_are_in_the_order_of_prompts_then_n(make_server: MakeServer) -> None:
    server = make_server()
    body = {"prompt": ["a", "bc"], "n": 2, "seed": 3}
    answer = httpx.post(server.url + PATH, json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 2 + 3
    seeds = [submit.params.seed for submit in _submits(server)]
    assert seeds == [sequence_seed(3, choice) for choice in (0, 1, 0, 1)]
    # An engine at rest awaits the last of them.
    assert [submit.more_follow for submit in _submits(server)] == [True, True, True, False]


def test_a_stream_interleaves_the_prompts_and_ends_once(http: httpx.Client) -> None:
    body = {"prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    response = http.post(PATH, json=body)
    data = sse_data(response)
    assert data.count("[DONE]") == 1
    assert data[-1] == "[DONE]"
    *chunks, usage = sse_events(response)
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == " love to code"
        assert [choice["finish_reason"] for choice in mine] == [None, None, None, "stop"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8


def test_echo_puts_the_prompt_before_the_text(http: httpx.Client) -> None:
    body = {"prompt": ["I", [97, 98]], "echo": True}
    texts = [choice["text"] for choice in http.post(PATH, json=body).json()["choices"]]
    assert texts == ["I love to code", "ab love to code"]
    chunks = sse_events(http.post(PATH, json={**body, "stream": True}))
    of_first = [c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == 0]
    assert "".join(of_first) == "I love to code"


def _with_tops(submit: Submit) -> list[FakeToken]:
    tops = [(5360, -0.5), (775, -1.5)][: submit.params.num_top_tokens]
    return [FakeToken(5360, -0.5, tops=tops), FakeToken(304, -0.25, Finish.LENGTH, tops)]


def test_logprobs_have_the_old_form(make_server: MakeServer) -> None:
    server = make_server(_with_tops)
    answer = httpx.post(server.url + PATH, json={"prompt": "a", "logprobs": 2}).json()
    expected = {
        "tokens": [" love", " to"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{" love": -0.5, " code": -1.5}] * 2,
        "text_offset": [0, 5],
    }
    assert answer["choices"][0]["logprobs"] == expected
    body = {"prompt": "a", "logprobs": 2, "stream": True}
    chunks = sse_events(httpx.post(server.url + PATH, json=body))
    logprobs = [c["choices"][0]["logprobs"] for c in chunks]
    assert [p["text_offset"] for p in logprobs] == [[0], [5]]
    assert logprobs[1]["tokens"] == [" to"]


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_pass_over_end_tokens_that_show_no_text(
    make_server: MakeServer, stream: bool
) -> None:
    server = make_server(lambda submit: [FakeToken(EOS), *_with_tops(submit)])
    body = {"prompt": "a", "logprobs": 0, "ignore_eos": True, "stream": stream}
    response = httpx.post(server.url + PATH, json=body)
    answers = sse_events(response) if stream else [response.json()]
    choices = [answer["choices"][0] for answer in answers]
    assert "".join(choice["text"] for choice in choices) == " love to"
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    assert offsets == [0, 0, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_are_counted_once_for_each_prompt(
    make_server: MakeServer, stream: bool
) -> None:
    server = make_server()

    def script(submit: Submit) -> list[FakeToken]:
        server.client._open[submit.seq_id].num_cached_tokens = submit.seq_id % 2 + 1
        return [FakeToken(5360, finish=Finish.LENGTH)]

    server.engine.script = script
    body = {"prompt": ["abc", "def"], "n": 2, "stream": stream}
    body["stream_options"] = {"include_usage": True}
    response = httpx.post(server.url + PATH, json=body)
    usage = (sse_events(response)[-1] if stream else response.json())["usage"]
    assert usage["prompt_tokens"] == 8
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}  # of sequences 1 and 3
    assert usage["completion_tokens"] == 4


def _as_likely_as_the_prompt_says(submit: Submit) -> list[FakeToken]:
    """Sequences get likelier one by one; what is longer is worse in sum and better in mean."""
    length = submit.seq_id
    tokens = [FakeToken(ord("0") + length, -1.0 / length) for _ in range(length)]
    return [*tokens[:-1], FakeToken(tokens[-1].id, -1.0 / length, Finish.LENGTH)]


def test_best_of_answers_with_the_likeliest_by_mean_and_counts_all(
    make_server: MakeServer,
) -> None:
    server = make_server(_as_likely_as_the_prompt_says)
    body = {"prompt": ["a", "b"], "n": 2, "best_of": 3, "echo": True, "seed": 7}
    answer = httpx.post(server.url + PATH, json=body).json()
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == ["a333", "a22", "b666666", "b55555"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 1 + 2 + 3 + 4 + 5 + 6
    seeds = [submit.params.seed for submit in _submits(server)]
    assert seeds == [sequence_seed(7, choice) for choice in (0, 1, 2)] * 2


def test_best_of_is_streamed_only_where_it_chooses_nothing(http: httpx.Client) -> None:
    body = {"prompt": "a", "n": 2, "best_of": 2, "stream": True}
    assert len(sse_events(http.post(PATH, json=body))) == 8
    refused = http.post(PATH, json={**body, "best_of": 3})
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "best_of"
    assert "cannot be streamed" in refused.json()["error"]["message"]


def test_a_stop_string_is_cut(http: httpx.Client) -> None:
    answer = http.post(PATH, json={"prompt": "a", "stop": " code"}).json()
    assert answer["choices"][0]["text"] == " love to"
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "error", "error_type"),
    [
        (
            {"prompt": "a", "suffix": ""},
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
            "suffix not supported",
        ),
        (
            {"prompt": ["a"] * 5},
            "Number of prompts exceeds the maximum allowed batch size of 4",
            "batch size exceeded",
        ),
    ],
)
def test_tgis_own_errors_of_this_route(
    http: httpx.Client, body: dict[str, object], error: str, error_type: str
) -> None:
    response = http.post(PATH, json=body)
    assert response.status_code == 422
    assert response.json()["error"]["message"] == error
    assert response.json()["error_type"] == error_type
