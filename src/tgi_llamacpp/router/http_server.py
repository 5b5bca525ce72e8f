"""uvicorn, driven so that it suits a supervisor: our signals, our exit, no header of its own.

Knows no engine. Called by server.py.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait for accept, as TGI has it
_KEEP_ALIVE_S = 75  # idle connections; TGI has no limit, proxies commonly have 60


class HttpServer(uvicorn.Server):
    """Serves until `stop` is called; a second call ends what still runs."""

    def __init__(
        self, app: ASGIApp, *, shutdown_timeout_s: int, on_listening: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=shutdown_timeout_s,
            )
        )
        self._on_listening = on_listening

    def stop(self) -> None:
        """Stop accepting and finish what runs; called again, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        logger.info("stopping %s", "now" if self.force_exit else "when requests have finished")
        if self.force_exit:
            for task in self.server_state.tasks:
                task.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

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
