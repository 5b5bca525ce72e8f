"""The curve at start-up and at rest: bounded in time, with slots left as they were."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest

from tests.engine.simulation import SPLIT
from tgi_llamacpp.engine.cost_model import CostModel, StepShape, WidthCurve
from tgi_llamacpp.engine.curve_upkeep import FIRST_WAIT_S, CurveUpkeep
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.runner import Plan, RunnerLimits, StepResult
from tgi_llamacpp.engine.warm_up import measure_widths
from tgi_llamacpp.messages import SamplingParams

WIDE = replace(SPLIT, num_slots=20, max_pool_tokens=20 * 64, max_step_tokens=64)


class TimedRunner(FakeRunner):
    """A step takes `first_s` and `row_s` for each further row, on a clock of its own.

    delays: what each step takes longer than that; the last one's are followed by none.
    """

    def __init__(
        self,
        first_s: float,
        row_s: float,
        delays: tuple[float, ...] = (),
        limits: RunnerLimits = WIDE,
    ) -> None:
        super().__init__(limits)
        self.time_s = 0.0
        self.widths: list[int] = []
        self.delays: Iterator[float] = iter(delays)
        self._costs = (first_s, row_s)

    def now_s(self) -> float:
        return self.time_s

    def step(self, plan: Plan) -> StepResult:
        first_s, row_s = self._costs
        self.widths.append(len(plan.slots))
        self.time_s += first_s + (len(plan.slots) - 1) * row_s + next(self.delays, 0.0)
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
        assert runner.time_s <= first_s + 0.5 + 7 * first_s / 4  # the first wide pass is a guess


def test_a_model_of_slow_passes_runs_two_of_them() -> None:
    slow = TimedRunner(20.0, 5.0)
    curve = measure_widths(slow, 16, slow.now_s, 0.5)
    assert slow.widths == [1, 1]
    assert curve.measured_s == {1: 20.0}


def test_the_pass_that_reads_the_weights_from_the_disc_is_no_measurement() -> None:
    runner = TimedRunner(0.001, 0.0005, delays=(4.6,))
    curve = measure_widths(runner, 16, runner.now_s, 0.5)
    assert len(curve.measured_s) == 12
    assert curve.measured_s[1] == pytest.approx(0.001)


def test_a_pass_that_another_process_delayed_does_not_decide_for_all_widths() -> None:
    runner = TimedRunner(0.001, 0.0005, delays=(4.6, 0.2))
    curve = measure_widths(runner, 16, runner.now_s, 0.5)
    assert len(curve.measured_s) == 12
    assert curve.measured_s[1] == pytest.approx(0.001)


def test_a_start_that_could_not_measure_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runner = TimedRunner(0.001, 0.0005, delays=(4.6, 0.4, 0.4))
    measure_widths(runner, 16, runner.now_s, 0.5)
    assert "could not be measured in 0.5 s: the machine is busy" in caplog.text


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


class Rest:
    """An engine at rest, whose start measured `curve` some time ago."""

    def __init__(self, runner: TimedRunner, curve: WidthCurve, max_pass_s: float = 0.5) -> None:
        self.runner = runner
        self.costs = CostModel(curve)
        self.upkeep = CurveUpkeep(runner, self.costs, max_pass_s, runner.now_s)
        runner.time_s += FIRST_WAIT_S

    def step(self, width: int, step_s: float, num_steps: int = 10) -> None:
        """What requests show."""
        for _ in range(num_steps):
            self.costs.learn(StepShape(width, ()), step_s)

    def measure(self) -> int:
        """The passes that are run before there is nothing to do for a while."""
        num_before = len(self.runner.widths)
        while self.upkeep.advance():
            pass
        return len(self.runner.widths) - num_before

    def wait(self) -> float:
        """Let the time pass until there is something to do; how long that was."""
        due_in_s = self.upkeep.due_in_s()
        assert due_in_s is not None
        self.runner.time_s += due_in_s
        return due_in_s


GOOD = WidthCurve({1: 0.001, 7: 0.004, 8: 0.0045})


def test_a_curve_that_the_start_could_not_measure_is_measured_at_rest() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), WidthCurve({1: 3.0}))
    assert rest.upkeep.due_in_s() == 0
    assert rest.measure() == 1 + 3 * 14
    assert len(rest.costs.curve.measured_s) == 14
    assert rest.upkeep.due_in_s() is None
    assert rest.upkeep.num_measured == 1


def test_nothing_is_measured_at_rest_right_after_the_start() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), WidthCurve({1: 3.0}))
    rest.runner.time_s -= 1
    assert rest.measure() == 0
    assert rest.wait() == pytest.approx(1)
    assert rest.measure()


def test_one_pass_is_run_between_two_looks_at_the_socket() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), WidthCurve({}))
    for num_passes in range(1, 10):
        assert rest.upkeep.advance()
        assert len(rest.runner.widths) == num_passes


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_steps_that_contradict_the_curve_have_it_measured_again(factor: float) -> None:
    rest = Rest(TimedRunner(0.001 * factor, 0.0005 * factor), GOOD)
    assert rest.upkeep.due_in_s() is None
    rest.step(8, 0.0045 * factor)
    assert rest.measure()
    assert rest.costs.pass_s(8) == pytest.approx(0.0045 * factor)
    assert rest.upkeep.due_in_s() is None


def test_steps_that_agree_with_the_curve_leave_it_alone() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), GOOD)
    rest.step(8, 0.0045 * 1.4)
    assert rest.upkeep.due_in_s() is None
    assert rest.measure() == 0


def test_a_curve_that_is_contradicted_again_and_again_is_measured_ever_more_seldom() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), GOOD)
    waits = []
    for _ in range(12):
        rest.step(8, 0.02)  # of long contexts, which no curve shows
        waits.append(rest.wait())
        assert rest.measure()
    assert waits[:4] == pytest.approx([0, 10, 20, 40])
    assert max(waits) == pytest.approx(3600)


def test_a_machine_that_is_still_busy_at_rest_is_tried_again_later() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), WidthCurve({1: 3.0}))
    rest.runner.delays = repeat(2.0)
    assert rest.measure() == 2
    rest.runner.delays = iter(())
    assert rest.wait() == pytest.approx(10)
    rest.measure()
    assert len(rest.costs.curve.measured_s) == 14


def test_a_curve_is_not_replaced_by_less_of_one() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), GOOD)
    rest.step(8, 0.02)
    rest.runner.delays = repeat(2.0)
    rest.measure()
    assert rest.costs.curve is GOOD


def test_a_request_at_rest_waits_for_no_pass_that_takes_longer_than_the_start_may() -> None:
    rest = Rest(TimedRunner(0.1, 0.05), WidthCurve({}))
    rest.measure()
    assert max(rest.runner.widths) == 8
    assert rest.runner.time_s < FIRST_WAIT_S + 15


def test_without_a_time_for_it_nothing_is_measured_at_rest() -> None:
    rest = Rest(TimedRunner(0.001, 0.0005), WidthCurve({}), max_pass_s=0)
    assert rest.upkeep.due_in_s() is None
    assert rest.measure() == 0


def fill(runner: FakeRunner, slot: int, num_tokens: int) -> None:
    """Park a sequence."""
    ids = np.arange(num_tokens, dtype=np.int32)
    runner.open(slot, SamplingParams(), ids, ids[:0])
    runner.step(Plan(np.full(num_tokens, slot, np.int32), ids, ids, np.zeros(num_tokens, np.int8)))
    runner.park(slot)


def test_what_is_parked_stays_as_it_was() -> None:
    runner = TimedRunner(0.001, 0.0005)
    for slot in range(20):
        fill(runner, slot, 10 + slot)
    Rest(runner, WidthCurve({})).measure()
    assert [runner.num_cells(slot) for slot in range(20)] == [10 + slot for slot in range(20)]


def test_rows_that_could_not_be_taken_back_are_measured_in_empty_slots_alone() -> None:
    runner = TimedRunner(0.001, 0.0005, limits=replace(WIDE, can_trim=False))
    for slot in (0, 1, 10):
        fill(runner, slot, 10)
    rest = Rest(runner, WidthCurve({}))
    rest.measure()
    assert list(rest.costs.curve.measured_s) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [runner.num_cells(slot) for slot in (0, 1, 10)] == [10, 10, 10]


def test_where_no_slot_is_free_the_curve_stays() -> None:
    runner = TimedRunner(0.001, 0.0005, limits=replace(WIDE, can_trim=False))
    for slot in range(20):
        fill(runner, slot, 10)
    rest = Rest(runner, WidthCurve({1: 3.0}))
    rest.measure()
    assert rest.costs.curve.measured_s == {1: 3.0}
    assert rest.wait() == pytest.approx(10)


def test_a_pool_without_a_free_cell_is_not_measured() -> None:
    limits = replace(WIDE, is_unified=True, max_pool_tokens=40)
    runner = TimedRunner(0.001, 0.0005, limits=limits)
    fill(runner, 0, 38)
    rest = Rest(runner, WidthCurve({}))
    rest.measure()
    assert list(rest.costs.curve.measured_s) == [1, 2]
    assert runner.num_cells(0) == 38
