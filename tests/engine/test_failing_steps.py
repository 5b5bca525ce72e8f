"""Steps that find no room, are cut short, or give nothing to choose from change no text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.simulation import (
    SPLIT,
    UNIFIED,
    Simulation,
    UnrulyRunner,
    engine_limits,
    submit_of,
    text_alone,
)
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.runner import NO_TOKEN, Int32s, Plan, StepResult
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import Finish, SamplingParams


def test_the_youngest_is_preempted_and_resumes_with_the_same_text() -> None:
    runner = UnrulyRunner(UNIFIED)
    runner.refuses = frozenset({3})
    simulation = Simulation(runner)
    submits = [
        submit_of(i, 6, 12, params=SamplingParams(temperature=1.0, seed=i)) for i in (1, 2, 3)
    ]
    simulation.submit(*submits)
    for _ in range(4):
        simulation.turn()
    assert simulation.scheduler.num_running == 2
    assert simulation.scheduler.num_waiting == 1
    simulation.run()
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}
    assert simulation.finished_at[3] > simulation.finished_at[1]


def test_after_a_preemption_nothing_is_admitted_until_somebody_leaves() -> None:
    runner = UnrulyRunner(UNIFIED)
    runner.refuses = frozenset({2})
    simulation = Simulation(runner)
    simulation.submit(submit_of(1, 3, 30), submit_of(2, 3, 30))
    for _ in range(3):
        simulation.turn()
    simulation.submit(submit_of(3, 3, 3))
    simulation.turn()
    assert simulation.scheduler.num_waiting == 2
    simulation.scheduler.abort([1])
    simulation.turn()
    assert simulation.scheduler.num_running == 2
    assert simulation.finishes == {}


def test_who_was_preempted_goes_before_those_who_wait() -> None:
    runner = UnrulyRunner(UNIFIED)
    runner.refuses = frozenset({2})
    simulation = Simulation(runner, engine_limits(UNIFIED, max_running=2))
    simulation.submit(*(submit_of(i, 3, 8) for i in (1, 2, 3, 4)))
    simulation.run()
    assert simulation.scheduler.counters.num_preempted == 1
    assert simulation.finished_at[2] < simulation.finished_at[4]


def test_a_pool_that_is_smaller_than_it_says_ends_with_every_text_right() -> None:
    runner = FakeRunner(UNIFIED, num_withheld_cells=256 - 60)
    simulation = Simulation(runner)
    submits = [submit_of(i, 8, 20) for i in range(4)]
    simulation.submit(*submits)
    simulation.run()
    assert simulation.scheduler.counters.num_preempted > 0
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}


def test_a_sequence_that_has_no_room_even_alone_fails_and_the_next_one_runs() -> None:
    runner = FakeRunner(UNIFIED, num_withheld_cells=256 - 20)
    simulation = Simulation(runner)
    small = submit_of(2, 4, 4)
    simulation.submit(submit_of(1, 15, 30), small)
    simulation.run()
    assert "no room" in simulation.failures[1]
    assert simulation.texts[2] == text_alone(small)
    assert simulation.finishes == {2: Finish.LENGTH}


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 5])
def test_a_step_that_was_cut_short_changes_no_text(num_rows: int, can_trim: bool) -> None:
    runner = UnrulyRunner(replace(SPLIT, can_trim=can_trim))
    runner.cuts = {0: num_rows, 2: num_rows, 4: num_rows}
    simulation = Simulation(runner)
    submits = [submit_of(i, 6, 6, params=SamplingParams(temperature=1.0)) for i in (1, 2)]
    simulation.submit(*submits)
    simulation.run()
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}


class NoLogits(FakeRunner):
    """Finds nothing finite in slot 1 from its third step on."""

    num_steps = 0

    def step(self, plan: Plan) -> StepResult:
        result = super().step(plan)
        self.num_steps += 1
        if self.num_steps >= 3:
            result.token_ids[result.slots == 1] = NO_TOKEN
        return result


def test_a_sequence_without_finite_logits_fails_and_the_others_go_on() -> None:
    simulation = Simulation(NoLogits(SPLIT))
    submits = [submit_of(i, 3, 6, params=SamplingParams(num_top_tokens=i)) for i in (1, 2, 3)]
    simulation.submit(*submits)
    simulation.run()
    assert "no finite logit" in simulation.failures[2]
    assert len(simulation.texts[2]) == 2
    assert simulation.texts[3] == text_alone(submits[2])
    assert simulation.finishes == {1: Finish.LENGTH, 3: Finish.LENGTH}


class Picky(FakeRunner):
    """Refuses to open a sequence with an odd seed."""

    def open(
        self, slot: int, params: SamplingParams, prompt_ids: Int32s, generated_ids: Int32s
    ) -> None:
        if params.seed % 2:
            raise RunnerError("a sampling parameter is out of range")
        super().open(slot, params, prompt_ids, generated_ids)


def test_a_sequence_that_cannot_be_opened_fails_and_the_others_go_on() -> None:
    simulation = Simulation(Picky(SPLIT))
    submits = [submit_of(i, 3, 6, params=SamplingParams(seed=i)) for i in (1, 2, 3, 4)]
    simulation.submit(*submits)
    simulation.run()
    assert set(simulation.failures) == {1, 3}
    assert simulation.finishes == {2: Finish.LENGTH, 4: Finish.LENGTH}
