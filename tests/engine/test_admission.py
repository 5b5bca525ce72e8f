"""Optimistic admission, case by case: the forecast, who runs by it, and who gives way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.simulation import UNIFIED, Simulation, engine_limits, submit_of, text_alone
from tests.engine.test_scheduler_properties import teach_that_outputs_are_short
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.output_forecast import NUM_REMEMBERED, OutputForecast

POOL = replace(UNIFIED, num_slots=8, max_pool_tokens=96, max_step_tokens=64)


def simulate(*, is_optimistic: bool = True) -> Simulation:
    limits = engine_limits(POOL, max_running=8, is_optimistic=is_optimistic)
    return Simulation(FakeRunner(POOL), limits)


def forecast_of(
    *ended: int, cut: tuple[int, ...] = (), still_open: tuple[int, ...] = ()
) -> OutputForecast:
    forecast = OutputForecast()
    for num_tokens in ended:
        forecast.learn(num_tokens, is_cut=False, still_open=still_open)
    for num_tokens in cut:
        forecast.learn(num_tokens, is_cut=True, still_open=still_open)
    return forecast


# The forecast


@pytest.mark.parametrize(("num_tokens", "left"), [(0, 100), (40, 60), (99, 1), (100, 0)])
def test_with_nothing_learnt_an_output_runs_to_its_limit(num_tokens: int, left: int) -> None:
    assert OutputForecast().remaining(num_tokens, 100) == left


def test_an_output_is_expected_to_be_as_long_as_those_before() -> None:
    forecast = forecast_of(*[20] * 99)
    assert forecast.remaining(0, 1000) == pytest.approx(20 + 980 / 100)
    assert forecast.remaining(15, 1000) == pytest.approx(5 + 980 / 100)


def test_one_that_is_longer_than_all_before_may_run_to_its_limit() -> None:
    assert forecast_of(*[20] * 99).remaining(21, 1000) == pytest.approx(979)


def test_the_longer_it_is_the_longer_it_will_be_where_outputs_are_of_two_kinds() -> None:
    forecast = forecast_of(*[10] * 50, *[500] * 50)
    assert forecast.remaining(0, 600) == pytest.approx(255, rel=0.05)
    assert forecast.remaining(11, 600) == pytest.approx(489, rel=0.05)


def test_what_was_cut_at_its_limit_says_only_that_it_would_have_been_longer() -> None:
    forecast = forecast_of(*[200] * 50, cut=(20,) * 50)
    assert forecast.remaining(0, 20) == 20
    assert forecast.remaining(0, 400) == pytest.approx(200, rel=0.05)


def test_the_first_to_end_do_not_make_all_look_short() -> None:
    alone, among = forecast_of(*[5] * 8), forecast_of(*[5] * 8, still_open=(6,) * 24)
    assert alone.remaining(0, 100) < 20
    assert among.remaining(0, 100) > 70


def test_old_outputs_are_forgotten() -> None:
    forecast = forecast_of(*[300] * NUM_REMEMBERED, *[10] * NUM_REMEMBERED)
    assert forecast.remaining(0, 400) < 13


def test_a_forecast_is_never_less_than_a_token_nor_more_than_the_limit() -> None:
    rng = np.random.default_rng(1)
    forecast = OutputForecast()
    for num_tokens in rng.integers(0, 50, 300).tolist():
        forecast.learn(num_tokens, is_cut=bool(rng.integers(2)), still_open=(3, 7))
        for limit in (2, 30, 60):
            for so_far in range(0, limit, 7):
                assert 1 <= forecast.remaining(so_far, limit) <= limit - so_far


# Who runs


def test_with_nothing_learnt_no_more_run_than_fit_at_their_longest() -> None:
    simulation = simulate()
    simulation.submit(*(submit_of(n, 2, 46) for n in range(4)))
    simulation.turn()
    assert simulation.scheduler.num_running == 2


@pytest.mark.parametrize(("is_optimistic", "num_running"), [(True, 8), (False, 2)])
def test_where_outputs_were_short_more_run_than_fit_at_their_longest(
    is_optimistic: bool, num_running: int
) -> None:
    simulation = simulate(is_optimistic=is_optimistic)
    teach_that_outputs_are_short(simulation, 40)
    simulation.submit(*(submit_of(n, 2, 46, ignore_eog=True) for n in range(8)))
    simulation.turn()
    assert simulation.scheduler.num_running == num_running


def test_the_youngest_gives_way_and_finds_its_cells_again() -> None:
    simulation = simulate()
    teach_that_outputs_are_short(simulation, 40)
    submits = [submit_of(n, 2, 46, ignore_eog=True) for n in range(4)]
    simulation.submit(*submits)
    scheduler = simulation.scheduler
    while not scheduler.counters.num_preempted:
        simulation.turn()
    assert (scheduler.num_running, scheduler.num_waiting) == (3, 1)
    num_had = len(simulation.texts[3])
    assert scheduler.num_parked_tokens >= num_had
    simulation.run()
    assert simulation.admitted[-4:] == [0, 1, 2, 3]
    assert all(simulation.texts[one.seq_id] == text_alone(one) for one in submits)


def test_who_gave_way_does_not_come_back_to_give_way_again_at_once() -> None:
    simulation = simulate()
    teach_that_outputs_are_short(simulation, 40)
    simulation.submit(*(submit_of(n, 2, 46, ignore_eog=True) for n in range(8)))
    scheduler = simulation.scheduler
    while not scheduler.counters.num_preempted:
        simulation.turn()
    while scheduler.num_running > 1:
        num_before, num_running = len(simulation.finishes), scheduler.num_running
        simulation.turn()
        assert scheduler.num_running <= num_running or len(simulation.finishes) > num_before
    simulation.run()
    assert scheduler.counters.num_preempted <= 10
