"""uvicorn, driven so that it suits a supervisor: our signals, our exit, no header of its own.

Declines offers of other protocols without losing the request, which uvicorn does not.

Knows no engine. Called by server.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait for accept, as TGI has it
_KEEP_ALIVE_S = 75  # idle connections; TGI has no limit, proxies commonly have 60
_TICK_S = 0.02  # between two looks at what still runs, of a server that stops
_LAST_WORDS_S = 2.0  # for errors on their way to clients that are cut off


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


class HttpServer(uvicorn.Server):
    """Serves until `stop` is called; a second call ends what still runs.

    on_cut: called when there is no more time for what runs. It has to end every request with an
    error, which the handlers then tell their clients.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        shutdown_timeout_s: float,
        on_listening: Callable[[], None],
        on_cut: Callable[[], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=Http1Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._shutdown_timeout_s = shutdown_timeout_s
        self._on_listening = on_listening
        self._on_cut = on_cut

    def stop(self) -> None:
        """Stop accepting and finish what runs; called again, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        logger.info("stopping %s", "now" if self.force_exit else "when requests have finished")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """In place of uvicorn's, which cuts answers off without a word to their clients."""
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        if await self._is_done_within(self._shutdown_timeout_s, may_be_cut=True):
            return
        self._on_cut()
        if not await self._is_done_within(_LAST_WORDS_S):
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # of clients that do not read, or do not write
            await self._is_done_within(_LAST_WORDS_S)

    async def _is_done_within(self, seconds: float, *, may_be_cut: bool = False) -> bool:
        """Let connections end with the answer at hand; False where some remain."""
        deadline_s = time.monotonic() + seconds
        while self.server_state.connections or self.server_state.tasks:
            if time.monotonic() >= deadline_s or (may_be_cut and self.force_exit):
                return False
            for connection in list(self.server_state.connections):
                connection.shutdown()  # again and again: some were just being accepted
            await asyncio.sleep(_TICK_S)
        return True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: signals are the supervisor's, and a stop is no reason to die of one."""
        yield


def bind(hostname: str, port: int) -> socket.socket:
    """A socket bound to the address, so that nobody else takes it; it refuses connections yet.

    Raises OSError: the port is in use, or there is no such address.
    """
    addresses = socket.getaddrinfo(
        hostname, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    family, kind, protocol, _, address = addresses[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    """Where clients find it: http://0.0.0.0:3000."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
