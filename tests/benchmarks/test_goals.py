"""Goodput and goals are computed as README.md defines them, and every row can be run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench_poisson import format_fractions, format_rates, highest_rates
from benchmarks.compare import compare_goal, format_goals
from benchmarks.contestants import in_turn, parse_contestant
from benchmarks.goals import ROWS, Goal, Row
from benchmarks.load_generator import Answer
from benchmarks.measures import highest_good_rate, is_good, summarize
from benchmarks.scenarios import SCENARIOS, poisson_scenario, poisson_starts


def answer_of(*times_s: float) -> Answer:
    return Answer("all", 10.0, tuple(10.0 + time_s for time_s in times_s), 5, len(times_s), 0)


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ((0.9, 1.1, 1.3), True),
        ((1.1, 1.2), False),  # a late first token
        ((0.5, 0.7, 1.1), False),  # a silence of 0.4 s
        ((0.5,), True),
        ((0.2, 0.2, 0.49), True),  # two tokens of one event
    ],
)
def test_a_request_is_good_with_a_first_token_soon_and_no_long_silence(
    times_s: tuple[float, ...], expected: bool
) -> None:
    assert is_good(answer_of(*times_s)) is expected


def test_goodput_counts_good_requests_over_the_time_of_all() -> None:
    answers = [answer_of(0.5, 0.6), answer_of(0.5, 2.0), answer_of(0.1), answer_of(1.5, 4.0)]
    metrics = summarize(answers)["all"]
    assert metrics["good_fraction"] == 0.5
    assert metrics["goodput_per_s"] == pytest.approx(2 / 4)
    assert metrics["requests_per_s"] == pytest.approx(4 / 4)


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        ({0.2: 1.0, 0.3: 0.95}, 0.3),  # nothing tried was too much
        ({0.2: 1.0, 0.4: 0.8}, 0.3),  # half way from 1.0 to 0.8
        ({0.2: 0.9, 0.4: 0.5}, 0.2),
        ({0.2: 0.5, 0.4: 0.95}, None),  # a rate above a bad one is luck
    ],
)
def test_the_highest_good_rate_is_where_nine_of_ten_are_good(
    fractions: dict[float, float], expected: float | None
) -> None:
    assert highest_good_rate(fractions) == pytest.approx(expected)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_the_law() -> None:
    starts = poisson_starts(random.Random(0), 4.0, 20_000)
    gaps = [b - a for a, b in zip([0.0, *starts], starts, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert min(gaps) >= 0
    assert mean == pytest.approx(1 / 4, rel=0.03)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.05)


def test_the_poisson_mix_is_that_of_the_goal() -> None:
    scenario = poisson_scenario("0.5B", 0.5, 400)
    streams = scenario.build(random.Random(0))
    assert [len(stream.requests) for stream in streams] == [1] * 400
    requests = [stream.requests[0] for stream in streams]
    for request in requests:
        assert request.prompt.count(" ") == request.num_prompt_tokens
        assert 32 <= request.num_prompt_tokens <= 512
        assert 8 <= request.num_output_tokens <= 128
    heads = [tuple(request.prompt.split()[:256]) for request in requests]
    num_sharing = max(map(heads.count, set(heads)))
    assert 160 <= num_sharing <= 240


def test_rates_are_found_pair_by_pair() -> None:
    runs = [
        {
            "scenario": f"poisson@{rate:.3f}",
            "contestant": "a",
            "pair": pair,
            "metrics": {"all": {"good_fraction": fraction, "goodput_per_s": fraction * rate}},
        }
        for pair, fractions in enumerate(((1.0, 0.8), (0.5, 0.5)))
        for rate, fraction in zip((0.2, 0.4), fractions, strict=True)
    ]
    scenarios = {"poisson@0.200": {}, "poisson@0.400": {}}
    result = {"contestants": {"a": {}}, "pairs": 2, "runs": runs, "share": 0.9}
    assert "75.0% good, 0.150 a second" in format_fractions({**result, "scenarios": scenarios})
    rates = highest_rates(result)
    assert rates == {"a": [pytest.approx(0.3), None]}
    assert "0.150 [0.000, 0.300]" in format_rates(rates)


# Goals


def result_of(values: dict[tuple[str, str], list[float]], row: str) -> dict[str, Any]:
    """values: tokens per second by pair, of (scenario, contestant)."""
    runs = [
        {
            "scenario": scenario,
            "contestant": name,
            "pair": pair,
            "metrics": {"all": {"tokens_per_s": value}},
        }
        for (scenario, name), by_pair in values.items()
        for pair, value in enumerate(by_pair)
    ]
    return {"rows": [row], "runs": runs}


def test_a_goal_says_whether_the_median_of_the_pairs_reaches_it() -> None:
    theirs = ("churn-8", "llama-server")
    ours = ("churn-8", "tgi-llamacpp")
    result = result_of({theirs: [10, 10, 10], ours: [16, 18, 30]}, "churn")
    assert compare_goal(result, ROWS["churn"].goals[0]) == [1.8, 1.6, 3.0]
    assert format_goals(result).endswith("at least 1.7: reached")
    result = result_of({theirs: [10, 10, 10], ours: [16, 16, 30]}, "churn")
    assert format_goals(result).endswith("at least 1.7: NOT REACHED")
    assert format_goals(result_of({theirs: [10]}, "churn")).endswith("not run")


def test_a_goal_may_compare_ours_with_ours_in_another_scenario() -> None:
    ours = "tgi-llamacpp"
    result = result_of({("streams-8", ours): [100, 50], ("beside-8", ours): [90, 20]}, "beside")
    assert compare_goal(result, ROWS["beside"].goals[0]) == [0.65, 0.4, 0.9]


def test_an_interval_must_reach_what_it_is_asked_to() -> None:
    goal = Goal("streams-1", "tokens_per_s", least=0.98, reach=1.0)
    assert goal.is_reached([0.985, 0.97, 1.001])
    assert not goal.is_reached([0.985, 0.97, 0.999])


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_every_row_names_scenarios_that_there_are(row: Row, tmp_path: Path) -> None:
    assert set(row.scenarios) <= SCENARIOS.keys()
    assert {goal.scenario for goal in row.goals} <= set(row.scenarios)
    contestants = row.contestants(tmp_path)
    assert contestants[0] == "llama-server"
    assert contestants[-1] == "tgi-llamacpp"


def test_nobody_is_always_the_first_of_a_pair() -> None:
    first, second = (parse_contestant(name, 1) for name in ("tgi-llamacpp", "other=tgi-llamacpp"))
    assert in_turn([first, second], 0) == [first, second]
    assert in_turn([first, second], 1) == [second, first]
