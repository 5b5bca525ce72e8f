import contextlib
import select
import socket
import threading

import httpx
import pytest

from tests.conftest import MakeServer, RunningServer, sse_events
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


def test_a_refusal_says_when_there_will_be_room(make_server: MakeServer) -> None:
    server = make_server(_silence, limits={"max_concurrent_requests": 8})
    engine, permits = server.engine, server.app.state.services.permits
    server.do(lambda: engine.send_stats(num_running=8, num_steps=1, num_tokens_ahead=2000))
    wait_for_steps(server, 1)
    server.client.forecast._tokens_per_s = 50.0
    with permits.hold(8):
        for path, body in (("/generate", {"inputs": "a"}), ("/v1/completions", {"prompt": "a"})):
            refused = httpx.post(server.url + path, json=body)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "5"  # an eighth of them has to end


def wait_for_steps(server: RunningServer, num_steps: int) -> None:
    while f"\ntgi_llamacpp_steps {num_steps}\n" not in httpx.get(f"{server.url}/metrics").text:
        pass


def test_bodies_that_are_being_read_are_bounded_all_together(make_server: MakeServer) -> None:
    server = make_server(limits={"payload_limit": 100_000})
    bodies = server.app.state.services.bodies
    head = (
        b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 90000\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(60)
        ]
        for sock in sockets:
            sock.sendall(head + b"[" * 80_000)
        answered, _, _ = select.select(sockets, [], [], 20)
        answer = answered[0].recv(65536)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1\r\n" in answer
        assert 0 < bodies.num_used <= bodies.max_bytes
    while server.do(lambda: bodies.num_used):
        pass
    assert httpx.post(f"{server.url}/generate", json={"inputs": "a"}).status_code == 200


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
