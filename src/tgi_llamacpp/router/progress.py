"""How far the model is loaded: one line that moves on a terminal, a few lines in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TextIO

logger = logging.getLogger(__name__)

_LOG_PERCENT = 10  # between two lines of a log, and
_LOG_INTERVAL_S = 1.0  # so that a quick load needs none
_WIDTH = 30


class LoadProgress:
    """Shows fractions as they come. `terminal` is None where nobody watches one."""

    def __init__(
        self, terminal: TextIO | None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._terminal = terminal
        self._clock_s = clock_s
        self._shown_percent = 0
        self._shown_s = clock_s()

    def show(self, fraction: float) -> None:
        """fraction: 0 to 1; what is no news is not shown."""
        percent = int(100 * min(max(fraction, 0.0), 1.0))
        if self._terminal is None:
            self._log(percent)
        elif percent > self._shown_percent:
            self._shown_percent = percent
            bar = "=" * (_WIDTH * percent // 100)
            end = "\n" if percent == 100 else ""
            self._terminal.write(f"\rloading the model [{bar:<{_WIDTH}}] {percent:3} %{end}")
            self._terminal.flush()

    def finish(self) -> None:
        """Leave an unfinished line, so that what follows starts on its own."""
        if self._terminal is not None and 0 < self._shown_percent < 100:
            self._terminal.write("\n")
            self._terminal.flush()

    def _log(self, percent: int) -> None:
        now_s = self._clock_s()
        is_news = percent >= self._shown_percent + _LOG_PERCENT
        if is_news and now_s >= self._shown_s + _LOG_INTERVAL_S:
            self._shown_percent = percent - percent % _LOG_PERCENT
            self._shown_s = now_s
            logger.info("loading the model: %d %%", self._shown_percent)
