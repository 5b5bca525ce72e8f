"""The rule that calls memory flat, on series that are known; and what the mixed load sends."""

from __future__ import annotations

import json
import os
import random

import pytest

from benchmarks.mixed_load import draw
from benchmarks.process_memory import growth, take_sample, verdict

MINUTES = [i / 30 for i in range(450)]  # a quarter of an hour, every two seconds


def series(slope: float, noise: float) -> list[float]:
    dice = random.Random(3)
    return [80_000 + slope * minute + dice.uniform(-noise, noise) for minute in MINUTES]


@pytest.mark.parametrize(
    ("slope", "noise", "expected"),
    [
        (0, 0, "flat"),
        (0, 300, "flat"),
        (30, 100, "flat"),
        (100, 100, "grows"),
        (64, 300, "unclear"),
    ],
)
def test_a_series_is_flat_only_if_its_whole_interval_is(
    slope: float, noise: float, expected: str
) -> None:
    found = growth(MINUTES, series(slope, noise))
    assert abs(found.slope - slope) <= 2 * found.margin + 1e-6
    assert verdict(found, limit=64.0) == expected


def test_a_process_is_seen_with_its_memory_files_and_threads() -> None:
    sample = take_sample(os.getpid(), 1.0, 2)
    assert 10_000 < sample.pss_kib <= sample.rss_kib
    assert 5_000 < sample.anonymous_kib <= sample.rss_kib
    assert sample.num_fds >= 3
    assert sample.num_threads >= 1


def test_the_mixed_load_has_every_kind_and_is_the_same_again() -> None:
    dice, again = random.Random(1), random.Random(1)
    calls = [draw(dice) for _ in range(500)]
    assert calls == [draw(again) for _ in range(500)]
    assert {call.path for call in calls} > {"/generate", "/v1/completions", "/vertex", "/metrics"}
    assert {call.num_reads is None for call in calls} == {True, False}
    for call in calls:
        if call.method == "POST" and call.kind != "wrong":
            json.loads(call.content)
