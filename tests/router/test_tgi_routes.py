import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import MakeServer, sse_events
from tests.fake_engine import FakeToken
from tests.fake_text import EOS
from tgi_llamacpp import __version__
from tgi_llamacpp.messages import Abort, Finish, Submit
from tgi_llamacpp.router.sampling import sequence_seed


def _last_submit(server: Any) -> Submit:
    submits = [m for m in server.engine.received if isinstance(m, Submit)]
    return submits[-1]


def test_generate_answers_text_alone(http: httpx.Client) -> None:
    response = http.post("/generate", json={"inputs": "My name is"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == '{"generated_text":" love to code"}'


def test_generate_tells_where_the_time_went(http: httpx.Client) -> None:
    headers = http.post("/generate", json={"inputs": "été"}).headers
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "3"
    assert headers["x-prompt-tokens"] == "4"
    assert headers["x-generated-tokens"] == "4"
    times = ("total", "validation", "queue", "inference")
    assert all(headers[f"x-{name}-time"].isdigit() for name in times)
    assert headers["x-time-per-token"].isdigit()
    assert 0 < float(headers["x-compute-time"]) < 20
    assert "e" not in headers["x-compute-time"]


def test_the_prompt_reaches_the_engine_as_ids(make_server: MakeServer) -> None:
    server = make_server()
    httpx.post(
        f"{server.url}/generate",
        json={
            "inputs": "abc",
            "parameters": {"truncate": 2, "max_new_tokens": 7, "temperature": 0.5, "seed": 42},
        },
    )
    submit = _last_submit(server)
    assert np.frombuffer(submit.prompt_ids, np.int32).tolist() == [ord("b"), ord("c")]
    assert submit.max_new_tokens == 7
    assert submit.params.temperature == 0.5
    assert submit.params.penalize_prompt
    assert submit.params.seed == sequence_seed(42, 0)
    assert not submit.ignore_eog


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [(None, 1.0), ({}, 0.0), ({"do_sample": True}, 1.0), ({"top_p": 0.5}, 1.0)],
)
def test_sampling_follows_the_two_sets_of_defaults(
    make_server: MakeServer, parameters: dict[str, object] | None, temperature: float
) -> None:
    server = make_server()
    body: dict[str, object] = {"inputs": "a"}
    if parameters is not None:
        body["parameters"] = parameters
    httpx.post(f"{server.url}/generate", json=body)
    assert _last_submit(server).params.temperature == temperature


def test_the_seed_is_reported_where_something_was_drawn(http: httpx.Client) -> None:
    def seed_of(**parameters: object) -> object:
        body = {"inputs": "a", "parameters": {"details": True, **parameters}}
        return http.post("/generate", json=body).json()["details"]["seed"]

    assert seed_of() is None
    assert seed_of(seed=3) is None
    assert seed_of(seed=2**64 - 1, do_sample=True) == 2**64 - 1
    drawn = seed_of(do_sample=True)
    assert isinstance(drawn, int)
    assert drawn != seed_of(do_sample=True)


def test_return_full_text_puts_the_prompt_before(http: httpx.Client) -> None:
    body = {"inputs": "I", "parameters": {"return_full_text": True}}
    assert http.post("/generate", json=body).json() == {"generated_text": "I love to code"}
    events = sse_events(http.post("/generate_stream", json=body))
    assert events[-1]["generated_text"] == "I love to code"
    assert events[0]["token"]["text"] == " love"


@pytest.mark.parametrize(
    ("tag", "text"),
    [(None, "I love to code"), ("text-generation", "I love to code"), ("other", " love to code")],
)
def test_the_compat_route_answers_an_array_and_repeats_the_prompt(
    make_server: MakeServer, tag: str | None, text: str
) -> None:
    server = make_server(pipeline_tag=tag)
    with httpx.Client(base_url=server.url) as client:
        response = client.post("/", json={"inputs": "I"})
        assert response.text == f'[{{"generated_text":"{text}"}}]'
        events = sse_events(client.post("/", json={"inputs": "I", "stream": True}))
        assert events[-1]["generated_text"] == text
        plain = {"inputs": "I", "parameters": {"return_full_text": False}}
        assert client.post("/", json=plain).json() == [{"generated_text": " love to code"}]


def test_a_stream_has_one_event_a_token_and_the_whole_text_in_the_last(
    http: httpx.Client,
) -> None:
    body = {"inputs": "I", "parameters": {"details": True}}
    response = http.post("/generate_stream", json=body)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "x-total-time" not in response.headers
    events = sse_events(response)
    assert [event["index"] for event in events] == [1, 2, 3, 4]
    assert [event["token"]["text"] for event in events] == [" love", " to", " code", "</s>"]
    assert [event["token"]["special"] for event in events] == [False, False, False, True]
    assert all(event["generated_text"] is None for event in events[:-1])
    assert events[-1]["generated_text"] == " love to code"
    assert events[-1]["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 4,
        "seed": None,
        "input_length": 2,
    }


def test_a_stop_string_stays_in_the_text_and_frees_the_slot(make_server: MakeServer) -> None:
    server = make_server()
    body = {"inputs": "I", "parameters": {"stop": ["ove t"], "details": True}}
    for route in ("/generate", "/generate_stream"):
        server.engine.received.clear()
        response = httpx.post(f"{server.url}{route}", json=body)
        answer = response.json() if route == "/generate" else sse_events(response)[-1]
        assert answer["generated_text"] == " love t"
        assert answer["details"]["finish_reason"] == "stop_sequence"
        assert answer["details"]["generated_tokens"] == 2
        submit = _last_submit(server)
        assert server.call(server.engine.wait_for(Abort)) == [Abort([submit.seq_id])]


def test_tokens_add_up_to_the_text_when_a_stop_string_cuts_one(http: httpx.Client) -> None:
    body = {"inputs": "I", "parameters": {"stop": ["ove t"], "details": True}}
    answer = http.post("/generate", json=body).json()
    texts = [token["text"] for token in answer["details"]["tokens"]]
    assert texts == [" love", " t"]
    assert "".join(texts) == answer["generated_text"]


def _scores(submit: Submit) -> list[FakeToken]:
    """The first candidate does badly, the second well."""
    logprob = -2.0 if submit.seq_id % 2 else -0.25
    return [
        FakeToken(5360, logprob),
        FakeToken(304 if submit.seq_id % 2 else 775, -0.5, Finish.LENGTH),
    ]


def test_best_of_returns_the_likeliest_and_shows_the_others(make_server: MakeServer) -> None:
    server = make_server(_scores)
    parameters = {"best_of": 2, "do_sample": True, "details": True, "return_full_text": True}
    answer = httpx.post(
        f"{server.url}/generate", json={"inputs": "I", "parameters": parameters}
    ).json()
    assert answer["generated_text"] == "I love code"
    details = answer["details"]
    assert list(details) == [
        "finish_reason",
        "generated_tokens",
        "seed",
        "prefill",
        "tokens",
        "best_of_sequences",
    ]
    (other,) = details["best_of_sequences"]
    assert other["generated_text"] == "I love to"
    assert other["seed"] != details["seed"]
    submits = [m for m in server.engine.received if isinstance(m, Submit)]
    assert {s.params.seed for s in submits} == {
        sequence_seed(details["seed"], 0),
        sequence_seed(other["seed"], 0),
    }


def test_best_of_one_and_zero_are_a_single_sequence(http: httpx.Client) -> None:
    for best_of in (0, 1, None):
        body = {"inputs": "I", "parameters": {"best_of": best_of, "details": True}}
        details = http.post("/generate", json=body).json()["details"]
        assert "best_of_sequences" not in details


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (1, "`best_of` != 1 is not allowed for this endpoint"),
        (2, "`best_of` must be > 0 and <= 2. Given: 3"),
    ],
)
def test_best_of_has_a_limit(make_server: MakeServer, limit: int, error: str) -> None:
    server = make_server(limits={"max_best_of": limit})
    body = {"inputs": "I", "parameters": {"best_of": 3, "do_sample": True}}
    response = httpx.post(f"{server.url}/generate", json=body)
    assert response.status_code == 422
    assert response.json() == {
        "error": f"Input validation error: {error}",
        "error_type": "validation",
    }


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
        ({"temperature": 0}, "`temperature` must be strictly positive"),
    ],
)
def test_errors_of_a_stream_are_events_after_a_200(
    http: httpx.Client, parameters: dict[str, object], error: str
) -> None:
    response = http.post("/generate_stream", json={"inputs": "I", "parameters": parameters})
    assert response.status_code == 200
    assert sse_events(response) == [
        {"error": f"Input validation error: {error}", "error_type": "validation"}
    ]


