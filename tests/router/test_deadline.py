"""X-Request-Timeout: past it a request ends with what it has, or with a 503."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.conftest import MakeServer, RunningServer, sse_data, sse_events
from tests.fake_engine import FakeToken
from tgi_llamacpp.messages import Abort, Submit

HI = [{"role": "user", "content": "hi"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/generate": {"inputs": "a", "parameters": {"details": True}},
    "/generate_stream": {"inputs": "a", "parameters": {"details": True}},
    "/": {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True, "details": True}},
    "/v1/chat/completions": {"messages": HI, "n": 2, "logprobs": True},
    "/v1/completions": {"prompt": ["a", "b"], "logprobs": 1},
    "/vertex": {"instances": [{"inputs": "a"}]},
}
TIMEOUT_S = 0.3
TIMEOUT = {"X-Request-Timeout": str(TIMEOUT_S)}


def three_tokens(submit: Submit) -> list[FakeToken]:
    """And then nothing more comes."""
    return [FakeToken(5360), FakeToken(304), FakeToken(775)]


def nothing(submit: Submit) -> list[FakeToken]:
    return []


def ask(server: RunningServer, path: str, **more: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=ROUTES[path] | more, headers=TIMEOUT, timeout=20)


def expect_nothing_left(server: RunningServer) -> None:
    server.call(server.engine.wait_for(Abort))
    assert server.do(lambda: server.client.num_open) == 0
    assert server.do(lambda: server.app.state.services.permits.num_used) == 0


def metric(server: RunningServer, line: str) -> bool:
    return f"\n{line}\n" in httpx.get(f"{server.url}/metrics").text


def test_generate_ends_with_the_tokens_that_it_has(make_server: MakeServer) -> None:
    server = make_server(three_tokens)
    answer = ask(server, "/generate")
    assert answer.status_code == 200
    details = answer.json()["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 3)
    assert [token["id"] for token in details["tokens"]] == [5360, 304, 775]
    assert answer.json()["generated_text"] == " love to code"
    expect_nothing_left(server)
    assert metric(server, "tgi_llamacpp_partial_answers 1")
    assert metric(server, "tgi_request_success 1")


def test_a_stream_of_tgi_ends_with_a_special_token_without_text(make_server: MakeServer) -> None:
    server = make_server(three_tokens)
    *tokens, last = sse_events(ask(server, "/generate_stream"))
    assert [event["token"]["id"] for event in tokens] == [5360, 304, 775]
    assert last["token"] == {"id": 2, "text": "", "logprob": 0.0, "special": True}
    assert last["generated_text"] == " love to code"
    assert last["details"]["finish_reason"] == "length"
    assert last["details"]["generated_tokens"] == 3
    expect_nothing_left(server)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_every_choice_of_openai_ends_for_its_length(make_server: MakeServer, path: str) -> None:
    server = make_server(three_tokens)
    answer = ask(server, path).json()
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    assert answer["usage"]["completion_tokens"] == 6
    data = sse_data(ask(server, path, stream=True, stream_options={"include_usage": True}))
    assert data[-1] == "[DONE]"
    chunks = [json.loads(text) for text in data[:-1]]
    ends = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(choice["index"] for choice in ends) == [0, 1]
    assert all(choice["finish_reason"] == "length" for choice in ends)
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    expect_nothing_left(server)


def test_a_choice_without_a_token_is_empty_beside_one_that_has_some(
    make_server: MakeServer,
) -> None:
    served: list[Submit] = []

    def first_alone(submit: Submit) -> list[FakeToken]:
        served.append(submit)
        return three_tokens(submit) if len(served) % 2 else []

    server = make_server(first_alone)
    first, second = ask(server, "/v1/completions").json()["choices"]
    assert (first["text"], first["finish_reason"]) == (" love to code", "length")
    assert (second["text"], second["finish_reason"]) == ("", "length")
    assert second["logprobs"]["tokens"] == []
    (winner,) = ask(server, "/").json()
    assert winner["generated_text"] == "a love to code"
    (other,) = winner["details"]["best_of_sequences"]
    assert (other["generated_tokens"], other["tokens"]) == (0, [])
    expect_nothing_left(server)


@pytest.mark.parametrize("path", ROUTES)
def test_a_request_without_a_token_is_a_503_that_says_why(
    make_server: MakeServer, path: str
) -> None:
    server = make_server(nothing)
    answer = ask(server, path)
    if path == "/generate_stream":
        (event,) = sse_events(answer)
        assert event["error_type"] == "timeout"
    else:
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error_type"] == "timeout"
    assert "No token within the 0.3 s of X-Request-Timeout" in answer.text
    expect_nothing_left(server)
    assert metric(server, 'tgi_request_failure{err="timeout"} 1')


def test_an_answer_in_time_is_as_without_a_limit(make_server: MakeServer) -> None:
    server = make_server()
    timed = httpx.post(
        server.url + "/generate", json={"inputs": "a"}, headers={"X-Request-Timeout": "60"}
    )
    assert timed.json() == httpx.post(server.url + "/generate", json={"inputs": "a"}).json()
    assert metric(server, "tgi_llamacpp_partial_answers 0")


def test_a_scored_prompt_is_shown_whole_or_not_at_all(make_server: MakeServer) -> None:
    server = make_server(three_tokens)
    server.engine.is_auto = False  # nothing is scored
    body = {"prompt": "abc", "echo": True, "logprobs": 0, "max_tokens": 5}
    answer = httpx.post(server.url + "/v1/completions", json=body, headers=TIMEOUT)
    assert answer.status_code == 503


@pytest.mark.parametrize("value", ["", "0", "-1", "nan", "inf", "1e3", "1_0", "86401", "5 s", "é"])
@pytest.mark.parametrize("path", ROUTES)
def test_a_limit_that_is_none_is_refused(http: httpx.Client, path: str, value: str) -> None:
    headers = {"X-Request-Timeout": value.encode("latin-1")}
    answer = http.post(path, json=ROUTES[path], headers=headers)
    assert answer.status_code == 400
    assert "`X-Request-Timeout` must be a number of seconds > 0 and <= 86400" in answer.text
    assert "Given: " in answer.text
