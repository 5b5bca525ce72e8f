"""When the server will have room again, for the Retry-After of those it turns away.

Owns one rate, of the tokens that the engine computes, measured from one Stats to the next. Fed by
router/engine_client.py; asked by router/services.py when no permit is free. Knows no HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tgi_llamacpp.messages import Stats

MAX_RETRY_AFTER_S = 300
_MEMORY_S = 10.0  # of the rate: what was measured so long ago counts a third


class Forecast:
    """Tokens ahead by tokens a second."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._last: Stats | None = None
        self._last_s = 0.0
        self._tokens_per_s: float | None = None

    def on_stats(self, stats: Stats) -> None:
        """The engine's latest counters. The rate learns from stretches in which it had work."""
        now_s, last = self._clock_s(), self._last
        since_s, self._last, self._last_s = now_s - self._last_s, stats, now_s
        if last is None or last.epoch != stats.epoch or not last.num_running or since_s <= 0:
            return
        rate = (_num_computed(stats) - _num_computed(last)) / since_s
        if self._tokens_per_s is None:
            self._tokens_per_s = rate
        else:
            weight = 1 - math.exp(-since_s / _MEMORY_S)
            self._tokens_per_s += weight * (rate - self._tokens_per_s)

    def retry_after_s(self, num_missing: int, num_open: int) -> int:
        """Whole seconds until `num_missing` of the `num_open` sequences will have ended.

        tokens ahead / tokens per second x num_missing / num_open, rounded up, in [1, 300]. Tokens
        ahead are those that running and waiting sequences may still come to, prompts included, as
        the scheduler last said. So it takes sequences to end evenly, none before its last token;
        ends of generation make room earlier. Without a measured rate it is 1.
        """
        if self._last is None or not self._tokens_per_s or not num_open:
            return 1
        drain_s = self._last.num_tokens_ahead / self._tokens_per_s
        wait_s = math.ceil(drain_s * min(num_missing / num_open, 1.0))
        return max(1, min(wait_s, MAX_RETRY_AFTER_S))


def _num_computed(stats: Stats) -> int:
    return stats.num_prefill_tokens + stats.num_decode_tokens
