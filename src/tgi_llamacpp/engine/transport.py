"""The engine's end of the socket: frames in, frames out, and never a wait for the router to read.

What the socket does not take goes to an outbox. Past one mark the loop should admit nothing, past
the next it should do nothing but wait, so memory is bounded and no frame is lost. The watch ends
the process when the router is gone, whatever the main thread does. Used by process.py and loop.py.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time

from tgi_llamacpp.messages import (
    FrameDecoder,
    FrameError,
    FromEngine,
    FromRouter,
    Start,
    encode_frame,
)

CONGESTED_BYTES = 1 << 20
FULL_BYTES = 8 << 20
_READ_BYTES = 1 << 16
_MAX_READS = 16  # a turn, so that a router that never stops sending cannot stop the steps
_GRACE_S = 0.2  # for an orderly end, before the watch makes it


class RouterGoneError(Exception):
    """End of file: there is nobody to work for."""


class Channel:
    """Non-blocking frames over a stream socket, which it owns. One thread uses it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = FrameDecoder(FromRouter)
        self._received: list[FromRouter] = []
        self._buffer = bytearray(_READ_BYTES)
        self._outbox = bytearray()
        self._arrivals = select.poll()
        self._arrivals.register(sock, select.POLLIN)

    @property
    def num_outbox_bytes(self) -> int:
        return len(self._outbox)

    @property
    def is_congested(self) -> bool:
        """The router reads slower than we write: take on no more work."""
        return len(self._outbox) > CONGESTED_BYTES

    @property
    def is_full(self) -> bool:
        """Do nothing that could make another frame."""
        return len(self._outbox) > FULL_BYTES

    def send(self, message: FromEngine) -> None:
        """Queue a frame and give the socket what it takes now."""
        self._outbox += encode_frame(message)
        self._flush()

    def receive(self, timeout_s: float | None) -> list[FromRouter]:
        """Messages that are there; waits up to timeout_s (None: for ever) while there are none.

        It returns early with nothing when the outbox has moved. Raises RouterGoneError, FrameError.
        """
        if timeout_s != 0 and not self._received:
            self._wait(select.POLLIN, timeout_s)
        self._flush()
        if self._arrivals.poll(0):  # else most calls would end in an exception
            self._read()
        messages, self._received = self._received, []
        return messages

    def receive_start(self) -> Start:
        """The first message, which must be Start; others stay for `receive`."""
        while not self._received:
            self._received = self.receive(None)
        first, *self._received = self._received
        if not isinstance(first, Start):
            raise FrameError(f"expected Start as the first message, got {type(first).__name__}")
        return first

    def drain(self, timeout_s: float | None) -> None:
        """Wait until the router has read something of the outbox. Reads nothing itself."""
        if self._outbox:
            self._wait(0, timeout_s)
            self._flush()

    def _wait(self, events: int, timeout_s: float | None) -> None:
        poller = select.poll()
        poller.register(self._sock, events | (select.POLLOUT if self._outbox else 0))
        poller.poll(None if timeout_s is None else timeout_s * 1000)

    def _flush(self) -> None:
        while self._outbox:
            try:
                num_sent = self._sock.send(self._outbox)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError) as error:
                raise RouterGoneError from error
            del self._outbox[:num_sent]

    def _read(self) -> None:
        for _ in range(_MAX_READS):
            try:
                num_read = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                return
            except ConnectionResetError as error:
                raise RouterGoneError from error
            if num_read == 0:
                raise RouterGoneError
            for message in self._decoder.feed(bytes(memoryview(self._buffer)[:num_read])):
                assert isinstance(message, FromRouter)
                self._received.append(message)
            if num_read < _READ_BYTES:
                return


class RouterWatch(threading.Thread):
    """Ends the process when the router's end closes, also during a load or a long step."""

    def __init__(self, fd: int) -> None:
        super().__init__(name="router-watch", daemon=True)
        self._fd = fd
        self._gone = threading.Event()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    def run(self) -> None:
        poller = select.poll()
        poller.register(self._fd, select.POLLRDHUP)  # hang-ups alone: data is the loop's affair
        poller.poll()
        self._gone.set()
        time.sleep(_GRACE_S)
        os._exit(0)
