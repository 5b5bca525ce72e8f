"""Claims about every schedule: random arrivals, lengths, aborts, limits, layouts and failing steps.

After each turn the scheduler's own check_integrity runs (simulation.py), so budget, slots and cells
are compared all the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, cycle, pairwise
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.simulation import (
    EOG,
    SPLIT,
    Simulation,
    UnrulyRunner,
    engine_limits,
    prompt_of,
    scores_alone,
    submit_of,
    text_alone,
)
from tgi_llamacpp.engine import planner
from tgi_llamacpp.engine.cost_model import LONG_GROUP, WidthCurve
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.planner import Batch
from tgi_llamacpp.engine.runner import NO_TARGET, RunnerLimits
from tgi_llamacpp.engine.slots import DUMMY_ROW, EXTRA_PASS
from tgi_llamacpp.messages import Finish, SamplingParams, Submit

EOG_CHANCE = 0.05
MAX_SEQUENCE_TOKENS = 48
MIN_PREFIX_TOKENS = st.sampled_from([None, 1, 4])
HOST_BYTES = st.sampled_from([0, 12_000, 30_000, 1 << 20])  # of a page and some for each state


@dataclass(frozen=True)
class Arrival:
    """A sequence that comes before turn `turn`, and may be aborted before turn `abort_turn`."""

    turn: int
    submit: Submit
    abort_turn: int | None


@st.composite
def runner_limits(draw: st.DrawFn) -> RunnerLimits:
    num_slots = draw(st.integers(1, 9))
    is_unified = draw(st.booleans())
    pool = draw(st.integers(MAX_SEQUENCE_TOKENS, 4 * MAX_SEQUENCE_TOKENS))
    return replace(
        SPLIT,
        num_slots=num_slots,
        max_step_outputs=draw(st.integers(num_slots, 24)),
        max_slot_tokens=MAX_SEQUENCE_TOKENS,
        max_pool_tokens=pool if is_unified else num_slots * MAX_SEQUENCE_TOKENS,
        max_step_tokens=draw(st.integers(1, 40)),
        is_unified=is_unified,
        can_trim=draw(st.booleans()),
        can_cut_states=draw(st.booleans()),
        has_aside=not is_unified and draw(st.booleans()),
    )


@st.composite
def arrivals(draw: st.DrawFn, *, may_abort: bool = True) -> list[Arrival]:
    result = []
    for seq_id in range(draw(st.integers(1, 14))):
        num_prompt = draw(st.integers(1, 32))
        prompt = prompt_of(seq_id, num_prompt)
        num_shared = draw(st.sampled_from([0, num_prompt // 2, num_prompt]))
        prompt[:num_shared] = prompt_of(-draw(st.integers(1, 2)), 32)[:num_shared]
        turn = draw(st.integers(0, 30))
        params = SamplingParams(
            temperature=draw(st.sampled_from([0.0, 1.0])),
            seed=seq_id,
            num_top_tokens=draw(st.sampled_from([0, 0, 2])),
        )
        submit = submit_of(
            seq_id,
            prompt,
            draw(st.just(0) | st.integers(1, MAX_SEQUENCE_TOKENS - num_prompt)),
            params=params,
            ignore_eog=draw(st.booleans()),
            scope=draw(st.sampled_from([0, 0, 0, 1])),
            prompt_logprobs=draw(st.booleans()),
            num_scored=draw(st.sampled_from([0, 0, num_prompt // 2, num_prompt - 1])),
        )
        abort_turn = draw(st.none() | st.integers(turn, turn + 40)) if may_abort else None
        result.append(Arrival(turn, submit, abort_turn))
    return sorted(result, key=lambda one: one.turn)


def check_batch(batch: Batch, limits: RunnerLimits) -> None:
    """The step's row limit, and that no cheap hole parts the decode rows."""
    plan = batch.plan
    assert len(plan.slots) <= limits.max_step_tokens
    num_scored = 0 if plan.targets is None else np.count_nonzero(plan.targets != NO_TARGET)
    assert np.count_nonzero(plan.samples) + num_scored <= limits.max_step_outputs
    if limits.is_unified:  # any slots run in one pass
        return
    planned = set(plan.slots.tolist())
    slots, counts = np.unique(plan.slots, return_counts=True)
    single = set(slots[counts == 1].tolist())  # a chunk that ends its prompt has two rows or more
    decoding = [slot for slot in plan.slots[plan.samples == 1].tolist() if slot in single]
    assert decoding == sorted(decoding)
    has_room = (
        len(plan.slots) + limits.num_slots < limits.max_step_tokens
        and 2 * limits.num_slots <= limits.max_step_outputs
    )
    for slot, after in pairwise(decoding):
        missing = [between for between in range(slot + 1, after) if between not in planned]
        assert not missing or not has_room or len(missing) * DUMMY_ROW >= EXTRA_PASS


