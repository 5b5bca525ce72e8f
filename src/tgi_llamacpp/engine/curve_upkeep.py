"""When the cost of a pass by its rows is measured again: at rest, one pass at a time.

A start beside a compiler measures little, or what was true then alone. Called by the loop while
nothing runs or waits; warm_up.py measures, cost_model.py says how far off steps were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tgi_llamacpp.engine.cost_model import CostModel
from tgi_llamacpp.engine.runner import Runner
from tgi_llamacpp.engine.warm_up import WidthMeter

MAX_ERROR = 0.5  # of what was measured: steps that are further off contradict it
FIRST_WAIT_S = 10.0  # after the start, whose load may last, and after it; twice as long after each
MAX_WAIT_S = 3600.0
_MAX_PASSES = 20  # a measurement takes so many of the longest passes that are run at all

log = logging.getLogger(__name__)


class CurveUpkeep:
    """Replaces the curve of `costs` when it is incomplete, or steps contradict it."""

    def __init__(
        self,
        runner: Runner,
        costs: CostModel,
        max_pass_s: float,  # no pass is run that is expected to take longer; 0: measure nothing
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.num_measured = 0
        self._runner = runner
        self._costs = costs
        self._max_pass_s = max_pass_s
        self._now_s = now_s
        self._meter: WidthMeter | None = None  # of the measurement that is under way
        self._wait_s = FIRST_WAIT_S
        self._not_before_s = now_s() + FIRST_WAIT_S

    def due_in_s(self) -> float | None:
        """Seconds until `advance` has something to do at rest; None: until steps say so."""
        if self._meter is None and (self._max_pass_s <= 0 or self._reason() is None):
            return None
        return max(0.0, self._not_before_s - self._now_s())

    def advance(self) -> bool:
        """Run one pass, if it is time; True where one is due at once."""
        if self.due_in_s() != 0:
            return False
        if self._meter is None:
            log.info("passes are measured while no request runs: %s", self._reason())
            self._meter = self._new_meter()
        left_s = _MAX_PASSES * self._max_pass_s - self._meter.taken_s
        if self._meter.advance(min(self._max_pass_s, left_s)):
            return True
        self._end(self._meter)
        return False

    def _reason(self) -> str | None:
        """A clause for the log; None where the curve will do."""
        if not self._new_meter().is_enough(self._costs.curve):
            return "the start had no time to measure them all"
        if abs(self._costs.drift - 1) > MAX_ERROR:
            return f"steps take {self._costs.drift:.2g} times what was measured"
        return None

    def _new_meter(self) -> WidthMeter:
        return WidthMeter(self._runner, self._runner.limits.num_slots, self._now_s)

    def _end(self, meter: WidthMeter) -> None:
        curve = meter.tell()
        is_better = meter.is_enough(curve) or not meter.is_enough(self._costs.curve)
        if curve.measured_s and is_better:
            self._costs.replace_curve(curve)
        self._meter = None
        self.num_measured += 1
        self._not_before_s = self._now_s() + self._wait_s
        self._wait_s = min(2 * self._wait_s, MAX_WAIT_S)
