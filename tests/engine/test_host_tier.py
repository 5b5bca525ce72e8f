"""What leaves its slot comes back from host memory: which, and at what charge to its time."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.simulation import (
    SPLIT,
    UNIFIED,
    Simulation,
    engine_limits,
    prompt_of,
    submit_of,
    text_alone,
)
from tgi_llamacpp.engine import host_tier
from tgi_llamacpp.engine.cost_model import StepShape
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.host_buffers import HostBuffers
from tgi_llamacpp.engine.runner import Buffer, RunnerLimits
from tgi_llamacpp.messages import HostStats, Submit

LAYOUTS = pytest.mark.parametrize("limits", [SPLIT, UNIFIED], ids=["split", "unified"])
MUCH = 1 << 20


def simulate(limits: RunnerLimits = SPLIT, num_bytes: int = MUCH, **changes: float) -> Simulation:
    limits_ = engine_limits(limits, max_host_cache_bytes=num_bytes, **changes)
    return Simulation(FakeRunner(limits), limits_)


def run(simulation: Simulation, *submits: Submit) -> None:
    simulation.submit(*submits)
    simulation.run()
    for submit in submits:
        assert simulation.texts[submit.seq_id] == text_alone(submit)


def fill(simulation: Simulation, *seeds: int, num_tokens: int = 20, scope: int = 0) -> None:
    """One sequence after the other, which leave as many parked."""
    for seed in seeds:
        run(simulation, submit_of(seed, prompt_of(seed, num_tokens), 4, scope=scope))


def again(seq_id: int, seed: int, num_tokens: int = 20, scope: int = 0) -> Submit:
    """Begins as the sequence of this seed did."""
    ids = np.concatenate([prompt_of(seed, num_tokens), prompt_of(seq_id, 3)])
    return submit_of(seq_id, ids, 4, scope=scope)


def stats_of(simulation: Simulation) -> HostStats:
    return simulation.scheduler.host_stats()


@LAYOUTS
def test_what_has_left_its_slot_is_found_again(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    fill(simulation, 1, 2, 3, 4, 5, 6)
    run(simulation, again(10, 1))
    assert simulation.cached == {10: 20}
    stats = stats_of(simulation)
    assert (stats.num_hits, stats.num_cached_tokens, stats.num_loads) == (1, 20, 1)
    assert stats.num_saves == 3
    assert simulation.scheduler.counters.prefix.num_hits == 1
    assert simulation.scheduler.counters.prefix.num_cached_tokens == 20


def test_without_memory_nothing_is_kept() -> None:
    simulation = simulate(num_bytes=0)
    fill(simulation, 1, 2, 3, 4, 5, 6)
    run(simulation, again(10, 1))
    assert simulation.cached == {}
    assert stats_of(simulation) == HostStats()


def test_other_scopes_share_nothing() -> None:
    simulation = simulate()
    fill(simulation, 1, scope=7)
    fill(simulation, 2, 3, 4, 5)
    run(simulation, again(10, 1))
    assert simulation.cached == {}
    run(simulation, again(11, 1, scope=7))
    assert simulation.cached == {11: 20}


def test_a_resident_prefix_is_not_loaded() -> None:
    simulation = simulate()
    fill(simulation, 1, 2, 3, 4, 5)
    run(simulation, again(10, 1))
    run(simulation, again(11, 1))
    assert simulation.cached == {10: 20, 11: 20}
    assert stats_of(simulation).num_loads == 1


def test_two_who_come_together_load_a_prefix_once() -> None:
    simulation = simulate()
    fill(simulation, 1, 2, 3, 4, 5)
    run(simulation, again(10, 1), again(11, 1))
    assert simulation.cached == {10: 20, 11: 20}
    assert stats_of(simulation).num_loads == 1


def test_what_a_newcomer_cuts_off_a_slot_is_kept() -> None:
    simulation = simulate(replace(SPLIT, num_slots=1))
    fill(simulation, 1, num_tokens=40)
    ids = np.concatenate([prompt_of(1, 40)[:25], prompt_of(2, 5)])
    run(simulation, submit_of(2, ids, 4))
    run(simulation, again(3, 1, num_tokens=40))
    assert simulation.cached == {2: 25, 3: 40}


def test_what_is_kept_already_is_not_saved_again() -> None:
    simulation = simulate(replace(SPLIT, num_slots=1))
    for seq_id in range(1, 9):
        run(simulation, submit_of(seq_id, prompt_of(seq_id % 2, 20), 4))
    assert stats_of(simulation).num_saves == 2


@LAYOUTS
def test_who_change_places_with_those_in_the_slots_take_their_pages(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    prompts = {seed: prompt_of(seed, 20) for seed in range(8)}
    for seed, prompt in prompts.items():
        run(simulation, submit_of(seed + 1, prompt, 4))
    num_states = stats_of(simulation).num_states
    for seq_id, seed in enumerate([*prompts] * 3, 100):
        run(simulation, submit_of(seq_id, prompts[seed], 4))
    stats = stats_of(simulation)
    assert stats.num_loads == 24
    assert stats.num_states == num_states + 1
    assert stats.num_evictions == 0


def test_a_prefix_that_others_may_want_stays_where_pages_are_needed() -> None:
    simulation = simulate()
    fill(simulation, 1, 2, 3, 4, 5)
    for seq_id in range(10, 20):
        run(simulation, again(seq_id, 1))  # which begin with what was saved, and go on otherwise
    states = stats_of(simulation).num_states
    fill(simulation, *range(20, 24))
    assert stats_of(simulation).num_states == states + 4


def test_a_conversation_stays_whose_first_turn_is_asked_again() -> None:
    simulation = simulate()
    fill(simulation, 1, 2, 3, 4, 5, num_tokens=40)
    for seq_id in (10, 11):
        run(simulation, submit_of(seq_id, prompt_of(1, 40)[:20], 2))
    fill(simulation, *range(20, 26), num_tokens=40)
    run(simulation, submit_of(30, prompt_of(1, 40), 4))
    assert simulation.cached == {10: 19, 11: 19, 30: 39}


def test_what_is_lent_and_then_lost_in_its_slot_is_found_again() -> None:
    limits = replace(SPLIT, cache_bytes=64 * SPLIT.max_pool_tokens)
    simulation = simulate_slow(byte_s=1e-4, target_itl_s=0.02, limits=limits)
    settle(simulation)  # four buffers are ready
    fill(simulation, *range(1, 6), num_tokens=40)
    run(simulation, submit_of(50, prompt_of(1, 40), 6))  # has what was saved, and it is lent
    simulation.submit(stream(100))
    simulation.turn()
    simulation.turn()
    for seq_id in range(60, 63):  # there is no time to save what they take the slots of
        simulation.submit(submit_of(seq_id, prompt_of(seq_id, 40), 4))
    simulation.run()
    assert stats_of(simulation).num_save_skips["late"] == 3
    fill(simulation, *range(70, 78), num_tokens=40)  # take pages that are lent
    run(simulation, submit_of(51, prompt_of(1, 40), 4))
    assert simulation.cached[51] == 39


def test_a_state_serves_only_whole() -> None:
    simulation = simulate(replace(SPLIT, can_trim=False))
    fill(simulation, 1, 2, 3, 4, 5)
    run(simulation, again(10, 1))
    assert simulation.cached == {}
    answer = np.array(simulation.texts[1], np.int32)
    ids = np.concatenate([prompt_of(1, 20), answer, prompt_of(11, 5)])
    run(simulation, submit_of(11, ids, 4))
    assert simulation.cached == {11: 23}
    assert stats_of(simulation).num_hits == 1


def test_a_window_serves_only_whole() -> None:
    simulation = simulate(replace(SPLIT, can_cut_states=False))
    fill(simulation, 1, 2, 3, 4, 5)
    run(simulation, again(10, 1))
    assert simulation.cached == {}


def test_a_tiny_bound_holds_and_the_least_recently_used_goes() -> None:
    simulation = simulate(num_bytes=24_000)
    fill(simulation, *range(1, 8))  # three had to go, for two of which there is room
    assert stats_of(simulation).num_states == 2
    assert stats_of(simulation).num_evictions == 1
    run(simulation, again(10, 3))
    run(simulation, again(11, 1))
    assert simulation.cached == {10: 20}


def test_too_large_a_state_is_skipped_and_counted() -> None:
    simulation = simulate(num_bytes=5000)
    fill(simulation, 1, 2, 3, 4, 5)
    stats = stats_of(simulation)
    assert (stats.num_states, stats.num_save_skips) == (0, {"large": 1})


def test_a_full_pool_gives_up_parked_cells_for_a_load() -> None:
    simulation = simulate(replace(UNIFIED, num_slots=8, max_pool_tokens=70), min_prefix_tokens=4)
    fill(simulation, 1, 2, 3, 4, 5)
    run(simulation, again(10, 1))
    assert simulation.cached == {10: 20}


# While there is no work


def settle(simulation: Simulation) -> None:
    while simulation.scheduler.prepare_one():
        simulation.scheduler.check_integrity()


@LAYOUTS
def test_after_a_rest_an_admission_saves_nothing(limits: RunnerLimits) -> None:
    simulation = simulate(limits)
    fill(simulation, 1, 2, 3, 4)
    settle(simulation)
    stats = stats_of(simulation)
    assert (stats.num_saves, stats.num_idle_saves) == (4, 4)
    simulation.submit(*(submit_of(seed, prompt_of(seed, 20), 4) for seed in (5, 6, 7, 8)))
    simulation.run()
    assert simulation.scheduler.counters.prefix.num_evictions >= 3
    assert stats_of(simulation).num_saves == 4
    run(simulation, again(10, 1))
    assert simulation.cached == {10: 20}


def test_what_was_considered_at_rest_is_not_considered_again() -> None:
    simulation = simulate()
    fill(simulation, 1, 2)
    settle(simulation)
    assert not simulation.scheduler.prepare_one()
    fill(simulation, 3)
    assert simulation.scheduler.prepare_one()
    assert not simulation.scheduler.prepare_one()
    assert stats_of(simulation).num_idle_saves == 3


def test_what_is_over_its_share_is_not_saved_ahead() -> None:
    simulation = simulate(num_bytes=1000)
    fill(simulation, 1, 2, 3)
    settle(simulation)
    assert stats_of(simulation).num_saves == 0


def test_at_rest_buffers_are_made_ready_for_what_the_slots_hold() -> None:
    limits = replace(SPLIT, cache_bytes=64 * SPLIT.max_pool_tokens)
    simulation = simulate(limits)
    settle(simulation)
    num_ready_bytes = stats_of(simulation).num_bytes
    assert 0 < num_ready_bytes <= limits.cache_bytes
    fill(simulation, 1, 2, 3, 4)
    settle(simulation)
    assert stats_of(simulation).num_idle_saves == 4
    assert stats_of(simulation).num_bytes > num_ready_bytes


@LAYOUTS
@given(
    waves=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), min_size=1, max_size=6),
    num_saved=st.lists(st.integers(0, 6), min_size=6, max_size=6),
    num_bytes=st.sampled_from([6_000, 24_000, 100_000, MUCH]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_saved_at_rest_the_texts_are_the_same(
    limits: RunnerLimits, waves: list[list[int]], num_saved: list[int], num_bytes: int
) -> None:
    simulation = simulate(limits, num_bytes)
    seq_id = 0
    for seeds, num in zip(waves, num_saved, strict=False):
        submits = []
        for seed in seeds:
            seq_id += 1
            ids = np.concatenate([prompt_of(seed // 2, 20), prompt_of(seed, 8)])
            submits.append(submit_of(seq_id, ids, 4))
        run(simulation, *submits)
        for _ in range(num):
            simulation.scheduler.prepare_one()
            simulation.scheduler.check_integrity()
        stats = stats_of(simulation)
        assert stats.num_bytes <= num_bytes
        assert stats.num_idle_saves <= stats.num_saves


# Time


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SlowRunner(FakeRunner):
    """Takes its time for each byte that is saved or loaded."""

    clock: Clock
    byte_s = 0.0
    load_share = 1.0  # of what a save takes

    def save(self, slot: int, buffer: Buffer) -> None:
        self.clock.now_s += self.byte_s * len(buffer)
        super().save(slot, buffer)

    def load(self, slot: int, buffer: Buffer, num_tokens: int) -> bool:
        self.clock.now_s += self.load_share * self.byte_s * len(buffer)
        return super().load(slot, buffer, num_tokens)


def simulate_slow(
    byte_s: float,
    target_itl_s: float,
    limits: RunnerLimits = SPLIT,
    clock: Clock | None = None,
) -> Simulation:
    """A state of 43 cells has 352 bytes, and is computed in 110 ms as far as anybody knows."""
    runner = SlowRunner(limits)
    runner.clock, runner.byte_s = clock or Clock(), byte_s
    limits_ = engine_limits(limits, max_host_cache_bytes=MUCH, target_itl_s=target_itl_s)
    simulation = Simulation(runner, limits_, time_of=lambda _: 0.0, now_s=runner.clock)
    simulation.time_of = as_predicted(simulation)
    return simulation


def as_predicted(simulation: Simulation) -> Callable[[StepShape], float]:
    return lambda shape: simulation.scheduler.costs.predict_s(shape)


def stream(seq_id: int) -> Submit:
    return submit_of(seq_id, prompt_of(seq_id, 3), 50)


def test_a_save_that_does_not_fit_beside_a_stream_is_skipped() -> None:
    simulation = simulate_slow(byte_s=1e-4, target_itl_s=0.02)
    fill(simulation, *range(1, 12), num_tokens=40)  # nobody waits for these saves
    for seed in range(1, 9):
        run(simulation, again(50 + seed, seed, num_tokens=40))  # so what a load takes is known
    assert stats_of(simulation).num_loads == 8
    submits = [stream(100), again(101, 1, num_tokens=40), submit_of(102, prompt_of(102, 40), 4)]
    simulation.submit(submits[0])
    simulation.turn()
    simulation.turn()
    run(simulation, *submits[1:])
    assert simulation.texts[100] == text_alone(submits[0])
    stats = stats_of(simulation)
    assert stats.num_save_skips["late"] >= 2
    assert stats.num_load_skips == {"late": 1}
    assert 101 not in simulation.cached


def test_transfers_beside_a_stream_keep_its_gap() -> None:
    simulation = simulate_slow(byte_s=1e-4, target_itl_s=0.2)
    fill(simulation, *range(1, 12), num_tokens=40)
    simulation.submit(stream(100))
    simulation.turn()
    simulation.turn()
    num_saves = stats_of(simulation).num_saves
    simulation.submit(*(again(100 + n, n, num_tokens=40) for n in (1, 2)))
    simulation.run()
    stats = stats_of(simulation)
    assert stats.num_loads == 2
    assert stats.num_saves > num_saves
    assert stats.load_s == pytest.approx(0.0704)
    assert simulation.scheduler.counters.num_late_steps == 0


def test_saves_leave_time_for_loads() -> None:
    simulation = simulate_slow(byte_s=1e-4, target_itl_s=0.09)
    assert isinstance(simulation.runner, SlowRunner)
    simulation.runner.load_share = 0.1
    fill(simulation, *range(1, 17), num_tokens=40)
    for seed in range(1, 9):
        run(simulation, again(50 + seed, seed, num_tokens=40))  # so what a load takes is known
    fill(simulation, *range(20, 24), num_tokens=40)
    simulation.submit(stream(100))
    simulation.turn()
    simulation.turn()
    num_loads = stats_of(simulation).num_loads
    simulation.submit(*(again(100 + n, n, num_tokens=40) for n in (9, 10, 11)))
    simulation.run()
    assert stats_of(simulation).num_loads == num_loads + 3
    assert not stats_of(simulation).num_load_skips


def test_what_is_computed_in_less_time_is_not_loaded() -> None:
    simulation = simulate_slow(byte_s=1e-2, target_itl_s=0.0)
    fill(simulation, *range(1, 12), num_tokens=40)
    assert stats_of(simulation).num_save_skips["dear"] > 0
    run(simulation, again(101, 1, num_tokens=40))
    assert stats_of(simulation).num_loads == 1  # so what a load takes is known
    fill(simulation, *range(20, 25), num_tokens=40)
    run(simulation, again(102, 1, num_tokens=40))
    stats = stats_of(simulation)
    assert (stats.num_loads, stats.num_load_skips) == (1, {"dear": 1})
    assert 102 not in simulation.cached


def test_what_was_too_dear_is_tried_again_some_day() -> None:
    simulation = simulate_slow(byte_s=1e-2, target_itl_s=0.0)
    fill(simulation, *range(1, 9), num_tokens=40)
    assert isinstance(simulation.runner, SlowRunner)
    simulation.runner.byte_s = 0.0
    num_saves = stats_of(simulation).num_saves
    fill(simulation, *range(10, 150), num_tokens=40)
    assert stats_of(simulation).num_saves > num_saves + 10


def test_what_new_pages_cost_keeps_nobody_from_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()

    class SlowBuffers(HostBuffers):
        def take(self, num_bytes: int) -> mmap.mmap | None:
            clock.now_s += 0.08 * (not self.largest)
            return super().take(num_bytes)

    monkeypatch.setattr(host_tier, "HostBuffers", SlowBuffers)
    simulation = simulate_slow(byte_s=0, target_itl_s=0.1, clock=clock)
    fill(simulation, *range(1, 21), num_tokens=40)
    simulation.submit(stream(100))
    simulation.turn()
    simulation.turn()
    num_saves = stats_of(simulation).num_saves
    for seed in (1, 2, 3):  # the first is loaded, and the others save to what is loaded before
        simulation.submit(submit_of(100 + seed, prompt_of(seed, 40), 6))
        simulation.turn()
        simulation.turn()
    stats = stats_of(simulation)
    assert stats.num_loads == 3
    assert stats.num_saves == num_saves + 2
    assert stats.num_save_skips == {"late": 1}


def test_a_save_at_rest_is_charged_to_no_step_and_no_longer_than_the_target() -> None:
    simulation = simulate_slow(byte_s=1e-4, target_itl_s=0.2)
    fill(simulation, 1, num_tokens=40)
    settle(simulation)
    assert stats_of(simulation).num_idle_saves == 1
    tier = simulation.scheduler._host_tier
    assert tier is not None
    assert tier.take_spent_s() == 0
    simulation = simulate_slow(byte_s=1e-4, target_itl_s=0.02)
    fill(simulation, *range(1, 20), num_tokens=40)  # so what a save takes is known: 35 ms
    settle(simulation)
    assert stats_of(simulation).num_idle_saves == 0
