"""Server-sent events over ASGI: headers at once, one write a wake-up, a comment when idle.

Owns the framing and the keep-alive. What the events say is the handlers' affair; that the client is
still there is router/exchange.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType

from starlette.types import Send

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b":\n\n"
DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def event(json_text: str) -> str:
    """One event as text; several may be joined into one write."""
    return f"data: {json_text}\n\n"


class EventStream:
    """One SSE response; a context manager that ends the response.

    A slow client blocks `write` (the transport's own limit), so what waits is at most what the
    engine may still produce for the request.
    """

    def __init__(
        self,
        send: Send,
        headers: Iterable[tuple[bytes, bytes]],
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._send = send
        self._headers = [*_HEADERS, *headers]
        self._loop = asyncio.get_running_loop()
        self._keep_alive_s = keep_alive_s
        self._last_s = 0.0
        self._is_writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        """Send whole events."""
        self._is_writing = True
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._is_writing = False
        self._last_s = self._loop.time()

    async def __aenter__(self) -> EventStream:
        await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        self._last_s = self._loop.time()
        self._timer = self._loop.call_later(self._keep_alive_s, self._on_timer)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
        if kind is None:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _on_timer(self) -> None:
        """Runs once per idle period, not once per event: it looks when the last one was."""
        idle_s = self._loop.time() - self._last_s
        if idle_s > self._keep_alive_s - 0.01:
            if not self._is_writing:
                self._comment = self._loop.create_task(self.write(KEEP_ALIVE))
            idle_s = 0.0
        self._timer = self._loop.call_later(self._keep_alive_s - idle_s, self._on_timer)
