"""Notices an engine that has work and does not move.

Pure but for the clock: it is shown the engine's page now and then, and says for how long nothing
has happened. The supervisor asks it, and acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tgi_llamacpp.step_page import PageState

_ROWS = 128  # of one step that may take as long again
_FIRST_STEP = 4  # as long for what comes before an engine's first step is done: it warms up
_STALLED = 0.25  # of the time allowed, after which /health says so
_MAX_TICK_S = 2.0  # if the router itself was stopped for longer, that is not the engine's fault


class Watchdog:
    """One engine's. limit_s: that a step may take; 0 watches nothing."""

    def __init__(self, limit_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self.still_s = 0.0  # with work and without a beat
        self._clock_s = clock_s
        self._seen_s = clock_s()
        self._num_beats = -1
        self._allowed_s = limit_s

    def look(self, page: PageState, *, has_work: bool) -> None:
        """Take note of the page; to be called about once a second."""
        now_s = self._clock_s()
        since_s, self._seen_s = min(now_s - self._seen_s, _MAX_TICK_S), now_s
        if has_work and page.num_beats == self._num_beats:
            self.still_s += since_s
        else:
            self.still_s = 0.0
        self._num_beats = page.num_beats
        allowed_s = self.limit_s * (1 + page.num_rows / _ROWS)
        self._allowed_s = allowed_s if page.num_steps else _FIRST_STEP * allowed_s

    @property
    def is_stalled(self) -> bool:
        """It may yet come back, but send it no more work."""
        return self.limit_s > 0 and self.still_s > _STALLED * self._allowed_s

    @property
    def is_stuck(self) -> bool:
        """It has had all the time it could need."""
        return self.limit_s > 0 and self.still_s > self._allowed_s