def _with_tops(submit: Submit) -> list[FakeToken]:
    count = submit.params.num_top_tokens
    tops = [(5360, -0.5), (EOS, -1.5)][:count]
    return [FakeToken(5360, -0.5, tops=tops), FakeToken(304, -0.25, Finish.LENGTH, tops)]


def test_top_tokens_come_with_every_token(make_server: MakeServer) -> None:
    server = make_server(_with_tops)
    body = {"inputs": "I", "parameters": {"top_n_tokens": 2, "details": True}}
    expected = [
        {"id": 5360, "text": " love", "logprob": -0.5, "special": False},
        {"id": 2, "text": "</s>", "logprob": -1.5, "special": True},
    ]
    details = httpx.post(f"{server.url}/generate", json=body).json()["details"]
    assert list(details)[-1] == "top_tokens"
    assert details["top_tokens"] == [expected, expected]
    events = sse_events(httpx.post(f"{server.url}/generate_stream", json=body))
    assert list(events[0]) == ["index", "token", "top_tokens", "generated_text", "details"]
    assert [event["top_tokens"] for event in events] == [expected, expected]


def test_tokenize_gives_byte_offsets_and_special_tokens(http: httpx.Client) -> None:
    body = {"inputs": "é world", "parameters": {"truncate": 1, "top_p": 7}}
    assert http.post("/tokenize", json=body).json() == [
        {"id": 1, "text": "", "start": 0, "stop": 0},
        {"id": 233, "text": "é", "start": 0, "stop": 2},
        {"id": 1526, "text": " world", "start": 2, "stop": 8},
    ]


