"""How long a client may take to send a request, how long its head may be, and how many may connect.

uvicorn has no such limits. A connection that is over one gets its answer, 408 or 431, where none is
under way, and is closed; what the server itself takes long for is not counted. Knows HTTP/1.1 and
no route. Called by http_server.py.
"""

from __future__ import annotations

import asyncio
import enum
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from tgi_llamacpp.router.http_protocol import Http1Protocol

_LOOK_S = 5.0  # between two looks at a connection, at most
_RESERVED_FILES = 128  # for all that is no connection: the engine's socket, its restart, files


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may take; docs/operations.md has them for operators."""

    head_timeout_s: float = 30.0  # from a connection, or a request's first byte, to its whole head
    body_timeout_s: float = 30.0  # and a second more for every so many bytes:
    min_body_rate: int = 10_000
    drain_timeout_s: float = 5.0  # for a body that was answered before its end
    idle_timeout_s: float = 75.0  # between requests; TGI has no limit, proxies commonly have 60
    max_head_bytes: int = 65_536
    max_connections: int = 4096

    @classmethod
    def of_this_process(cls) -> ConnectionLimits:
        """The defaults, with no more connections than this process may have files open.

        Its soft limit is raised for that, as far as it may be.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = cls.max_connections + _RESERVED_FILES
        if soft < wanted:
            soft = min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return cls(max_connections=max(16, min(cls.max_connections, soft - _RESERVED_FILES)))


class _Phase(enum.Enum):
    """How far the client is with the request that it sends now."""

    IDLE = enum.auto()  # nothing is sent, and all is answered
    HEAD = enum.auto()
    BODY = enum.auto()
    DRAIN = enum.auto()  # a body whose request is answered already
    SENT = enum.auto()  # the server's turn


class _AnswerTransport:
    """The connection as an answer sees it, which may close it in a way of its own."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class BoundedProtocol(Http1Protocol):
    """One connection, watched."""

    def __init__(self, *args: Any, limits: ConnectionLimits | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits or ConnectionLimits()
        self._phase = _Phase.IDLE
        self._since_s = self.loop.time()  # when the phase began
        self._num_requests = 0
        self._num_head_bytes = 0  # received while the head is incomplete
        self._num_body_bytes = 0
        self._is_head_too_long = False
        self._is_last = False  # nothing more is read than what is left of a body
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self._limits
        shortest_s = min(limits.head_timeout_s, limits.body_timeout_s, limits.drain_timeout_s)
        self._look_s = min(_LOOK_S, shortest_s / 4)
        self._timer = self.loop.call_later(self._look_s, self._look)
        if len(self.connections) > limits.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.cycle is not None:  # which then refers to this no more: both go without the gc
            self.cycle.transport = self.transport
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._phase in (_Phase.IDLE, _Phase.HEAD):
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self._phase is _Phase.HEAD and self._num_head_bytes > self._limits.max_head_bytes:
            self._refuse(431)

    def on_message_begin(self) -> None:
        self._num_head_bytes = 0
        self._enter(_Phase.HEAD)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _Phase.HEAD:  # and not behind a body: nobody asks for trailers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if num_bytes > self._limits.max_head_bytes:
            self._is_head_too_long = True
            raise httptools.HttpParserError
        self._num_body_bytes = 0
        self._enter(_Phase.BODY)
        former = self.cycle
        super().on_headers_complete()
        if self.cycle is not former:  # else an offer was declined, and the head is read again
            transport = _AnswerTransport(self.transport, self._close_after_body)
            self.cycle.transport = cast(asyncio.Transport, transport)

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._num_requests += 1
        self._enter(_Phase.SENT if self._is_answering() else _Phase.IDLE)
        if self._is_last:
            self._close()

    def on_response_complete(self) -> None:
        if self.cycle.response_complete:  # of the last request, where several are under way
            if self._phase is _Phase.BODY:
                self._enter(_Phase.DRAIN)
            elif self._phase is _Phase.SENT:
                self._enter(_Phase.IDLE)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, but never into the middle of an answer."""
        self._refuse(431 if self._is_head_too_long else 400, msg)

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._since_s = self.loop.time()

    def _look(self) -> None:
        """Close the connection if its time is over, else look again."""
        if self.transport.is_closing():
            return
        if self.loop.time() - self._since_s > self._allowed_s():
            is_idle = self._phase in (_Phase.IDLE, _Phase.DRAIN)
            self._close() if is_idle else self._refuse(408)
            return
        self._timer = self.loop.call_later(self._look_s, self._look)

    def _allowed_s(self) -> float:
        """How long the phase may last."""
        limits = self._limits
        if self._phase is _Phase.SENT or not self._is_awaited():
            return float("inf")
        if self._phase is _Phase.IDLE and self._num_requests:
            return limits.idle_timeout_s
        if self._phase is _Phase.DRAIN:
            return limits.drain_timeout_s
        if self._phase is _Phase.BODY:
            return limits.body_timeout_s + self._num_body_bytes / limits.min_body_rate
        return limits.head_timeout_s

    def _is_awaited(self) -> bool:
        """Whether it is the client that is slow: not where a request waits for the one before."""
        if self._phase is _Phase.HEAD:
            return not self._is_answering()
        if self._phase is _Phase.BODY and (self.pipeline or self.flow.read_paused):
            self._since_s = self.loop.time()
            return False
        return True

    def _is_answering(self) -> bool:
        """Whether an answer is under way, or is owed to a request before the one now read."""
        cycle = cast(RequestResponseCycle | None, self.cycle)
        return cycle is not None and not cycle.response_complete

    def _refuse(self, status: int, text: str = "") -> None:
        """Answer, unless that would come into the middle of another answer, and close."""
        may_answer = not self._is_answering() or (
            self._phase is _Phase.BODY and not self.cycle.response_started and not self.pipeline
        )
        if may_answer and not self.transport.is_closing():
            body = text or STATUS_LINE[status].split(b" ", 2)[2].decode().strip()
            head = (
                f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
                f"connection: close\r\n\r\n{body}"
            )
            self.transport.write(STATUS_LINE[status] + head.encode())
        self._close()

    def _close(self) -> None:
        self.transport.close()

    def _close_after_body(self) -> None:
        """The answer is the last one. If its request is still on its way, read that to the end:
        bytes that nobody reads reset the connection, and the client may lose the answer."""
        if self._phase is _Phase.BODY and self.cycle.response_complete:
            self._is_last = True  # and on_response_complete comes next
        else:
            self._close()

    def _make_room(self) -> None:
        """There is one connection too many: close the idlest, or this one where all are busy."""
        others = (cast(BoundedProtocol, one) for one in self.connections if one is not self)
        # One that is closed may still have an answer to deliver; it is no room by itself.
        waiting = [one for one in others if not (one._is_answering() or one.transport.is_closing())]
        if not waiting:
            self._refuse(503)
            return
        min(waiting, key=lambda one: (one._num_requests == 0, one._since_s))._close()
