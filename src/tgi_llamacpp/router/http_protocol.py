"""uvicorn's HTTP/1.1, which declines offers of other protocols without losing the request.

Knows no limits; connection_limits.py adds them.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Http1Protocol(HttpToolsProtocol):
    """HTTP/1.1 whatever else a request offers, such as h2c, which Java's client does every time.

    At an offer httptools ends the request with its head, and leaves the body for the new protocol.
    So the head is read again without the offer, and then what follows it.
    """

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
