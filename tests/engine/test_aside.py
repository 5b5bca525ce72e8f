"""Long prompts beside streams: who goes aside, what streams see of it, and every way it can end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.simulation import (
    WIDE,
    Simulation,
    UnrulyRunner,
    engine_limits,
    scores_alone,
    submit_of,
    text_alone,
)
from tgi_llamacpp.engine.aside import MIN_SLICE_STEPS, SLICE_STEPS, Aside
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.runner import Int32s
from tgi_llamacpp.engine.slots import SlotTable
from tgi_llamacpp.engine.stats import Counters
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import Submit

TARGET_S = 0.25
MIN_TOKENS = 256
LIMITS = replace(WIDE, has_aside=True)


def simulate(target_s: float = TARGET_S, runner: FakeRunner | None = None) -> Simulation:
    limits = engine_limits(LIMITS, target_itl_s=target_s)
    return Simulation(runner or FakeRunner(LIMITS), limits)


def with_streams(simulation: Simulation, *later: Submit) -> Simulation:
    """Two streams that decode, and those that come then."""
    simulation.submit(submit_of(1, 3, 60), submit_of(2, 3, 60))
    simulation.turn()
    simulation.submit(*later)
    return simulation


def aside_of(simulation: Simulation) -> int | None:
    sequence = simulation.scheduler.aside.sequence
    return sequence.seq_id if sequence else None


def test_a_long_prompt_goes_aside_and_streams_decode_alone_meanwhile() -> None:
    long = submit_of(3, 2000, 5)
    simulation = with_streams(simulate(), long)
    simulation.turn()
    assert aside_of(simulation) == 3
    while aside_of(simulation) is not None:
        simulation.turn()
        assert simulation.batches[-1].num_decode == 2
        assert simulation.batches[-1].num_prefill == 0
    simulation.run()
    assert simulation.texts[3] == text_alone(long)
    counters = simulation.scheduler.counters
    assert counters.num_prefill_tokens == 2 + 2 + 1999
    assert counters.num_aside == 1
    assert 0 < counters.aside_s <= counters.step_s


@pytest.mark.parametrize(
    ("target_s", "num_prompt", "num_streams"),
    [
        pytest.param(TARGET_S, MIN_TOKENS, 2, id="short"),
        pytest.param(0.0, 2000, 2, id="no target"),
        pytest.param(TARGET_S, 2000, 0, id="nobody decodes"),
    ],
)
def test_a_prompt_stays_in_its_slot(target_s: float, num_prompt: int, num_streams: int) -> None:
    simulation = simulate(target_s)
    if num_streams:
        with_streams(simulation)
    simulation.submit(submit_of(3, num_prompt, 5))
    simulation.turn()
    assert aside_of(simulation) is None
    assert simulation.batches[-1].num_prefill > 0


def test_a_prompt_whose_beginning_is_there_stays_in_its_slot() -> None:
    simulation = with_streams(simulate(), submit_of(3, 600, 2))
    while 3 not in simulation.finishes:
        simulation.turn()
    ids = np.frombuffer(submit_of(3, 600, 2).prompt_ids, np.int32)
    simulation.submit(submit_of(4, np.concatenate([ids, ids]), 2))
    simulation.turn()
    assert aside_of(simulation) is None


def test_prompts_behind_the_one_aside_wait_for_their_turn() -> None:
    simulation = with_streams(simulate(), submit_of(3, 2000, 2), submit_of(4, 50, 2))
    while aside_of(simulation) is None:
        simulation.turn()
    simulation.run()
    assert simulation.finished_at[3] < simulation.finished_at[4]
    assert simulation.texts[4] == text_alone(submit_of(4, 50, 2))


def test_it_goes_on_where_all_streams_have_ended() -> None:
    simulation = with_streams(simulate(), submit_of(3, 2000, 2))
    simulation.turn()
    simulation.scheduler.abort([1, 2])
    simulation.run()
    assert simulation.texts[3] == text_alone(submit_of(3, 2000, 2))


def test_an_abort_of_the_one_aside_makes_room_for_the_next() -> None:
    simulation = with_streams(simulate(), submit_of(3, 2000, 2), submit_of(4, 2000, 2))
    simulation.turn()
    simulation.scheduler.abort([3])
    simulation.turn()
    assert aside_of(simulation) == 4
    simulation.run()
    assert simulation.texts[4] == text_alone(submit_of(4, 2000, 2))


def test_one_that_begins_alike_waits_for_the_one_aside_and_takes_its_cells() -> None:
    prompt = np.frombuffer(submit_of(3, 2000, 2).prompt_ids, np.int32)
    simulation = with_streams(simulate(), submit_of(3, prompt, 2), submit_of(4, prompt, 2))
    simulation.run()
    assert simulation.cached == {4: 1999}
    assert simulation.texts[3] == simulation.texts[4] == text_alone(submit_of(3, prompt, 2))


def test_a_prompt_that_is_scored_stays_in_its_slot() -> None:
    long = submit_of(3, 600, 2, prompt_logprobs=True)
    simulation = with_streams(simulate(), long)
    while 3 not in simulation.finishes:
        simulation.turn()
        assert aside_of(simulation) is None
    assert simulation.scores[3] == pytest.approx(scores_alone(long)[0])


def test_one_that_comes_again_with_what_it_had_generated_goes_aside_as_well() -> None:
    long = submit_of(3, 2000, 6)
    begun = submit_of(3, 2000, 6, generated=text_alone(long)[:4])
    simulation = with_streams(simulate(), begun)
    simulation.turn()
    assert aside_of(simulation) == 3
    simulation.run()
    assert simulation.texts[3] == text_alone(long)[4:]


@pytest.mark.parametrize("status", ["full", "cut short"])
def test_a_step_that_fails_beside_it_costs_no_text(status: str) -> None:
    runner = UnrulyRunner(LIMITS)
    if status == "full":
        runner.refuses = frozenset({2})
    else:
        runner.cuts = {2: 1}
    simulation = with_streams(simulate(runner=runner), submit_of(3, 3000, 3))
    simulation.run()
    assert simulation.scheduler.counters.num_preempted == (status == "full")
    for seq_id, num_prompt, num_output in ((1, 3, 60), (2, 3, 60), (3, 3000, 3)):
        assert simulation.texts[seq_id] == text_alone(submit_of(seq_id, num_prompt, num_output))


def test_the_youngest_that_gives_way_while_it_is_aside_begins_again() -> None:
    runner = UnrulyRunner(LIMITS)
    runner.refuses = frozenset({2})
    simulation = with_streams(simulate(runner=runner), submit_of(3, 3000, 3))
    simulation.turn()
    assert aside_of(simulation) == 3
    simulation.turn()
    assert simulation.scheduler.counters.num_preempted == 1
    assert aside_of(simulation) is None
    runner.begin_aside(np.zeros(1, np.int32))  # it is free
    runner.cancel_aside()


def test_a_gap_of_the_streams_counts_the_slice_in_it() -> None:
    simulation = with_streams(simulate(), submit_of(3, 3000, 2))
    simulation.turn()
    scheduler = simulation.scheduler
    scheduler.aside.take_spent_s()
    clock = [0.0, 0.3]
    scheduler.aside._now_s = lambda: clock.pop(0)
    scheduler.aside.advance(0.01)
    assert scheduler.counters.num_late_steps == 0
    scheduler.learn(simulation.batches[-1], 0.01)
    assert scheduler.counters.num_late_steps == 1
    scheduler.learn(simulation.batches[-1], 0.01)
    assert scheduler.counters.num_late_steps == 1


def test_a_slice_before_a_step_is_time_that_its_prompts_do_not_get() -> None:
    num_prefill = []
    for spent_s in (0.0, 0.1):
        simulation = with_streams(simulate(), submit_of(3, 200, 2))
        simulation.scheduler.aside.spent_s = spent_s
        simulation.turn()
        num_prefill.append(simulation.batches[-1].num_prefill)
    assert num_prefill[1] < 0.7 * num_prefill[0]


class OverRunner(FakeRunner):
    """Has computed a prompt by its second slice, and notes when it gives the cells."""

    num_slices = 0

    def advance_aside(self, max_s: float, max_rows: int) -> bool:
        self.num_slices += 1
        return super().advance_aside(max_s, max_rows) and self.num_slices > 1


def test_cells_are_handed_over_after_a_step_of_the_streams() -> None:
    runner = OverRunner(LIMITS)
    simulation = with_streams(simulate(runner=runner), submit_of(3, 300, 2))
    while runner.num_slices < 2:
        simulation.turn()
    sequence = simulation.scheduler.aside.sequence
    assert sequence is not None
    slot = sequence.slot
    assert slot is not None
    assert runner.num_cells(slot) == 0
    simulation.turn()
    assert aside_of(simulation) is None
    assert simulation.batches[-1].num_decode == 2
    assert runner.num_cells(slot) == 299


class FullRunner(FakeRunner):
    def end_aside(self, slot: int) -> bool:
        self.cancel_aside()
        return False


def test_what_cannot_be_taken_over_is_computed_in_its_slot() -> None:
    simulation = with_streams(simulate(runner=FullRunner(LIMITS)), submit_of(3, 2000, 2))
    simulation.run()
    assert simulation.texts[3] == text_alone(submit_of(3, 2000, 2))


class ThreadlessRunner(FakeRunner):
    def begin_aside(self, token_ids: Int32s) -> None:
        raise RunnerError("no thread can be had")


def test_where_no_thread_can_be_had_prompts_stay_in_their_slots() -> None:
    simulation = with_streams(simulate(runner=ThreadlessRunner(LIMITS)), submit_of(3, 2000, 2))
    simulation.run()
    assert simulation.texts[3] == text_alone(submit_of(3, 2000, 2))


class TimedRunner(FakeRunner):
    """Notes what it is asked for, and takes a quarter of a second more."""

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.asked: list[tuple[float, int]] = []

    def advance_aside(self, max_s: float, max_rows: int) -> bool:
        self.asked.append((max_s, max_rows))
        return False


def aside_with(runner: FakeRunner, clock: list[float]) -> Aside:
    table = SlotTable(4, is_unified=False)
    aside = Aside(
        runner,
        table,
        Counters(),
        engine_limits(LIMITS, target_itl_s=TARGET_S),
        lambda: clock.pop(0),
    )
    simulation = with_streams(simulate(), submit_of(3, 2000, 2))
    simulation.turn()
    aside.sequence = simulation.scheduler.aside.sequence
    return aside


@pytest.mark.parametrize(
    ("step_s", "slice_s"),
    [
        pytest.param(0.0, TARGET_S, id="nobody waits"),
        pytest.param(0.01, 0.01 * SLICE_STEPS, id="quick steps"),
        pytest.param(0.1, TARGET_S - 0.1, id="what the target leaves"),
        pytest.param(0.4, 0.4 * MIN_SLICE_STEPS, id="a late step"),
    ],
)
def test_a_slice_is_a_multiple_of_the_step_within_the_target(step_s: float, slice_s: float) -> None:
    runner = TimedRunner()
    aside_with(runner, [0.0, 0.0]).advance(step_s)
    assert runner.asked == [(pytest.approx(slice_s), 512)]


def test_slices_that_overrun_become_shorter_and_their_passes_smaller() -> None:
    runner = TimedRunner()
    aside = aside_with(runner, [0.0, 0.36, 1.0, 1.08])  # 0.29 s too long, then in time
    aside.advance(0.01)
    aside.advance(0.02)
    assert runner.asked == [
        (pytest.approx(0.07), 512),
        (pytest.approx(0.14 - 0.2 * 0.29), 256),
    ]
