"""What a newcomer finds of its prompt, what it waits for, and who makes way for whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.simulation import (
    SPLIT,
    UNIFIED,
    Simulation,
    engine_limits,
    prompt_of,
    submit_of,
    text_alone,
)
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.runner import Int32s, RunnerLimits, pooled_slots
from tgi_llamacpp.messages import SamplingParams, Submit

PARAMS = SamplingParams(temperature=1.0, seed=5, repetition_penalty=1.2)
WHOLE_ONLY = replace(SPLIT, can_trim=False)
POOL = replace(UNIFIED, num_slots=8)
LAYOUTS = pytest.mark.parametrize("limits", [SPLIT, POOL], ids=["split", "unified"])


def simulate(limits: RunnerLimits = SPLIT, **changes: int | None) -> Simulation:
    max_running = min(4, limits.num_slots)
    return Simulation(FakeRunner(limits), engine_limits(limits, max_running=max_running, **changes))


def begins_like(seed: int, num_shared: int, num_tokens: int) -> Int32s:
    """A prompt of its own, with the first ids of everybody's."""
    return np.concatenate([prompt_of(0, num_shared), prompt_of(seed, num_tokens - num_shared)])


def shared(seq_id: int, num_shared: int = 20, num_tokens: int = 30, **more: int) -> Submit:
    ids = begins_like(seq_id, num_shared, num_tokens)
    return submit_of(seq_id, ids, more.pop("max_new_tokens", 4), params=PARAMS, **more)


def run(simulation: Simulation, *submits: Submit) -> None:
    simulation.submit(*submits)
    simulation.run()
    for submit in submits:
        assert simulation.texts[submit.seq_id] == text_alone(submit)


# What is found


