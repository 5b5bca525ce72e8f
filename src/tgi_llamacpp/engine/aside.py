"""A long prompt beside streams: computed aside, in slices between their steps.

Owns who is aside, when a prompt goes there, and how long a slice is; what it means is the runner's.
While one is there, its slot is empty and has nothing to compute. Called by the scheduler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from tgi_llamacpp.engine.limits import EngineLimits
from tgi_llamacpp.engine.runner import Runner
from tgi_llamacpp.engine.sequence import Sequence
from tgi_llamacpp.engine.slots import SlotTable
from tgi_llamacpp.engine.stats import Counters
from tgi_llamacpp.errors import RunnerError

# A slice takes so many times what the streams' step took, where the target allows it: they get an
# eighth of the time, so the prompt comes a seventh later, and a gap is as short as that permits.
SLICE_STEPS = 7.0
MIN_SLICE_STEPS = 0.25  # where the step alone takes all of the target
_MIN_ROWS = 64
_MAX_OVERRUN = 0.25  # of the target: beyond, the passes are too large to pause often enough
_RATE = 0.2
_MAX_FAILURES = 3

log = logging.getLogger(__name__)


class Aside:
    """At most one sequence, from its first position on."""

    def __init__(
        self,
        runner: Runner,
        table: SlotTable,
        counters: Counters,
        limits: EngineLimits,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Without a latency target nothing goes aside."""
        self.sequence: Sequence | None = None
        self._runner = runner
        self._table = table
        self._counters = counters
        self._target_s = limits.target_itl_s
        self._min_tokens = limits.min_aside_tokens
        self._now_s = now_s
        self._is_on = runner.limits.has_aside and limits.target_itl_s > 0
        self._max_rows = runner.limits.max_step_tokens
        self._is_over = False  # so its cells are handed over next
        self._num_failures = 0  # in a row
        self.spent_s = 0.0  # on slices since the last step
        self._overrun_s = 0.0  # smoothed: from the end of a slice to the next pause

    def consider(self) -> None:
        """Take the oldest prompt aside, where it is long and others decode."""
        if not self._is_on or self.sequence is not None:
            return
        computing = self._table.computing()
        prompts = [one for one in computing if one.num_to_prefill]
        if not prompts or len(prompts) == len(computing):
            return
        oldest = min(prompts, key=lambda one: one.num_arrival)
        if oldest.num_computed or oldest.num_to_score or oldest.num_to_prefill < self._min_tokens:
            return
        try:
            self._runner.begin_aside(np.array(oldest.ids(0, oldest.num_to_prefill), np.int32))
        except RunnerError as refusal:  # there is no thread for it
            self._is_on = False
            log.warning("no prompt is computed aside from now on: %s", refusal)
            return
        self.sequence = oldest
        oldest.is_aside = True
        self._table.follow(oldest, is_following=True)

    def advance(self, step_s: float) -> None:
        """Compute a slice. step_s: what the step before it took, 0 where nobody else computes.

        What was computed is handed over in a turn of its own: the two make no gap together.
        """
        if self.sequence is None:
            return
        started_s = self._now_s()
        if self._is_over:
            self._end(self.sequence)
            self._charge(self._now_s() - started_s)
            return
        slice_s = self._slice_s(step_s)
        self._is_over = self._runner.advance_aside(slice_s, self._max_rows)
        taken_s = self._now_s() - started_s
        self._charge(taken_s)
        if not self._is_over:
            self._learn(max(0.0, taken_s - slice_s))

    def _charge(self, taken_s: float) -> None:
        self.spent_s += taken_s
        self._counters.step_s += taken_s
        self._counters.aside_s += taken_s

    def take_spent_s(self) -> float:
        """What streams waited for slices since the last call."""
        spent_s, self.spent_s = self.spent_s, 0.0
        return spent_s

    def leave(self, sequence: Sequence) -> None:
        """A sequence gives up its slot: forget it, if it is the one."""
        if self.sequence is sequence:
            self._runner.cancel_aside()
            self._let_go(sequence)

    def _slice_s(self, step_s: float) -> float:
        if not step_s:
            return self._target_s
        slice_s = min(self._target_s - step_s, SLICE_STEPS * step_s) - self._overrun_s
        return max(slice_s, MIN_SLICE_STEPS * step_s)

    def _learn(self, overrun_s: float) -> None:
        self._overrun_s += _RATE * (overrun_s - self._overrun_s)
        if overrun_s > _MAX_OVERRUN * self._target_s:
            self._max_rows = max(self._max_rows // 2, _MIN_ROWS)

    def _end(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        num_computed = sequence.num_to_prefill
        self._let_go(sequence)
        if self._runner.end_aside(sequence.slot):
            sequence.num_computed = num_computed
            self._counters.num_prefill_tokens += num_computed
            self._counters.num_aside += 1
            self._num_failures = 0
            return
        self._num_failures += 1  # once: cells that come with the next step stand in the way
        if self._num_failures == _MAX_FAILURES:
            self._is_on = False
            log.warning("prompts that are computed aside cannot be taken over: none will be again")

    def _let_go(self, sequence: Sequence) -> None:
        self.sequence = None
        self._is_over = False
        sequence.is_aside = False
        self._table.follow(sequence, is_following=False)
