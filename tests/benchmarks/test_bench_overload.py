"""What the overload bench makes of the answers to its two loads."""

from __future__ import annotations

import pytest

from benchmarks.bench_overload import (
    Answer,
    Load,
    Phase,
    check,
    check_equal_prompts,
    refusal_cpu_ms,
)
from benchmarks.load_generator import BenchError


def _accepted(num_prompt_tokens: int, num_cached_tokens: int = 0) -> Answer:
    return Answer(0.0, 200, None, [1.0, 1.5], num_prompt_tokens, num_cached_tokens, True)


def _phase(answers: list[Answer], router_s: float = 0.0) -> Phase:
    return Phase(answers, 10.0, {"router": router_s, "engine": 9.0, "clients": 0.0})


REFUSED = Answer(0.0, 429, "1", is_whole=True)


def test_every_prompt_is_another_one() -> None:
    load = Load("http://127.0.0.1:1/v1/completions")
    assert len({load.request() for _ in range(50)}) == 50


def test_loads_are_not_compared_whose_prompts_took_more_tokens() -> None:
    full = _phase([_accepted(100)] * 3)
    check_equal_prompts(full, _phase([_accepted(100), REFUSED, _accepted(104)]))
    with pytest.raises(BenchError, match=r"100\.0 tokens at capacity and 165\.0 in overload"):
        check_equal_prompts(full, _phase([_accepted(165)]))
    with pytest.raises(BenchError, match="cannot be compared"):
        check_equal_prompts(full, _phase([_accepted(100, num_cached_tokens=50)]))


def test_a_refusal_costs_what_the_accepted_do_not_account_for() -> None:
    full, over = _phase([_accepted(1)] * 4, 0.4), _phase([_accepted(1)] * 8 + [REFUSED] * 10, 0.9)
    assert refusal_cpu_ms(full, over)["router"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(0.0, 429, None, is_whole=True),
        Answer(0.0, 503, "1", is_whole=True),
        Answer(0.0, 200, None, [1.0], is_whole=False),
    ],
    ids=["no Retry-After", "neither 200 nor 429", "a stream cut off"],
)
def test_an_answer_that_is_none_fails_the_bench(answer: Answer) -> None:
    with pytest.raises(BenchError):
        check([_accepted(1), answer])
