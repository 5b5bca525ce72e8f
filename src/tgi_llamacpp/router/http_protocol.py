"""uvicorn's HTTP/1.1, which declines offers of other protocols without losing the request, and
speaks HTTP/1.0 with those who do.

Knows no limits; connection_limits.py adds them.
"""

from __future__ import annotations

import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Http1Protocol(HttpToolsProtocol):
    """HTTP/1.1 whatever else a request offers, such as h2c, which Java's client does every time.

    At an offer httptools ends the request with its head, and leaves the body for the new protocol.
    So the head is read again without the offer, and then what follows it.
    """

    def on_headers_complete(self) -> None:
        """As uvicorn's, which takes HTTP/1.0 for HTTP/1.1 without keep-alive."""
        former = self.cycle
        super().on_headers_complete()
        if self.cycle is not former and self.parser.get_http_version() < "1.1":
            # uvicorn makes cycles of its own class alone; this one has not begun yet.
            self.cycle.__class__ = _Http10Cycle
            self.cycle.keep_alive = self.parser.should_keep_alive()
            self.cycle.waiting_for_100_continue = False  # of which HTTP/1.0 knows nothing

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for the offers."""
        self._unset_keepalive_if_required()
        rest: bytes | memoryview = data
        try:
            while rest:
                rest = self._feed(rest)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def _feed(self, data: bytes | memoryview) -> bytes | memoryview:
        """Parse up to the end, or through a head with an offer; returns what is behind that."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._should_upgrade():
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)  # the old one may be at its end
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
                return memoryview(data)[offer.args[0] :]
        return b""

    def _should_upgrade(self) -> bool:
        """Whether uvicorn leaves this request alone: it is read again. A tunnel offers nothing."""
        return self.parser.get_method() != b"CONNECT"

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])


class _Http10Cycle(RequestResponseCycle):
    """A request of HTTP/1.0 and its answer: no chunks, and keep-alive where it is asked for.

    An answer whose length is not known ends with the connection.
    """

    _ends_by_close = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            self._ends_by_close = b"content-length" not in names
            self.keep_alive = self.keep_alive and not self._ends_by_close
            if self.keep_alive:
                headers = [*message["headers"], (b"connection", b"keep-alive")]
                message = {**message, "headers": headers}
        if self._ends_by_close:  # uvicorn counts down to 0, whatever the length
            self.chunked_encoding = False
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            length = len(message.get("body", b""))
            self.expected_content_length = length if is_last else sys.maxsize
        await super().send(message)
