"""When the plan of a step is the last one again, and when it is made anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.simulation import SPLIT, UNIFIED, Simulation, engine_limits, submit_of, text_alone
from tgi_llamacpp.engine import scheduler as scheduler_module
from tgi_llamacpp.engine.cost_model import WidthCurve
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.planner import Batch, plan_step
from tgi_llamacpp.engine.repetition import MAX_REPEATS
from tgi_llamacpp.engine.runner import RunnerLimits

PADDED = WidthCurve({1: 0.001, 2: 0.002, 3: 0.004, 4: 0.002})  # a fourth row makes three cheaper


class CountingPlanner:
    """plan_step, and how often it was called."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, *args: object, **kwargs: object) -> Batch | None:
        self.num_calls += 1
        return plan_step(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> CountingPlanner:
    planner = CountingPlanner()
    monkeypatch.setattr(scheduler_module, "plan_step", planner)
    return planner


def simulate(limits: RunnerLimits = SPLIT, **changes: float | None) -> Simulation:
    return Simulation(
        FakeRunner(limits), engine_limits(limits, min_prefix_tokens=None, **changes), curve=PADDED
    )


def test_streams_alone_are_planned_once_in_so_many_steps(planner: CountingPlanner) -> None:
    submits = [submit_of(1, 3, 50), submit_of(2, 3, 50)]
    simulation = simulate()
    simulation.submit(*submits)
    simulation.run()
    assert len(simulation.batches) == 50
    assert planner.num_calls <= 2 + 50 // MAX_REPEATS
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}


@pytest.mark.parametrize("limits", [SPLIT, UNIFIED], ids=["split", "pool"])
def test_who_comes_and_goes_between_repeated_steps_changes_no_text(limits: RunnerLimits) -> None:
    submits = [submit_of(seq_id, 2 + seq_id, 10 + 7 * seq_id) for seq_id in range(1, 6)]
    simulation = simulate(limits)
    for submit in submits:
        simulation.submit(submit)
        for _ in range(5):
            simulation.turn()
    simulation.run()
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}


def test_dummy_rows_are_repeated_where_they_were(planner: CountingPlanner) -> None:
    submits = [submit_of(seq_id, 3, 30) for seq_id in range(1, 4)]
    simulation = simulate(SPLIT)
    simulation.submit(*submits)
    simulation.run()
    assert planner.num_calls < 6
    assert all(len(batch.dummy_slots) == 1 for batch in simulation.batches[2:])
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}


def test_an_abort_ends_the_repetition_at_once() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 3, 40), submit_of(2, 3, 40))
    for _ in range(4):
        simulation.turn()
    simulation.scheduler.abort([1])
    simulation.turn()
    assert [one.seq_id for one, _ in simulation.batches[-1].segments] == [2]


def test_a_pool_with_dummy_rows_is_planned_at_every_step(planner: CountingPlanner) -> None:
    simulation = simulate(replace(UNIFIED, max_pool_tokens=256))
    simulation.submit(*(submit_of(seq_id, 3, 12) for seq_id in range(1, 4)))
    simulation.run()
    assert planner.num_calls >= len(simulation.batches)
