"""Clients that send slowly, too much, or not at all: bounded, and nobody else is touched."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.adversity.raw_http import RawConnection, connect, get, post, post_json
from tests.conftest import MakeServer, RunningServer, running_servers
from tests.fake_engine import FakeToken
from tgi_llamacpp.messages import Submit
from tgi_llamacpp.router.connection_limits import BoundedProtocol, ConnectionLimits

QUICK = ConnectionLimits(
    head_timeout_s=0.4,
    body_timeout_s=0.4,
    min_body_rate=1_000_000,
    drain_timeout_s=0.4,
    idle_timeout_s=0.8,
    max_connections=8,
)
HTTP = partial(BoundedProtocol, limits=QUICK)
BODY = b'{"inputs": "a"}'


@pytest.fixture(scope="module")
def quick() -> Iterator[RunningServer]:
    with running_servers() as make:
        yield make(http=HTTP)


def nothing(submit: Submit) -> list[FakeToken]:
    """An engine that has this sequence run, and gives no token."""
    return []


def assert_serves(server: RunningServer) -> None:
    with connect(server.url) as client:
        client.send(post("/generate", BODY))
        assert client.answer().status == 200


def test_a_client_that_says_nothing_is_dropped(quick: RunningServer) -> None:
    with connect(quick.url) as client:
        assert client.is_closed_within(10)


@pytest.mark.parametrize(
    "begin", [b"G", b"POST /generate HTTP/1.1\r\n", b"POST /generate HTTP/1.1\r\nhost: x\r\na: b"]
)
def test_a_head_that_does_not_end_is_answered_with_408(quick: RunningServer, begin: bytes) -> None:
    with connect(quick.url) as client:
        client.send(begin)
        answer = client.answer()
        assert (answer.status, answer.body) == (408, b"Request Timeout")
        assert "connection: close" in answer.head
        assert client.is_closed_within(10)
    assert_serves(quick)


def test_a_body_that_does_not_end_is_answered_with_408(quick: RunningServer) -> None:
    with connect(quick.url) as client:
        client.send(post("/generate", BODY)[:-3])
        assert client.answer().status == 408
        assert client.is_closed_within(10)
    assert_serves(quick)


def test_a_body_that_was_refused_may_not_go_on_for_ever(quick: RunningServer) -> None:
    with connect(quick.url) as client:
        client.send(b"POST /nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        assert client.answer().status == 404
        client.send_until_closed(b"10000\r\n" + b"a" * 0x10000 + b"\r\n", 1 << 40)
    assert_serves(quick)


@pytest.mark.parametrize(
    ("path", "status"), [("/nothing", 404), ("/health", 405), ("/generate", 413)]
)
def test_an_answer_before_the_end_of_a_large_body_is_not_lost(
    make_server: MakeServer, path: str, status: int
) -> None:
    """Nor where the client wants the connection closed behind it."""
    with connect(make_server().url) as client:
        client.send(post(path, b"a" * 8_000_000, "connection: close"))
        assert client.answer().status == status
        assert client.is_closed_within(4)


def test_a_body_that_was_refused_may_not_go_on_before_the_close_either(
    quick: RunningServer,
) -> None:
    with connect(quick.url) as client:
        client.send(post("/nothing", BODY, "connection: close")[:-3])
        assert client.answer().status == 404
        assert client.is_closed_within(10)
    assert_serves(quick)


def test_a_blank_line_between_requests_does_not_keep_a_connection(quick: RunningServer) -> None:
    with connect(quick.url) as client:
        client.send(get("/health"))
        assert client.answer().status == 200
        client.send(b"\r\n")
        assert client.is_closed_within(10)


def test_a_request_that_is_long_in_the_making_is_not_timed(make_server: MakeServer) -> None:
    server = make_server(nothing, http=HTTP)
    with connect(server.url) as client:
        client.send(post_json("/generate_stream", {"inputs": "a"}))
        assert not client.is_closed_within(1.5)


@pytest.mark.parametrize(
    "junk",
    [
        b"a: " + b"b" * 100_000 + b"\r\n\r\n",
        b"".join(b"a%d: b\r\n" % number for number in range(20_000)) + b"\r\n",
        b"a: " + b"b" * 1_000_000,
        b"a" * 1_000_000,
    ],
    ids=["a long value", "many", "a value without end", "a name without end"],
)
def test_a_head_that_is_too_long_is_refused(quick: RunningServer, junk: bytes) -> None:
    with connect(quick.url) as client:
        client.send_until_closed(b"GET /health HTTP/1.1\r\n" + junk, 1)
        assert client.answer().status == 431
        assert client.is_closed_within(10)
    assert_serves(quick)


def test_a_url_without_end_is_refused(quick: RunningServer) -> None:
    with connect(quick.url) as client:
        client.send_until_closed(b"GET /" + b"a" * 500_000, 1)
        assert client.answer().status == 431


def test_trailers_are_passed_over(quick: RunningServer) -> None:
    with connect(quick.url) as client:
        client.send(
            b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
        )
        client.send(b"authorization: Bearer x\r\n" * 100 + b"\r\n")
        assert client.answer().status == 200


def test_one_connection_too_many_costs_the_one_that_is_idle_longest(quick: RunningServer) -> None:
    with ExitStack() as stack:
        opened = []
        for _ in range(QUICK.max_connections + 1):
            opened.append(stack.enter_context(connect(quick.url)))
            opened[-1].send(get("/health"))
            assert opened[-1].answer().status == 200
        assert opened[0].is_closed_within(0.5)
        opened[-1].send(get("/health"))
        assert opened[-1].answer().status == 200


def test_a_connection_that_is_closed_and_not_gone_is_no_room(quick: RunningServer) -> None:
    with ExitStack() as stack:
        opened = []
        for _ in range(QUICK.max_connections):
            opened.append(stack.enter_context(connect(quick.url)))
            opened[-1].send(get("/health"))
            assert opened[-1].answer().status == 200
        quick.do(lambda: leave_unread(quick, opened[0]))
        newcomers = [stack.enter_context(connect(quick.url)) for _ in range(2)]
        assert opened[1].is_closed_within(0.5)
        for newcomer in newcomers:
            newcomer.send(get("/health"))
            assert newcomer.answer().status == 200


def leave_unread(server: RunningServer, client: RawConnection) -> None:
    """Close the server's end of a connection with so much on its way that it stays."""
    for one in server.connections:
        if one.client == client.sock.getsockname():
            one.transport.write(bytes(1 << 25))
            one.transport.close()


