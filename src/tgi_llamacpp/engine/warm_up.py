"""Measures how long a pass takes by its number of rows: once a model is loaded, and at rest.

Runs greedy rows behind what slots hold, and leaves them as they were. The clock is the caller's.
Called by process.py before the engine says that it is ready, and by curve_upkeep.py afterwards;
cost_model.py says what the curve is for.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable

import numpy as np

from tgi_llamacpp.engine.cost_model import WidthCurve
from tgi_llamacpp.engine.runner import Plan, Runner, StepStatus
from tgi_llamacpp.messages import SamplingParams

MAX_WIDTH = 32
_FIRST_WIDTHS = (1, 8, 7, 4, 3, 2, 5, 6)  # what matters most first: the time may run out
_NUM_NEEDED = 3  # of them, which say in which groups rows are computed
_NUM_ROUNDS = 3  # the quickest pass counts: the others met other processes' work
_CELL_BLOCK = 256  # a pass reads cells in such blocks, however few of them are used

log = logging.getLogger(__name__)


def measure_widths(
    runner: Runner, max_width: int, now_s: Callable[[], float], max_s: float
) -> WidthCurve:
    """The curve up to max_width rows, as far as it can be measured in max_s seconds.

    They begin after a pass of a single row that pages the weights in, and no pass is begun that is
    not expected to end in time, but for the first. With max_s of 0 nothing is measured.
    """
    if max_s <= 0:
        return WidthCurve({})
    meter = WidthMeter(runner, max_width, now_s)
    meter.advance(math.inf)  # which pages the weights in
    end_s = now_s() + max_s
    while meter.advance(end_s - now_s()):
        pass
    curve = meter.tell()
    if not meter.is_enough(curve):
        log.info(
            "the cost of more rows in a pass could not be measured in %.1f s: the machine is busy, "
            "or the model is slow; it will be measured again while no request runs",
            max_s,
        )
    return curve


class WidthMeter:
    """Measures a curve pass by pass, between which the runner may do other work."""

    def __init__(self, runner: Runner, max_width: int, now_s: Callable[[], float]) -> None:
        self._runner = runner
        self._now_s = now_s
        most = min(max_width, runner.limits.num_slots, runner.limits.max_step_tokens)
        self._widths = _widths(most)
        self._left = deque(self._widths * _NUM_ROUNDS)
        self._best_s: dict[int, float] = {}
        self._num_retries = _NUM_ROUNDS  # of a single row, where wider passes seem to take too long
        self._is_paged_in = False
        self._taken_s = 0.0

    @property
    def taken_s(self) -> float:
        """Of the passes that count."""
        return self._taken_s

    def advance(self, left_s: float) -> bool:
        """Run one pass; False where none is left that is expected to end in left_s.

        The first pass is no measurement: it reads the weights from the disc. The second is run
        whatever it may take.
        """
        if not self._is_paged_in:
            self._is_paged_in = True
            return self._pass_s(1) is not None
        width = self._next(left_s)
        if width is None:
            return False
        pass_s = self._pass_s(width)
        if pass_s is not None:
            self._taken_s += pass_s
            self._best_s[width] = min(pass_s, self._best_s.get(width, pass_s))
        return True

    def _next(self, left_s: float) -> int | None:
        if not self._best_s:
            return self._left.popleft() if self._left else None
        curve = WidthCurve(self._best_s)
        while self._left:
            if curve.pass_s(self._left[0]) <= left_s:
                return self._left.popleft()
            # A single pass that met other processes' work makes all wider ones seem too long.
            if self._num_retries and curve.pass_s(1) <= left_s:
                self._num_retries -= 1
                return 1
            self._left.popleft()
        return None

    def _pass_s(self, width: int) -> float | None:
        """Seconds of one step over `width` neighbouring slots, every row sampled; None where no
        slots or cells are free for it.
        """
        runner, nothing = self._runner, np.zeros(0, np.int32)
        slots = self._find_slots(width)
        if slots is None:
            return None
        positions = np.array([runner.num_cells(slot) for slot in slots], np.int32)
        zeros = np.zeros(width, np.int32)
        for slot in slots:
            runner.open(slot, SamplingParams(), zeros[:1], nothing)
        started_s = self._now_s()
        plan = Plan(np.array(slots, np.int32), positions, zeros, np.ones(width, np.int8))
        status = runner.step(plan).status
        taken_s = self._now_s() - started_s
        for slot, num_cells in zip(slots, positions.tolist(), strict=True):
            if not num_cells:
                runner.drop(slot)
                continue
            runner.park(slot)
            is_as_before = runner.trim(slot, num_cells)
            assert is_as_before, f"a measured row stays in slot {slot}"
        if status is not StepStatus.OK:
            return None
        return max(taken_s, 1e-7)  # a clock may stand still between two readings

    def _find_slots(self, width: int) -> range | None:
        """Neighbours that hold as little as possible, of which a row can be taken back."""
        limits = self._runner.limits
        can_cut = limits.can_trim and limits.can_cut_states
        room = limits.max_slot_tokens if can_cut else 1
        held = [self._runner.num_cells(slot) for slot in range(limits.num_slots)]
        best: range | None = None
        best_blocks = math.inf
        for first in range(len(held) - width + 1):
            longest = max(held[first : first + width])
            if longest < room and longest // _CELL_BLOCK < best_blocks:
                best, best_blocks = range(first, first + width), longest // _CELL_BLOCK
        return best

    def is_enough(self, curve: WidthCurve) -> bool:
        """Whether it has the widths that say in which groups rows are computed."""
        return all(width in curve.measured_s for width in self._widths[:_NUM_NEEDED])

    def tell(self) -> WidthCurve:
        """What was measured so far; the log is told too."""
        curve = WidthCurve(self._best_s)
        points = ", ".join(f"{width}: {cost * 1e3:.1f}" for width, cost in curve.measured_s.items())
        padded = [str(width) for width in curve.measured_s if curve.num_pads(width)]
        log.info(
            "milliseconds of a pass by its rows: %s; rows in groups of %d, dummy rows beside %s; "
            "measured in %.1f s",
            points or "none",
            curve.row_group,
            ", ".join(padded) or "none",
            self._taken_s,
        )
        return curve


def _widths(max_width: int) -> list[int]:
    """All up to eight, then full and nearly full groups of four."""
    wide = [w for full in range(12, min(max_width, MAX_WIDTH) + 1, 4) for w in (full, full - 1)]
    return [width for width in (*_FIRST_WIDTHS, *wide) if width <= max_width]