@LAYOUTS
def test_a_finished_sequence_serves_who_begins_as_it_did(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    run(simulation, shared(1))
    run(simulation, shared(2))
    assert simulation.cached == {2: 20}
    assert simulation.batches[5].num_prefill == 9  # and the last one is sampled


@LAYOUTS
def test_a_running_sequence_serves_who_begins_as_it_did(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    simulation.submit(shared(1, max_new_tokens=30))
    for _ in range(3):
        simulation.turn()
    run(simulation, shared(2))
    assert simulation.cached == {2: 20}
    assert simulation.texts[1] == text_alone(shared(1, max_new_tokens=30))


@LAYOUTS
def test_the_next_turn_of_a_conversation_finds_the_answer_too(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    first = shared(1, max_new_tokens=8)
    run(simulation, first)
    prompt = np.frombuffer(first.prompt_ids, np.int32)
    answer = np.array(simulation.texts[1], np.int32)
    run(simulation, submit_of(2, np.concatenate([prompt, answer, prompt_of(9, 5)]), 4))
    assert simulation.cached == {2: 37}  # the last id of an answer is never computed


@LAYOUTS
def test_the_last_token_of_a_prompt_is_always_computed(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    run(simulation, submit_of(1, prompt_of(0, 30), 4))
    run(simulation, submit_of(2, prompt_of(0, 30), 4))
    run(simulation, submit_of(3, prompt_of(0, 30), 4, params=PARAMS))
    assert simulation.cached == {2: 29, 3: 29}


def test_too_short_a_prefix_is_computed_again() -> None:
    simulation = simulate(min_prefix_tokens=21)
    run(simulation, shared(1))
    run(simulation, shared(2))
    assert simulation.cached == {}
    assert simulation.scheduler.counters.prefix.num_misses == {"unknown": 1, "short": 1}


def test_without_the_cache_nothing_stays() -> None:
    simulation = simulate(min_prefix_tokens=None)
    run(simulation, shared(1))
    run(simulation, shared(2))
    assert simulation.cached == {}
    assert all(simulation.runner.num_cells(slot) == 0 for slot in range(4))


@LAYOUTS
def test_who_wants_nothing_of_others_computes_its_prompt_and_serves_them(
    limits: RunnerLimits,
) -> None:
    simulation = simulate(limits)
    run(simulation, shared(1))
    run(simulation, shared(2, takes_prefix=False), shared(3, takes_prefix=False))
    assert simulation.cached == {}
    assert simulation.scheduler.counters.prefix.num_misses == {"unknown": 1, "unwanted": 2}
    run(simulation, shared(4))
    assert simulation.cached == {4: 20}


def test_other_scopes_share_nothing() -> None:
    simulation = simulate()
    run(simulation, shared(1, scope=1), shared(2, scope=2))
    run(simulation, shared(3, scope=3))
    assert simulation.cached == {}
    run(simulation, shared(4, scope=2))
    assert simulation.cached == {4: 20}


def test_an_aborted_prompt_serves_with_what_was_computed() -> None:
    simulation = simulate()
    simulation.submit(shared(1, num_shared=30, num_tokens=40))
    simulation.turn()
    simulation.scheduler.abort([1])
    run(simulation, shared(2, num_shared=30, num_tokens=40))
    assert simulation.cached == {2: 16}


# Prefixes in flight


@LAYOUTS
def test_a_prefix_that_many_begin_with_is_computed_once(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    run(simulation, *(shared(seq_id) for seq_id in range(1, 5)))
    assert simulation.cached == {2: 20, 3: 20, 4: 20}
    num_rows = sum(batch.num_prefill for batch in simulation.batches)
    assert num_rows <= 29 + 3 * 9


def test_who_came_first_waits_for_nobody() -> None:
    simulation = simulate()
    simulation.submit(shared(1), shared(2))
    simulation.turn()
    batch = simulation.batches[0]
    assert {sequence.seq_id for sequence, _ in batch.segments} == {1}


@LAYOUTS
def test_followers_go_on_when_their_leader_is_aborted(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    simulation.submit(*(shared(seq_id) for seq_id in (1, 2, 3)))
    simulation.turn()
    simulation.scheduler.abort([1])
    simulation.run()
    for seq_id in (2, 3):
        assert simulation.texts[seq_id] == text_alone(shared(seq_id))
    assert simulation.cached == {2: 16, 3: 20}  # what the leader left, and what 2 did then


def test_followers_of_a_follower_go_on_when_it_is_aborted() -> None:
    simulation = simulate()
    simulation.submit(shared(1, num_shared=10), shared(2), shared(3))
    simulation.turn()
    simulation.scheduler.abort([2])
    simulation.run()
    assert simulation.texts[3] == text_alone(shared(3))


def test_a_dummy_row_crosses_the_slot_of_a_follower() -> None:
    simulation = simulate(replace(SPLIT, max_slot_tokens=256, max_pool_tokens=1024))
    simulation.submit(submit_of(10, 3, 40), submit_of(11, 3, 3), submit_of(12, 3, 40))
    while len(simulation.finishes) < 1:
        simulation.turn()
    simulation.submit(shared(1, num_shared=60, num_tokens=80))  # into slot 1 or 3
    simulation.submit(shared(2, num_shared=60, num_tokens=80))
    simulation.run()
    assert simulation.cached[2] == 60
    for submit in (submit_of(10, 3, 40), submit_of(12, 3, 40)):
        assert simulation.texts[submit.seq_id] == text_alone(submit)


# States, which cannot be cut


def test_a_state_serves_only_whole() -> None:
    simulation = simulate(WHOLE_ONLY)
    first = shared(1, max_new_tokens=8)
    run(simulation, first)
    run(simulation, shared(2))
    assert simulation.scheduler.counters.prefix.num_misses == {"unknown": 1, "partial": 1}
    prompt = np.frombuffer(first.prompt_ids, np.int32)
    answer = np.array(simulation.texts[1], np.int32)
    run(simulation, submit_of(3, np.concatenate([prompt, answer, prompt_of(9, 5)]), 4))
    assert simulation.cached == {3: 37}


def test_states_in_flight_are_computed_by_each() -> None:
    simulation = simulate(WHOLE_ONLY)
    run(simulation, *(shared(seq_id) for seq_id in (1, 2, 3)))
    assert simulation.cached == {}


# Windows in one pool: what they have passed may be another's, so cells serve only whole


class WindowRunner(FakeRunner):
    """As a sliding window in one pool can be: no part of a slot's cells is to be had."""

    def trim(self, slot: int, num_tokens: int) -> bool:
        is_part = 0 < num_tokens < self.num_cells(slot)
        return not is_part and super().trim(slot, num_tokens)

    def copy(self, src: int, dst: int, num_tokens: int) -> bool:
        is_part = 0 < num_tokens < self.num_cells(src)
        return not is_part and super().copy(src, dst, num_tokens)


def test_a_newcomer_in_the_only_slot_computes_what_a_window_has_passed() -> None:
    limits = replace(UNIFIED, num_slots=1)
    simulation = Simulation(WindowRunner(limits), engine_limits(limits))
    run(simulation, shared(1), shared(2))
    assert simulation.failures == {}
    assert simulation.scheduler.counters.prefix.num_misses == {"unknown": 1, "partial": 1}


# Who makes way


@LAYOUTS
def test_the_least_recently_used_goes_first(limits: RunnerLimits) -> None:
    simulation = simulate(replace(limits, num_slots=4))
    for seq_id in range(1, 5):
        run(simulation, submit_of(seq_id, prompt_of(seq_id, 20), 4))
    run(simulation, submit_of(10, np.concatenate([prompt_of(1, 20), prompt_of(10, 2)]), 4))
    assert simulation.cached == {10: 20}
    run(simulation, submit_of(11, prompt_of(11, 20), 4))  # takes the slot of 2
    run(simulation, submit_of(12, np.concatenate([prompt_of(1, 20), prompt_of(12, 2)]), 4))
    assert simulation.cached == {10: 20, 12: 20}


def test_as_many_prompts_as_there_are_slots_are_all_found_whole_again() -> None:
    simulation = simulate(replace(POOL, max_pool_tokens=512))
    for first in (10, 20):
        prompts = [begins_like(seed, 20, 30) for seed in range(8)]
        for wave in (prompts[:4], prompts[4:]):
            run(simulation, *(submit_of(first + i, ids, 6) for i, ids in enumerate(wave)))
            first += len(wave)
    assert [simulation.cached[seq_id] for seq_id in range(20, 28)] == [29] * 8


@LAYOUTS
def test_who_shares_a_beginning_leaves_the_rest_to_its_owner(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    run(simulation, shared(1), shared(2))
    prompt = np.frombuffer(shared(1).prompt_ids, np.int32)
    run(simulation, shared(3))
    run(simulation, submit_of(4, np.concatenate([prompt, prompt_of(4, 5)]), 4))
    assert simulation.cached == {2: 20, 3: 20, 4: 30}


def test_a_copy_of_a_long_slot_is_not_worth_a_token() -> None:
    simulation = simulate(replace(SPLIT, max_slot_tokens=4096, max_pool_tokens=4 * 4096))
    run(simulation, shared(1))
    run(simulation, shared(2))  # in the slot of the first, which loses 13 tokens
    assert [simulation.runner.num_cells(slot) for slot in range(4)].count(0) == 3
    assert simulation.cached == {2: 20}


@LAYOUTS
def test_parked_cells_delay_no_admission(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    run(simulation, *(submit_of(seq_id, prompt_of(seq_id, 40), 20) for seq_id in range(1, 5)))
    simulation.submit(*(submit_of(seq_id, prompt_of(seq_id, 40), 20) for seq_id in range(11, 15)))
    simulation.turn()
    assert simulation.admitted[4:] == [11, 12, 13, 14]
    simulation.run()
    assert not simulation.failures


def test_parked_cells_go_before_anyone_is_preempted() -> None:
    simulation = simulate(POOL)
    run(simulation, *(submit_of(seq_id, prompt_of(seq_id, 40), 20) for seq_id in range(1, 5)))
    run(simulation, *(submit_of(seq_id, prompt_of(seq_id, 40), 20) for seq_id in range(11, 15)))
    counters = simulation.scheduler.counters
    assert counters.num_preempted == 0
    assert counters.prefix.num_evictions > 0


def test_one_pool_keeps_a_shared_prefix_once() -> None:
    simulation = simulate(replace(POOL, max_pool_tokens=100))
    run(simulation, *(shared(seq_id, 40, 48) for seq_id in range(1, 5)), shared(5, 40, 48))
    assert simulation.scheduler.counters.prefix.num_evictions == 0
    assert simulation.scheduler.num_parked_tokens > 100


def test_a_repeated_prompt_is_parked_once() -> None:
    simulation = simulate(POOL)
    for seq_id in range(1, 5):
        run(simulation, submit_of(seq_id, prompt_of(0, 30), 4))
    assert simulation.scheduler.num_parked_tokens == 33


def test_a_parked_prefix_moves_out_of_a_newcomers_way_and_lives() -> None:
    simulation = simulate()
    simulation.submit(*(submit_of(seq_id, 3, 50) for seq_id in (1, 3)))
    simulation.turn()
    simulation.submit(shared(2, max_new_tokens=2))  # into slot 2
    while 2 not in simulation.finishes:
        simulation.turn()
    simulation.submit(submit_of(4, 30, 30))  # takes that slot; its cells move to slot 3
    simulation.turn()
    assert simulation.runner.num_cells(3) == 31
    run(simulation, shared(5))
    assert simulation.cached == {5: 20}


def test_one_pool_has_slots_for_parked_cells_up_to_the_limit() -> None:
    assert [pooled_slots(n) for n in (1, 8, 64, 200)] == [32, 32, 128, 256]
