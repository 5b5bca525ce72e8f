"""Retry-After: tokens ahead by measured tokens a second, and the share that has to end."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_llamacpp.messages import Stats
from tgi_llamacpp.router.forecast import MAX_RETRY_AFTER_S, Forecast


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def stats(num_computed: int, *, num_ahead: int = 0, num_running: int = 4, epoch: int = 1) -> Stats:
    return msgspec.structs.replace(
        Stats.of_nothing(epoch),
        num_prefill_tokens=num_computed // 2,
        num_decode_tokens=num_computed - num_computed // 2,
        num_running=num_running,
        num_tokens_ahead=num_ahead,
    )


def measured(tokens_per_s: float, num_ahead: int) -> Forecast:
    clock = Clock()
    forecast = Forecast(clock)
    forecast.on_stats(stats(0))
    clock.now_s = 10.0
    forecast.on_stats(stats(round(tokens_per_s * 10), num_ahead=num_ahead))
    return forecast


def test_before_anything_is_measured_it_is_a_second() -> None:
    forecast = Forecast()
    assert forecast.retry_after_s(1, 8) == 1
    forecast.on_stats(stats(100, num_ahead=10**9))
    assert forecast.retry_after_s(1, 8) == 1


@pytest.mark.parametrize(
    ("num_missing", "num_open", "wait_s"), [(8, 8, 40), (1, 8, 5), (1, 16, 3), (99, 8, 40)]
)
def test_room_for_a_part_takes_that_part_of_the_time_for_all(
    num_missing: int, num_open: int, wait_s: int
) -> None:
    assert measured(50.0, num_ahead=2000).retry_after_s(num_missing, num_open) == wait_s


def test_an_idle_engine_says_nothing_about_its_speed() -> None:
    clock = Clock()
    forecast = Forecast(clock)
    for at_s, num_computed, num_running in (
        (0, 0, 4),
        (10, 500, 0),
        (3600, 500, 4),
        (3610, 1000, 4),
    ):
        clock.now_s = float(at_s)
        forecast.on_stats(stats(num_computed, num_running=num_running, num_ahead=2000))
    assert forecast.retry_after_s(1, 1) == 40


def test_another_engine_counts_from_nothing() -> None:
    clock = Clock()
    forecast = Forecast(clock)
    for at_s, epoch, num_computed in ((0, 1, 0), (10, 1, 500), (20, 2, 100), (30, 2, 600)):
        clock.now_s = float(at_s)
        forecast.on_stats(stats(num_computed, epoch=epoch, num_ahead=2000))
    assert forecast.retry_after_s(1, 1) == 40


@given(st.floats(0.01, 1e6), st.integers(0, 10**9), st.integers(1, 10**4), st.integers(0, 10**4))
def test_it_is_a_whole_number_within_its_bounds(
    rate: float, num_ahead: int, num_missing: int, num_open: int
) -> None:
    wait_s = measured(rate, num_ahead).retry_after_s(num_missing, num_open)
    assert isinstance(wait_s, int)
    assert 1 <= wait_s <= MAX_RETRY_AFTER_S
