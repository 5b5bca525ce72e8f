"""The socket to one engine process: frames in and out, its start and its end.

Owns the transport, the decoder and the way to Ready; what frames mean after that is the affair of
whoever attaches to the link: router/engine_client.py, or router/candidate.py before it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from tgi_llamacpp import __version__
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.messages import (
    PROTOCOL_VERSION,
    Failed,
    FrameDecoder,
    FrameError,
    FromEngine,
    FromRouter,
    Progress,
    Ready,
    Start,
    encode_frame,
)

logger = logging.getLogger(__name__)


class EngineLink(asyncio.Protocol):
    """The socket of one engine: frames in and out, Ready or the reason why not, and the end."""

    def __init__(self, on_progress: Callable[[float], None] | None) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Ready] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._decoder = FrameDecoder(FromEngine)
        self._transport: asyncio.Transport | None = None
        self._unread: list[FromEngine] = []  # that came after Ready, while nobody was attached
        self._on_message: Callable[[FromEngine], None] = self._unread.append
        self._on_lost: Callable[[], None] | None = None
        self._on_progress = on_progress

    def attach(self, on_message: Callable[[FromEngine], None], on_lost: Callable[[], None]) -> None:
        """Who gets what comes after Ready, and hears of the end."""
        self._on_message, self._on_lost = on_message, on_lost
        while self._unread:
            on_message(self._unread.pop(0))

    def detach(self) -> None:
        """Close it, and tell nobody."""
        self._on_message, self._on_lost = lambda message: None, None
        self.close()

    def send(self, message: FromRouter) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(message))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's classes, so isinstance cannot tell.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except FrameError as error:
            logger.error("the engine sent no valid frame: %s", error)
            self.close()
            return
        for message in messages:
            if not self.started.done():
                self._before_ready(message)
            else:
                self._on_message(message)  # type: ignore[arg-type]  # decoded as FromEngine

    def _before_ready(self, message: object) -> None:
        if isinstance(message, Progress) and self._on_progress is not None:
            self._on_progress(message.fraction)
        elif isinstance(message, Ready):
            self.started.set_result(message)
        elif isinstance(message, Failed):
            self.started.set_exception(StartupError(message.message))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.started.done():
            self.started.set_exception(StartupError("the engine ended before the model was loaded"))
            self.started.exception()  # retrieved by start(), or nobody waits any more
        if not self.closed.done():
            self.closed.set_result(None)
        if self._on_lost is not None:
            self._on_lost()


@dataclass(frozen=True, slots=True)
class ConnectedEngine:
    """An engine that is ready to serve."""

    link: EngineLink
    ready: Ready
    epoch: int


async def connect(
    sock: socket.socket,
    epoch: int,
    config: EngineConfig,
    on_progress: Callable[[float], None] | None = None,
    check: Callable[[Ready], None] = lambda ready: None,
) -> ConnectedEngine:
    """Hand an engine its configuration and wait until it could serve. Takes `sock` over.

    Raises:
        StartupError: the engine failed, closed its end, or is of another version; or `check`'s.
    """
    link = EngineLink(on_progress)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: link, sock=sock)
    link.send(Start(epoch, config))
    try:
        ready = _checked(await link.started)
        check(ready)
    except BaseException:
        link.close()
        await asyncio.shield(link.closed)
        raise
    return ConnectedEngine(link, ready, epoch)


def _checked(ready: Ready) -> Ready:
    if ready.protocol_version != PROTOCOL_VERSION or ready.package_version != __version__:
        raise StartupError(
            f"the engine is version {ready.package_version} (protocol {ready.protocol_version}), "
            f"the router {__version__} (protocol {PROTOCOL_VERSION}): "
            "the package was changed on disk, restart the server"
        )
    return ready
