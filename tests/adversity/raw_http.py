"""HTTP as bytes on a socket, for requests that no client library would send."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    head: str
    body: bytes


class RawConnection:
    """One socket to a server. A wait that takes longer than PATIENCE_S fails the test."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.sock = socket.create_connection((parts.hostname, parts.port or 80), PATIENCE_S)
        self._received = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_until_closed(self, chunk: bytes, max_bytes: int) -> int:
        """Send the chunk again and again; how many bytes went before the server had enough."""
        num_sent = 0
        try:
            while num_sent < max_bytes:
                num_sent += self.sock.send(chunk)
        except (ConnectionError, TimeoutError):
            pass
        return num_sent

    def answer(self) -> Answer:
        """The next answer, of one with a length."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        text = head.decode("latin-1")
        length = re.search(r"content-length: (\d+)", text)
        assert length is not None, text
        while len(self._received) < int(length[1]):
            self._receive()
        body, self._received = self._received[: int(length[1])], self._received[int(length[1]) :]
        return Answer(int(text.split()[1]), text, body)

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the server closes, whatever it says before."""
        deadline_s = time.monotonic() + seconds
        while (rest_s := deadline_s - time.monotonic()) > 0:
            self.sock.settimeout(rest_s)
            try:
                if not self.sock.recv(65536):
                    return True
            except TimeoutError:
                return False
            except ConnectionError:
                return True
        return False

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed within an answer")
        self._received += data


@contextlib.contextmanager
def connect(url: str) -> Iterator[RawConnection]:
    connection = RawConnection(url)
    with connection.sock:
        yield connection


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole POST of JSON."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post_json(path: str, value: object) -> bytes:
    return post(path, json.dumps(value).encode())


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: x", *headers, "", ""]).encode("latin-1")
