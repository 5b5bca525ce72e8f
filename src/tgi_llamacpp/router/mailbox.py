"""The queue between the engine's steps and a request's task.

Owns the one wake-up a step; knows neither the socket nor text. Filled by router/engine_client.py,
emptied by router/generation.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec

from tgi_llamacpp.errors import TgiError

Alternatives = list[tuple[int, float]]
"""(token id, logprob), best first."""


NO_TOKEN = -1
"""In Row.token_id: the sequence ends and has no token, since none was asked for."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One new token of the sequence with this choice index, or its end with NO_TOKEN."""

    choice: int
    token_id: int
    logprob: float
    finish: int
    alternatives: Alternatives | None


class Mailbox:
    """What the engine produced for one request, waiting for that request's task.

    A step may bring a row for each of the request's sequences; the task is woken once. `poke` wakes
    it without a row. The box holds max_rows; what comes on top of them calls on_full.
    """

    __slots__ = ("_error", "_loop", "_max_rows", "_on_full", "_rows", "_waiter")

    def __init__(
        self, max_rows: int = sys.maxsize, on_full: Callable[[], None] = lambda: None
    ) -> None:
        self._max_rows = max_rows
        self._on_full = on_full
        self._loop = asyncio.get_running_loop()
        self._rows: list[Row] = []
        self._error: TgiError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, row: Row) -> None:
        self._rows.append(row)
        if self._waiter is not None:
            self.poke()
        elif len(self._rows) > self._max_rows:
            self._on_full()

    def fail(self, error: TgiError) -> None:
        """Deliver what has arrived, then raise `error`. The first error stays."""
        self._error = self._error or error
        self.poke()

    def poke(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take_now(self) -> list[Row]:
        """All rows since the last call; may be none."""
        rows, self._rows = self._rows, []
        return rows

    async def take(self) -> list[Row]:
        """All rows since the last call; waits for the first. Empty after a `poke` without rows.

        Raises:
            TgiError: the request's sequences can give no more rows.
        """
        if not self._rows:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
            if not self._rows and self._error is not None:
                raise self._error
        return self.take_now()
