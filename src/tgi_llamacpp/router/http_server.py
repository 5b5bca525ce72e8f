"""uvicorn, driven so that it suits a supervisor: our signals, our exit, no header of its own.

What a connection may do is connection_limits.py's affair. Knows no engine. Called by server.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from tgi_llamacpp.router.connection_limits import BoundedProtocol, ConnectionLimits

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait for accept, as TGI has it
_TICK_S = 0.02  # between two looks at what still runs, of a server that stops
_STALL_TIMEOUT_S = 30  # of a client that takes nothing of what it is sent
_LAST_WORDS_S = 2.0  # for errors on their way to clients that are cut off


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
        limits = ConnectionLimits.of_this_process()
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=partial(BoundedProtocol, limits=limits),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(limits.idle_timeout_s),
            )
        )
        self.shutdown_timeout_s = shutdown_timeout_s
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
        if await self._is_done_within(self.shutdown_timeout_s, may_be_cut=True):
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
        # Connections inherit it: the kernel ends those whose client takes nothing for so long.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALL_TIMEOUT_S * 1000)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    """Where clients find it: http://0.0.0.0:3000."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