def play(simulation: Simulation, coming: list[Arrival], limits: RunnerLimits) -> set[int]:
    """Run to the end; the ids that were aborted before they ended."""
    pending = list(coming)
    aborted: set[int] = set()
    while pending or simulation.has_work:
        now = simulation.num_turns
        while pending and pending[0].turn <= now:
            simulation.submit(pending.pop(0).submit)
        for arrival in coming:
            seq_id = arrival.submit.seq_id
            is_open = seq_id not in simulation.finishes and seq_id not in simulation.failures
            if arrival.abort_turn == now and arrival.turn <= now and is_open:
                simulation.scheduler.abort([seq_id])
                aborted.add(seq_id)
        simulation.turn()
        if simulation.batches:
            check_batch(simulation.batches[-1], limits)
        assert simulation.num_turns < 5000, "it does not end"
    return aborted


def has_rows(submit: Submit) -> bool:
    """Whether there is anything to compute for it."""
    num_to_score = len(submit.prompt_ids) // 4 - 1 - submit.num_scored
    return submit.max_new_tokens > 0 or (submit.prompt_logprobs and num_to_score > 0)


def simulation_of(
    limits: RunnerLimits,
    budget: int,
    min_prefix_tokens: int | None = None,
    host_bytes: int = 0,
    *,
    is_optimistic: bool = False,
) -> Simulation:
    runner = UnrulyRunner(limits, eog_chance=EOG_CHANCE)
    budget = max(MAX_SEQUENCE_TOKENS, min(budget, limits.max_pool_tokens))
    changes = {
        "max_budget_tokens": budget,
        "min_prefix_tokens": min_prefix_tokens,
        "max_host_cache_bytes": host_bytes,
        "is_optimistic": is_optimistic,
    }
    if limits.is_unified and min_prefix_tokens is not None:  # so some slots are for parked cells
        limits = replace(limits, num_slots=-(-limits.num_slots // 2))
    return Simulation(runner, engine_limits(limits, **changes))


def check_ends(simulation: Simulation, coming: list[Arrival], aborted: set[int]) -> None:
    """Everybody ended exactly once, with the text of running alone, or the head of it."""
    assert not simulation.failures
    expected_finishes = {one.submit.seq_id for one in coming} - aborted
    assert simulation.finishes.keys() == expected_finishes
    for arrival in coming:
        submit = arrival.submit
        text = text_alone(submit, eog_chance=EOG_CHANCE)
        produced = simulation.texts[submit.seq_id]
        if submit.seq_id in aborted:
            assert produced == text[: len(produced)]
            continue
        assert produced == text
        scores, top_ids = scores_alone(submit) if submit.prompt_logprobs else ([], [])
        assert simulation.scores[submit.seq_id] == scores
        assert simulation.score_top_ids[submit.seq_id] == top_ids
        is_eog = text[-1:] == [EOG] and not submit.ignore_eog
        assert simulation.finishes[submit.seq_id] is (Finish.EOG if is_eog else Finish.LENGTH)
    assert simulation.scheduler.num_reserved_tokens == 0
    num_cells = sum(map(simulation.runner.num_cells, range(simulation.runner.limits.num_slots)))
    assert num_cells == simulation.scheduler.num_parked_tokens


@given(
    limits=runner_limits(),
    budget=st.integers(48, 500),
    coming=arrivals(),
    min_prefix_tokens=MIN_PREFIX_TOKENS,
    host_bytes=HOST_BYTES,
    is_optimistic=st.booleans(),
    long_group=st.sampled_from([4, LONG_GROUP]),  # so that short prompts have passes of their own
)
@settings(max_examples=200, deadline=None)
def test_every_sequence_ends_once_with_the_text_of_running_alone(
    limits: RunnerLimits,
    budget: int,
    coming: list[Arrival],
    min_prefix_tokens: int | None,
    host_bytes: int,
    is_optimistic: bool,
    long_group: int,
) -> None:
    simulation = simulation_of(
        limits, budget, min_prefix_tokens, host_bytes, is_optimistic=is_optimistic
    )
    with patch.object(planner, "LONG_GROUP", long_group):
        aborted = play(simulation, coming, limits)
    check_ends(simulation, coming, aborted)


@given(
    limits=runner_limits(),
    num_short=st.integers(5, 40),
    num_long=st.integers(2, 12),
    min_prefix_tokens=MIN_PREFIX_TOKENS,
)
@settings(max_examples=100, deadline=None)
def test_whoever_gives_way_to_a_budget_that_runs_out_is_resumed_with_equal_text(
    limits: RunnerLimits, num_short: int, num_long: int, min_prefix_tokens: int | None
) -> None:
    """Outputs that end early teach a forecast that those after them prove wrong."""
    simulation = simulation_of(limits, 96, min_prefix_tokens, is_optimistic=True)
    teach_that_outputs_are_short(simulation, num_short)
    coming = [Arrival(0, submit_of(n, 2, 46, ignore_eog=True), None) for n in range(num_long)]
    play(simulation, coming, limits)
    check_ends(simulation, coming, set())
    num_preempted = simulation.scheduler.counters.num_preempted
    assert num_preempted <= 10 + limits.num_slots + num_long // 20
    # The oldest never gives way; one that found its prompt of two ids parked is ahead by as many.
    assert simulation.finished_at[0] <= min(simulation.finished_at.values()) + 2


def teach_that_outputs_are_short(simulation: Simulation, num_outputs: int) -> None:
    """Clients hang up after a token, as they do at a stop string."""
    for seq_id in range(1000, 1000 + num_outputs):
        simulation.submit(submit_of(seq_id, 2, 46, ignore_eog=True))
        while not simulation.texts[seq_id]:
            simulation.turn()
        simulation.scheduler.abort([seq_id])


@given(
    limits=runner_limits(),
    coming=arrivals(),
    refuses=st.frozensets(st.integers(0, 80), max_size=12),
    cuts=st.dictionaries(st.integers(0, 80), st.integers(0, 20), max_size=12),
    min_prefix_tokens=MIN_PREFIX_TOKENS,
    host_bytes=HOST_BYTES,
)
@settings(max_examples=200, deadline=None)
def test_steps_that_fail_or_are_cut_short_change_no_text(
    limits: RunnerLimits,
    coming: list[Arrival],
    refuses: frozenset[int],
    cuts: dict[int, int],
    min_prefix_tokens: int | None,
    host_bytes: int,
) -> None:
    simulation = simulation_of(limits, 500, min_prefix_tokens, host_bytes)
    assert isinstance(simulation.runner, UnrulyRunner)
    simulation.runner.refuses = refuses
    simulation.runner.cuts = cuts
    aborted = play(simulation, coming, limits)
    check_ends(simulation, coming, aborted)


@given(
    limits=runner_limits(),
    coming=arrivals(),
    target_s=st.sampled_from([0.005, 0.03, 0.25]),
    seconds=st.lists(st.floats(0, 3), min_size=1, max_size=20),
)
@settings(max_examples=150, deadline=None)
def test_whatever_steps_take_texts_and_ends_are_the_same(
    limits: RunnerLimits, coming: list[Arrival], target_s: float, seconds: list[float]
) -> None:
    """With a latency target, and a curve by which rows are padded to groups of four."""
    runner = FakeRunner(limits, eog_chance=EOG_CHANCE)
    times = cycle(seconds)
    clock = accumulate(cycle(seconds))
    simulation = Simulation(
        runner,
        engine_limits(
            limits, target_itl_s=target_s, max_host_cache_bytes=30_000, min_aside_tokens=6
        ),
        curve=WidthCurve({1: 0.01, 2: 0.04, 3: 0.03, 4: 0.02, 6: 0.05, 7: 0.04, 8: 0.03}),
        time_of=lambda _: next(times),
        now_s=lambda: next(clock),
    )
    aborted = play(simulation, coming, limits)
    check_ends(simulation, coming, aborted)


@given(
    coming=arrivals(may_abort=False),
    num_slots=st.integers(1, 9),
    cells=st.integers(48, 120),
    min_prefix_tokens=MIN_PREFIX_TOKENS,
    host_bytes=HOST_BYTES,
)
@settings(max_examples=120, deadline=None)
def test_a_pool_that_runs_out_preempts_and_resumes_as_if_nothing_had_been(
    coming: list[Arrival],
    num_slots: int,
    cells: int,
    min_prefix_tokens: int | None,
    host_bytes: int,
) -> None:
    limits = replace(
        SPLIT,
        num_slots=num_slots,
        max_slot_tokens=MAX_SEQUENCE_TOKENS,
        max_pool_tokens=num_slots * MAX_SEQUENCE_TOKENS + 48,
        is_unified=True,
    )
    withheld = max(0, limits.max_pool_tokens - cells)
    runner = UnrulyRunner(limits, eog_chance=EOG_CHANCE, num_withheld_cells=withheld)
    changes = {"min_prefix_tokens": min_prefix_tokens, "max_host_cache_bytes": host_bytes}
    simulation = Simulation(runner, engine_limits(limits, **changes))
    play(simulation, coming, limits)
    check_ends(simulation, coming, set())


@given(
    limits=runner_limits(),
    budget=st.integers(48, 500),
    coming=arrivals(may_abort=False),
    min_prefix_tokens=MIN_PREFIX_TOKENS,
    host_bytes=HOST_BYTES,
)
@settings(max_examples=100, deadline=None)
def test_nobody_waits_for_more_than_those_who_came_before(
    limits: RunnerLimits,
    budget: int,
    coming: list[Arrival],
    min_prefix_tokens: int | None,
    host_bytes: int,
) -> None:
    """First come first served, in steps: the oldest gets at least one row of each step."""
    simulation = simulation_of(limits, budget, min_prefix_tokens, host_bytes)
    play(simulation, coming, limits)
    expected = [one.submit.seq_id for one in coming if has_rows(one.submit)]
    assert simulation.admitted == expected
    num_rows = 0
    for arrival in coming:
        submit = arrival.submit
        num_rows += len(submit.prompt_ids) // 4 + submit.max_new_tokens
        assert simulation.finished_at[submit.seq_id] <= arrival.turn + num_rows + 1
