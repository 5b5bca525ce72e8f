"""The curve at start-up: bounded in time, with slots left as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.simulation import SPLIT
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.runner import Plan, StepResult
from tgi_llamacpp.engine.warm_up import measure_widths

WIDE = replace(SPLIT, num_slots=20, max_pool_tokens=20 * 64, max_step_tokens=64)


class TimedRunner(FakeRunner):
    """A step takes `first_s` and `row_s` for each further row, on a clock of its own."""

    def __init__(self, first_s: float, row_s: float) -> None:
        super().__init__(WIDE)
        self.time_s = 0.0
        self.widths: list[int] = []
        self._costs = (first_s, row_s)

    def now_s(self) -> float:
        return self.time_s

    def step(self, plan: Plan) -> StepResult:
        first_s, row_s = self._costs
        self.widths.append(len(plan.slots))
        self.time_s += first_s + (len(plan.slots) - 1) * row_s
        return super().step(plan)


def test_a_small_model_is_measured_thrice_at_all_widths_that_matter() -> None:
    runner = TimedRunner(0.001, 0.0005)
    curve = measure_widths(runner, 16, runner.now_s, 0.5)
    assert list(curve.measured_s) == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16]
    assert curve.measured_s[16] == pytest.approx(0.001 + 15 * 0.0005)
    assert len(runner.widths) == 1 + 3 * 12


def test_the_time_is_bounded_whatever_a_pass_takes() -> None:
    for first_s in (0.01, 0.05, 0.2, 0.4):
        runner = TimedRunner(first_s, first_s / 4)
        measure_widths(runner, 16, runner.now_s, 0.5)
        assert runner.time_s <= 0.5 + 7 * first_s / 4  # the first wide pass is a guess


def test_a_model_of_slow_passes_runs_one_of_them() -> None:
    slow = TimedRunner(20.0, 5.0)
    curve = measure_widths(slow, 16, slow.now_s, 0.5)
    assert slow.widths == [1]
    assert curve.measured_s == {1: 20.0}


def test_no_slot_keeps_anything() -> None:
    runner = TimedRunner(0.001, 0.0005)
    measure_widths(runner, 16, runner.now_s, 0.5)
    assert [runner.num_cells(slot) for slot in range(20)] == [0] * 20


def test_no_more_rows_are_measured_than_there_are_slots() -> None:
    runner = TimedRunner(0.001, 0.0005)
    measure_widths(runner, 3, runner.now_s, 0.5)
    assert max(runner.widths) == 3


def test_no_time_is_no_measurement() -> None:
    runner = TimedRunner(0.001, 0.0005)
    assert measure_widths(runner, 16, runner.now_s, 0).measured_s == {}
    assert runner.widths == []