def test_info_names_every_limit(make_server: MakeServer) -> None:
    server = make_server(model_sha="abc", pipeline_tag="text-generation")
    assert list(httpx.get(f"{server.url}/info").json().items()) == [
        ("model_id", "org/model"),
        ("model_sha", "abc"),
        ("model_pipeline_tag", "text-generation"),
        ("max_concurrent_requests", 8),
        ("max_best_of", 2),
        ("max_stop_sequences", 4),
        ("max_input_tokens", 1024),
        ("max_total_tokens", 2048),
        ("validation_workers", 2),
        ("max_client_batch_size", 4),
        ("router", "text-generation-router"),
        ("version", __version__),
        ("sha", None),
        ("docker_label", None),
    ]


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
def test_health_is_an_empty_200_until_the_engine_is_gone(
    make_server: MakeServer, path: str
) -> None:
    server = make_server()
    response = httpx.get(f"{server.url}{path}")
    assert (response.status_code, response.content) == (200, b"")
    server.client.is_stalled = True
    assert httpx.get(f"{server.url}{path}").status_code == 503
    server.client.is_stalled = False
    assert httpx.get(f"{server.url}{path}").status_code == 200
    server.do(server.engine.die)
    server.call(server.client.wait_closed())
    response = httpx.get(f"{server.url}{path}")
    assert response.status_code == 503
    assert response.text == '{"error":"unhealthy","error_type":"healthcheck"}'


def test_without_an_engine_a_request_says_so(make_server: MakeServer) -> None:
    server = make_server()
    server.do(server.engine.die)
    server.call(server.client.wait_closed())
    response = httpx.post(f"{server.url}/generate", json={"inputs": "I"})
    assert response.status_code == 503
    assert response.json()["error_type"] == "engine_unavailable"
    (event,) = sse_events(httpx.post(f"{server.url}/generate_stream", json={"inputs": "I"}))
    assert event["error_type"] == "engine_unavailable"
    assert server.app.state.services.permits.num_used == 0


def test_large_bodies_are_read_in_pieces_up_to_the_limit(make_server: MakeServer) -> None:
    server = make_server(
        limits={"payload_limit": 100_000, "max_input_tokens": 99_000, "max_total_tokens": 99_999}
    )
    big = json.dumps({"inputs": "a" * 90_000}).encode()
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        chunks = (big[i : i + 7000] for i in range(0, len(big), 7000))
        assert client.post("/generate", content=chunks).status_code == 200
        too_big = json.dumps({"inputs": "a" * 110_000}).encode()
        for body in (too_big, (too_big[i : i + 7000] for i in range(0, len(too_big), 7000))):
            response = client.post("/generate", content=body)
            assert response.status_code == 413
            assert response.text == ("Failed to buffer the request body: length limit exceeded")
