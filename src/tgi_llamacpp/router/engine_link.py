"""The socket to one engine process: frames in and out, its start and its end.

Owns the transport and the decoder; what the frames mean is router/engine_client.py's affair, which
makes one of these for every engine it starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.messages import (
    Failed,
    FrameDecoder,
    FrameError,
    FromEngine,
    FromRouter,
    Progress,
    Ready,
    encode_frame,
)

logger = logging.getLogger(__name__)


class EngineLink(asyncio.Protocol):
    """The socket of one engine: frames in and out, Ready or the reason why not, and the end."""

    def __init__(
        self,
        on_message: Callable[[FromEngine], None],
        on_lost: Callable[[], None],
        on_progress: Callable[[float], None] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Ready] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._decoder = FrameDecoder(FromEngine)
        self._transport: asyncio.Transport | None = None
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_progress = on_progress

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
            if self.started.done():
                self._on_message(message)  # type: ignore[arg-type]  # decoded as FromEngine
            else:
                self._before_ready(message)

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
        self._on_lost()
