"""A client that does not take its stream is cut by two rules, and holds up nobody."""

from __future__ import annotations

import json
import select
import socket

from tests.conftest import MakeServer
from tests.fake_engine import FakeToken
from tgi_llamacpp.messages import Abort, Submit
from tgi_llamacpp.router import http_server


def _endless(submit: Submit) -> list[FakeToken]:
    return [FakeToken(5360)] * 500_000


def test_a_stream_is_cut_when_too_many_tokens_wait_for_its_client(make_server: MakeServer) -> None:
    limits = {"max_total_tokens": 500_000}
    server = make_server(_endless, limits=limits)
    body = b'{"inputs":"a","parameters":{"max_new_tokens":400000}}'
    head = (
        "POST /generate_stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", server.port))
        client.sendall(head.encode() + body)
        server.call(server.engine.wait_for(Abort))
        assert server.do(lambda: server.client.num_open) == 0
        render = server.app.state.services.metrics.render
        assert "\ntgi_llamacpp_slow_readers 1\n" in server.do(lambda: render(None))
        answer = b""
        while data := client.recv(1 << 20):  # it reads after all
            answer = answer[-1000:] + data
    assert answer.endswith(b"0\r\n\r\n")
    *_, last = (line for line in answer.split(b"\n") if line.startswith(b"data:"))
    assert json.loads(last.removeprefix(b"data:")) == {
        "error": "More than 4096 tokens waited for the client to read them",
        "error_type": "slow_reader",
    }


def test_a_connection_ends_whose_client_takes_nothing_for_half_a_minute() -> None:
    with http_server.bind("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            server_side, _ = listener.accept()
            with server_side:
                _fill(server_side)
                poller = select.poll()
                poller.register(server_side, select.POLLERR)
                assert poller.poll(20_000)
                error = server_side.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                assert isinstance(OSError(error, ""), TimeoutError)


def _fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass
