"""How often engines ended, how long it took to be back, and when to stop trying.

Owns the numbers and the rule; starts nothing. Fed by the supervisor and by EngineClient, printed by
router/metrics.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tgi_llamacpp.histogram import DURATION_BOUNDS_S, Histogram
from tgi_llamacpp.router import prometheus

BACKOFF_S = (0.5, 2.0, 8.0, 20.0)  # before the next start, after so many useless ones
_IDLE_S = 60.0  # an engine that had nothing to do for so long was not useless


class Recovery:
    """Counters since the router started, and the clock of the recovery that is under way.

    of: another client's, whose counters go on in this one.
    """

    def __init__(
        self, clock_s: Callable[[], float] = time.monotonic, of: Recovery | None = None
    ) -> None:
        self.num_restarts: int = of.num_restarts if of else 0
        self.is_in_safe_mode = False  # the engine that serves
        self.num_resubmitted: int = of.num_resubmitted if of else 0  # sequences, once for each time
        self._durations: Histogram = of._durations if of else Histogram(DURATION_BOUNDS_S)
        self._clock_s = clock_s
        self._lost_s: float | None = None

    @property
    def is_under_way(self) -> bool:
        """An engine was lost, and no other has done a step since."""
        return self._lost_s is not None

    def begin(self) -> None:
        """An engine is gone. A recovery that was under way goes on."""
        if self._lost_s is None:
            self._lost_s = self._clock_s()

    def finish(self) -> float:
        """Sequences go on, or there are none; returns the seconds since the loss."""
        assert self._lost_s is not None
        duration_s = self._clock_s() - self._lost_s
        self._lost_s = None
        self._durations.observe(duration_s)
        return duration_s

    def lines(self) -> list[str]:
        """The Prometheus text."""
        return [
            *prometheus.single(
                "tgi_llamacpp_engine_restarts",
                "counter",
                self.num_restarts,
                "Engines started after another had ended",
            ),
            *prometheus.single(
                "tgi_llamacpp_resubmitted_sequences",
                "counter",
                self.num_resubmitted,
                "Sequences given to another engine with the tokens they had",
            ),
            *prometheus.single(
                "tgi_llamacpp_engine_safe_mode",
                "gauge",
                self.is_in_safe_mode,
                "Whether the engine does without repacked weights, since another died of a fault",
            ),
            *prometheus.histogram(
                "tgi_llamacpp_engine_recovery_duration",
                self._durations,
                "From an engine's end until the next one has done a step, or is ready without work",
            ),
        ]


class Patience:
    """When to start another engine, and when it is no use."""

    def __init__(self, backoff_s: Sequence[float] = BACKOFF_S) -> None:
        self._backoff_s = backoff_s
        self._num_useless = 0
        self._load_error: str | None = None

    def on_crash(
        self, *, num_steps: int, had_work: bool, ready_s: float, is_explained: bool
    ) -> None:
        """An engine that was ready for ready_s, and had completed num_steps, has ended.

        is_explained: some sequence may be to blame. Else the step of a doubted engine's probe is no
        sign that the next one will be of use.
        """
        self._load_error = None
        num_own = num_steps - (self.has_doubts and not is_explained)
        if num_own > 0 or (not had_work and ready_s >= _IDLE_S):
            self._num_useless = 0
        else:
            self._num_useless += 1

    def on_failed_load(self, message: str, *, is_certain: bool) -> bool:
        """An engine ended before it was ready; message: why, is_certain where it said so itself.

        True when it is what the engine before said, too.
        """
        is_same = is_certain and message == self._load_error
        self._load_error = message if is_certain else None
        self._num_useless += 1
        return is_same

    @property
    def is_over(self) -> bool:
        """So many engines in a row were useless that the next would be, too."""
        return self._num_useless > len(self._backoff_s)

    @property
    def num_useless(self) -> int:
        return self._num_useless

    @property
    def has_doubts(self) -> bool:
        """The next engine has to do a step of its own before it gets anybody's work."""
        return self._num_useless > 0

    @property
    def delay_s(self) -> float:
        """To wait before the next start: nothing after an engine that was of use."""
        return self._backoff_s[self._num_useless - 1] if self._num_useless else 0.0
