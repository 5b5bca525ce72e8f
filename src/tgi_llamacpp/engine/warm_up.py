"""Measures, once a model is loaded, how long a pass takes by its number of rows.

Runs greedy rows in empty slots and leaves them empty. The clock is the caller's. Called by
process.py before the engine says that it is ready; cost_model.py says what the curve is for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from tgi_llamacpp.engine.cost_model import WidthCurve
from tgi_llamacpp.engine.runner import Plan, Runner
from tgi_llamacpp.messages import SamplingParams

MAX_WIDTH = 32
_FIRST_WIDTHS = (1, 8, 7, 4, 3, 2, 5, 6)  # what matters most first: the time may run out
_NUM_ROUNDS = 3  # the quickest pass counts: the others met somebody else's work

log = logging.getLogger(__name__)


def measure_widths(
    runner: Runner, max_width: int, now_s: Callable[[], float], max_s: float
) -> WidthCurve:
    """The curve up to max_width rows, as far as it can be measured in max_s seconds.

    No pass is begun that is not expected to end in time, but for the first, of a single row. It
    pages the weights in, and counts only where there is no second: too long a guess does no harm.
    With max_s of 0 nothing is measured.
    """
    if max_s <= 0:
        return WidthCurve({})
    end_s = now_s() + max_s
    first_s = _pass_s(runner, 1, now_s)
    measured_s: dict[int, float] = {}
    widths = _widths(min(max_width, runner.limits.num_slots, runner.limits.max_step_tokens))
    for width in widths * _NUM_ROUNDS:
        if now_s() + WidthCurve(measured_s or {1: first_s}).pass_s(width) > end_s:
            break
        taken_s = _pass_s(runner, width, now_s)
        measured_s[width] = min(taken_s, measured_s.get(width, taken_s))
    return _told(measured_s or {1: first_s}, now_s() - end_s + max_s)


def _widths(max_width: int) -> list[int]:
    """All up to eight, then full and nearly full groups of four."""
    wide = [w for full in range(12, min(max_width, MAX_WIDTH) + 1, 4) for w in (full, full - 1)]
    return [width for width in (*_FIRST_WIDTHS, *wide) if width <= max_width]


def _pass_s(runner: Runner, width: int, now_s: Callable[[], float]) -> float:
    """Seconds of one step over the first `width` slots, every row sampled."""
    nothing = np.zeros(0, np.int32)
    slots = np.arange(width, dtype=np.int32)
    zeros = np.zeros(width, np.int32)
    for slot in range(width):
        runner.open(slot, SamplingParams(), zeros[:1], nothing)
    started_s = now_s()
    runner.step(Plan(slots, zeros, zeros, np.ones(width, np.int8)))
    taken_s = now_s() - started_s
    for slot in range(width):
        runner.drop(slot)
    return max(taken_s, 1e-7)  # a clock may stand still between two readings


def _told(measured_s: dict[int, float], taken_s: float) -> WidthCurve:
    curve = WidthCurve(measured_s)
    points = ", ".join(f"{width}: {cost * 1e3:.1f}" for width, cost in curve.measured_s.items())
    padded = [str(width) for width in curve.measured_s if curve.num_pads(width)]
    log.info(
        "milliseconds of a pass by its rows: %s; rows in groups of %d, dummy rows beside %s; "
        "measured in %.1f s",
        points,
        curve.row_group,
        ", ".join(padded) or "none",
        taken_s,
    )
    return curve
