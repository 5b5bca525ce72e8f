import threading

import httpx
import pytest

from tests.conftest import MakeServer, sse_events
from tests.fake_engine import FakeToken
from tgi_llamacpp.messages import Finish, Submit

HI = [{"role": "user", "content": "hi"}]


def _silence(submit: Submit) -> list[FakeToken]:
    return []


def test_one_generation_too_many_is_refused_at_once(make_server: MakeServer) -> None:
    server = make_server(limits={"max_concurrent_requests": 2})
    server.engine.is_auto = False
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{server.url}/generate", json={"inputs": "a"}, timeout=20))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    server.call(server.engine.wait_for(Submit, 2))
    with httpx.Client(base_url=server.url) as client:
        refused = client.post("/generate", json={"inputs": "a"})
        assert refused.status_code == 429
        assert refused.text == '{"error":"Model is overloaded","error_type":"overloaded"}'
        (event,) = sse_events(client.post("/generate_stream", json={"inputs": "a"}))
        assert event == {"error": "Model is overloaded", "error_type": "overloaded"}
        for stream in (False, True):
            chat = client.post("/v1/chat/completions", json={"messages": HI, "stream": stream})
            assert chat.status_code == 429
            assert chat.json()["error"]["code"] == "rate_limit_exceeded"
            assert chat.json()["error_type"] == "overloaded"
        server.engine.is_auto = True
        server.do(server.engine._has_work.set)
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.post("/generate", json={"inputs": "a"}).status_code == 200


def test_overload_comes_before_validation_as_in_tgi(make_server: MakeServer) -> None:
    server = make_server(limits={"max_concurrent_requests": 1})
    body = {"inputs": "", "parameters": {"best_of": 2}}
    assert httpx.post(f"{server.url}/generate", json=body).status_code == 429


def test_overload_comes_before_the_chat_template_is_rendered(make_server: MakeServer) -> None:
    server = make_server(limits={"max_concurrent_requests": 1})
    url = server.url + "/v1/chat/completions"
    complained_of = {"messages": [{"role": "wrong", "content": ""}]}
    with server.app.state.services.permits.hold(1):
        assert httpx.post(url, json=complained_of).status_code == 429
    assert httpx.post(url, json=complained_of).status_code == 422
    assert server.app.state.services.permits.num_used == 0


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/generate", {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}),
        ("/v1/chat/completions", {"messages": HI, "n": 2}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
    ],
)
def test_every_sequence_takes_a_permit_or_none_does(
    make_server: MakeServer, route: str, body: dict[str, object]
) -> None:
    server = make_server(limits={"max_concurrent_requests": 2})
    permits = server.app.state.services.permits
    assert httpx.post(server.url + route, json=body).status_code == 200
    with permits.hold(1):
        assert httpx.post(server.url + route, json=body).status_code == 429
    assert permits.num_used == 0


def test_a_request_that_fails_gives_its_permit_back(make_server: MakeServer) -> None:
    server = make_server(lambda submit: [FakeToken(5360), FakeToken(304, finish=Finish.LENGTH)])
    for body in ({"inputs": ""}, {"inputs": "a" * 3000}):
        assert httpx.post(f"{server.url}/generate", json=body).status_code == 422
    assert server.app.state.services.permits.num_used == 0