def test_what_runs_is_not_cut_off_for_another_connection(make_server: MakeServer) -> None:
    server = make_server(nothing, http=HTTP, limits={"max_concurrent_requests": 64})
    with ExitStack() as stack:
        streams = [stack.enter_context(connect(server.url)) for _ in range(QUICK.max_connections)]
        for stream in streams:
            stream.send(post_json("/generate", {"inputs": "a"}))
        server.call(server.engine.wait_for(Submit, len(streams)))
        one_too_many = stack.enter_context(connect(server.url))
        assert one_too_many.answer().status == 503
        for stream in streams:
            assert not stream.is_closed_within(0.02)


def test_garbage_behind_a_request_never_comes_into_its_answer(quick: RunningServer) -> None:
    with connect(quick.url) as client:
        client.send(post("/generate", BODY) + b"\x00\xff garbage\r\n\r\n")
        assert client.is_closed_within(10)
    assert_serves(quick)


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1e3\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\na b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\na: b\x00c\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_a_400(quick: RunningServer, head: bytes) -> None:
    with connect(quick.url) as client:
        client.send(head)
        assert client.answer().status == 400
        assert client.is_closed_within(10)
    assert_serves(quick)


def test_a_connection_that_is_gone_leaves_nothing_to_the_garbage_collector(
    make_server: MakeServer,
) -> None:
    made: list[weakref.ref[BoundedProtocol]] = []

    def http(*args: Any, **kwargs: Any) -> BoundedProtocol:
        protocol = BoundedProtocol(*args, **kwargs)
        made.append(weakref.ref(protocol))
        return protocol

    server = make_server(http=http)
    gc.disable()
    try:
        for request in (
            post("/generate", BODY),
            post("/generate", BODY, "connection: close"),
            post("/nothing", b"a" * 1_000_000, "connection: close"),
        ):
            with connect(server.url) as client:
                client.send(request)
                client.answer()
        deadline_s = time.monotonic() + 10
        while any(one() is not None for one in made) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert [one() for one in made] == [None] * len(made)
    finally:
        gc.enable()
