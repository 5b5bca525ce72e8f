"""Clients of HTTP/1.0, such as nginx's default towards what is behind it, and ApacheBench."""

from __future__ import annotations

import json
import re
import socket
from urllib.parse import urlsplit

import pytest

from tests.conftest import RunningServer
from tests.server_process import PATIENCE_S

HI = [{"role": "user", "content": "hi"}]
STREAMS = {
    "/": {"inputs": "a", "stream": True},
    "/generate_stream": {"inputs": "a"},
    "/invocations": {"inputs": "a", "stream": True},
    "/v1/chat/completions": {"messages": HI, "stream": True},
    "/v1/completions": {"prompt": "a", "stream": True},
}


def request(method: str, path: str, body: object, *lines: str, version: str = "1.0") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/{version}", *lines]
    head += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*head, "", ""]).encode() + data


def connect(server: RunningServer) -> socket.socket:
    url = urlsplit(server.url)
    return socket.create_connection((url.hostname or "", url.port or 0), PATIENCE_S)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data


def exchange(server: RunningServer, sent: bytes) -> tuple[str, bytes]:
    """The head, in lower case, and all that comes until the server closes the connection."""
    with connect(server) as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return head.decode().lower(), body


def without_ids(stream: bytes) -> bytes:
    return re.sub(rb'"(id|created|seed)":("[^"]*"|\d+)', rb'"\1":0', stream)


@pytest.mark.parametrize("connection", ["", "keep-alive", "close"])
@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_has_no_chunks_and_ends_with_the_connection(
    shared_server: RunningServer, path: str, connection: str
) -> None:
    lines = [f"Connection: {connection}"] if connection else []
    head, body = exchange(shared_server, request("POST", path, STREAMS[path], *lines))
    assert " 200 " in head
    assert "transfer-encoding" not in head
    assert "connection: close" in head
    assert "keep-alive" not in head
    lines = ["Connection: close", "Host: a"]
    newer = exchange(shared_server, request("POST", path, STREAMS[path], *lines, version="1.1"))
    assert "transfer-encoding: chunked" in newer[0]
    chunks = re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", newer[1], re.DOTALL)
    assert without_ids(body) == without_ids(b"".join(chunks))
    assert body.startswith(b"data: ")
    assert body.endswith(b"\n\n")


def test_the_connection_stays_where_the_client_asks_and_the_length_is_known(
    shared_server: RunningServer,
) -> None:
    sent = request("POST", "/generate", {"inputs": "a"}, "Connection: Keep-Alive")
    with connect(shared_server) as connection:
        for _ in range(3):
            connection.sendall(sent)
            answer = read_until(connection, b'{"generated_text":" love to code"}').lower()
            assert b"connection: keep-alive" in answer
            assert b"content-length: " in answer
        connection.sendall(request("POST", "/generate", {}, "Connection: keep-alive"))
        assert b" 422 " in read_until(connection, b"`inputs` at line 1 column 2")


@pytest.mark.parametrize("lines", [[], ["Connection: close"]])
def test_else_it_ends_after_one_answer(shared_server: RunningServer, lines: list[str]) -> None:
    head, body = exchange(shared_server, request("POST", "/generate", {"inputs": "a"}, *lines))
    assert "connection: close" in head
    assert body == b'{"generated_text":" love to code"}'


def test_head_has_no_body_and_an_expectation_no_answer_of_its_own(
    shared_server: RunningServer,
) -> None:
    assert exchange(shared_server, request("HEAD", "/info", None))[1] == b""
    sent = request("POST", "/generate", {"inputs": "a"}, "Expect: 100-continue")
    assert exchange(shared_server, sent)[0].startswith("http/1.1 200 ")
