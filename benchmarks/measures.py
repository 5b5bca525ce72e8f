"""Turns the times of answers into the numbers of a result file; README.md says what each means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from benchmarks.load_generator import Answer

Metrics = dict[str, float]
GOOD_FIRST_S = 1.0  # the longest that a first token may take
GOOD_GAP_S = 0.3  # and the longest silence after it


def summarize(answers: Sequence[Answer]) -> dict[str, Metrics]:
    """Metrics of all answers as "all"; and of each group, where there are several."""
    groups = sorted({answer.group for answer in answers})
    result = {"all": _summarize(answers)}
    if len(groups) > 1:
        for group in groups:
            result[group] = _summarize([answer for answer in answers if answer.group == group])
    return result


def is_good(answer: Answer) -> bool:
    """Whether a person would call it prompt: a first token soon, and no long silence after it."""
    times_s = answer.token_times_s
    longest_gap_s = max((b - a for a, b in pairwise(times_s)), default=0.0)
    return times_s[0] - answer.start_s <= GOOD_FIRST_S and longest_gap_s <= GOOD_GAP_S


def highest_good_rate(fractions: Mapping[float, float], share: float = 0.9) -> float | None:
    """The highest rate at which such a share of the requests is good.

    fractions: what was measured, the good fraction by rate. Between the last rate that is good
    enough and the first that is not it is interpolated; a rate above a bad one does not count.
    None where even the lowest rate is too much.
    """
    best: float | None = None
    for rate, fraction in sorted(fractions.items()):
        if fraction < share:
            if best is None:
                return None
            above = fractions[best] - share
            return best + (rate - best) * above / (above + share - fraction)
        best = rate
    return best


def _summarize(answers: Sequence[Answer]) -> Metrics:
    start_s = min(answer.start_s for answer in answers)
    end_s = max(answer.token_times_s[-1] for answer in answers)
    firsts = [answer.token_times_s[0] - answer.start_s for answer in answers]
    gaps = np.concatenate([np.diff(answer.token_times_s) for answer in answers])
    num_output = sum(answer.num_output_tokens for answer in answers)
    num_events = sum(len(answer.token_times_s) for answer in answers)
    wall_s = end_s - start_s
    num_good = sum(map(is_good, answers))
    return {
        "num_requests": len(answers),
        "num_prompt_tokens": sum(answer.num_prompt_tokens for answer in answers),
        "num_output_tokens": num_output,
        "num_cached_tokens": sum(answer.num_cached_tokens for answer in answers),
        "events_per_token": round(num_events / num_output, 4),
        "wall_s": round(wall_s, 4),
        "tokens_per_s": round(num_output / wall_s, 3),
        "requests_per_s": round(len(answers) / wall_s, 4),
        "good_fraction": round(num_good / len(answers), 4),
        "goodput_per_s": round(num_good / wall_s, 4),
        **_percentiles("ttft_ms", firsts),
        **(_percentiles("gap_ms", gaps) if len(gaps) else {}),
    }


def _percentiles(name: str, times_s: Sequence[float] | np.ndarray) -> Metrics:
    values = np.asarray(times_s) * 1e3
    points = {f"{name}_p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 90, 99)}
    return {**points, f"{name}_max": round(float(values.max()), 3)}
