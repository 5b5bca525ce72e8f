import json
import socket
from collections.abc import Callable

import pytest

from tests.conftest import MakeServer, RunningServer
from tests.fake_engine import FakeToken
from tgi_llamacpp.messages import Abort, Submit

HI = [{"role": "user", "content": "hi"}]
REQUESTS = {
    "/generate": {"inputs": "a"},
    "/generate_stream": {"inputs": "a"},
    "/": {"inputs": "a", "stream": True},
    "/v1/chat/completions": {"messages": HI, "n": 2},
    "/v1/completions": {"prompt": ["a", "b"], "stream": True},
    "/vertex": {"instances": [{"inputs": "a"}, {"inputs": "b"}]},
}


def _silence(submit: Submit) -> list[FakeToken]:
    return []


def _endless(submit: Submit) -> list[FakeToken]:
    return [FakeToken(5360)] * 1_000_000


def _send(server: RunningServer, route: str) -> socket.socket:
    body = json.dumps(REQUESTS[route]).encode()
    head = (
        f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(head.encode() + body)
    return client


def _expect_abort(server: RunningServer, num_sequences: int) -> None:
    """Every submitted sequence is aborted, and its permit is free again."""
    submits = server.call(server.engine.wait_for(Submit, num_sequences))
    aborted: set[int] = set()
    num_frames = 0
    while len(aborted) < num_sequences:
        num_frames += 1
        frames = server.call(server.engine.wait_for(Abort, num_frames))
        aborted.update(*(frame.seq_ids for frame in frames if isinstance(frame, Abort)))
    assert aborted == {submit.seq_id for submit in submits if isinstance(submit, Submit)}
    assert server.do(lambda: server.client.num_open) == 0
    assert server.do(lambda: server.app.state.services.permits.num_used) == 0


@pytest.mark.parametrize("route", REQUESTS)
def test_a_client_that_hangs_up_while_queued_frees_its_place(
    make_server: MakeServer, route: str
) -> None:
    server = make_server(_silence)
    num_sequences = 2 if route.startswith(("/v1", "/vertex")) else 1
    client = _send(server, route)
    server.call(server.engine.wait_for(Submit, num_sequences))
    client.close()
    _expect_abort(server, num_sequences)


@pytest.mark.parametrize("route", ["/generate", "/generate_stream", "/v1/chat/completions"])
def test_a_client_that_hangs_up_while_decoding_frees_its_slot_at_once(
    make_server: MakeServer, route: str
) -> None:
    server = make_server(_endless)
    server.engine.is_auto = False
    num_sequences = 2 if route.startswith("/v1") else 1
    client = _send(server, route)
    server.call(server.engine.wait_for(Submit, num_sequences))
    for _ in range(3):
        server.do(server.engine.step)
    client.close()
    _expect_abort(server, num_sequences)


def test_a_dropped_request_is_counted_as_dropped(make_server: MakeServer) -> None:
    server = make_server(_silence)
    client = _send(server, "/generate")
    server.call(server.engine.wait_for(Submit))
    client.close()
    _expect_abort(server, 1)
    render: Callable[[], str] = lambda: server.app.state.services.metrics.render(None)  # noqa: E731
    assert 'tgi_request_failure{err="dropped"} 1' in server.do(render)


def test_a_client_that_does_not_read_holds_up_nobody_else(make_server: MakeServer) -> None:
    server = make_server(_endless, limits={"max_total_tokens": 4000})
    slow = _send(server, "/generate_stream")
    server.call(server.engine.wait_for(Submit))
    quick = _send(server, "/generate_stream")
    quick.settimeout(20)
    text = b""
    while text.count(b"data: ") < 1000:
        text += quick.recv(65536)
    quick.close()
    slow.close()
    _expect_abort(server, 2)
