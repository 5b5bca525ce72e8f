"""Clients that offer another protocol with a request, as Java's HttpClient offers HTTP/2 (h2c).

A server may decline by answering in HTTP/1.1, which TGI does; it must not lose the request's body.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import RunningServer
from tests.server_process import PATIENCE_S

BODY = json.dumps({"inputs": "I", "parameters": {"max_new_tokens": 8}})
ANSWER = {"generated_text": " love to code"}
H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def url(shared_server: RunningServer) -> str:
    """Of a router behind the protocol that the program serves with."""
    return shared_server.url


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
def test_the_body_is_read_and_the_connection_goes_on(url: str, upgrade: str) -> None:
    headers = H2C | JSON | {"Upgrade": upgrade}
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        for _ in range(3):
            answer = client.post("/generate", content=BODY, headers=headers)
            assert answer.http_version == "HTTP/1.1"
            assert answer.json() == ANSWER
        assert client.get("/health", headers=H2C).status_code == 200


def test_a_body_in_chunks_is_read_too(url: str) -> None:
    pieces = iter([BODY[:10].encode(), BODY[10:].encode()])
    answer = httpx.post(f"{url}/generate", content=pieces, headers=H2C | JSON, timeout=PATIENCE_S)
    assert answer.json() == ANSWER


@pytest.mark.parametrize("cut", [20, 150, -10, None])
def test_it_may_arrive_in_any_pieces_with_another_request_behind_it(
    url: str, cut: int | None
) -> None:
    head = "".join(
        f"{name}: {value}\r\n"
        for name, value in (H2C | JSON | {"Host": "a", "Content-Length": len(BODY)}).items()
    )
    sent = f"POST /generate HTTP/1.1\r\n{head}\r\n{BODY}".encode()
    last = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), PATIENCE_S) as connection:
        for piece in [sent + last] if cut is None else [sent[:cut], sent[cut:], last]:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(piece)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert json.dumps(ANSWER, separators=(",", ":")).encode() in received


def test_many_offers_in_one_piece_are_each_declined(url: str) -> None:
    request = b"GET /health HTTP/1.1\r\nHost:a\r\nUpgrade:a\r\nConnection:upgrade%b\r\n\r\n"
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), PATIENCE_S) as connection:
        connection.sendall(request % b"" * 1500 + request % b",close")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 1501


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_may_ask_for_http2(url: str) -> None:
    command = ["curl", "-sS", "--http2", f"{url}/generate", "-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*command, "-d", BODY], capture_output=True, timeout=PATIENCE_S, check=True
    )
    assert json.loads(done.stdout) == ANSWER


def test_the_connection_may_be_the_last(url: str) -> None:
    for version, connection in (("1.1", "upgrade, close"), ("1.0", "upgrade")):
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), PATIENCE_S) as sock:
            head = f"POST /generate HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n"
            head += "Upgrade: h2c\r\nContent-Type: application/json\r\n"
            sock.sendall(f"{head}Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode())
            received = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))
        assert received.endswith(json.dumps(ANSWER, separators=(",", ":")).encode())


def test_a_tunnel_is_not_opened(url: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), PATIENCE_S) as connection:
        connection.sendall(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 40")
