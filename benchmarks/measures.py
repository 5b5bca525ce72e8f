"""Turns the times of answers into the numbers of a result file; README.md says what each means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.load_generator import Answer

Metrics = dict[str, float]


def summarize(answers: Sequence[Answer]) -> dict[str, Metrics]:
    """Metrics of all answers as "all"; and of each group, where there are several."""
    groups = sorted({answer.group for answer in answers})
    result = {"all": _summarize(answers)}
    if len(groups) > 1:
        for group in groups:
            result[group] = _summarize([answer for answer in answers if answer.group == group])
    return result


def _summarize(answers: Sequence[Answer]) -> Metrics:
    start_s = min(answer.start_s for answer in answers)
    end_s = max(answer.token_times_s[-1] for answer in answers)
    firsts = [answer.token_times_s[0] - answer.start_s for answer in answers]
    gaps = np.concatenate([np.diff(answer.token_times_s) for answer in answers])
    num_output = sum(answer.num_output_tokens for answer in answers)
    num_events = sum(len(answer.token_times_s) for answer in answers)
    wall_s = end_s - start_s
    return {
        "num_requests": len(answers),
        "num_prompt_tokens": sum(answer.num_prompt_tokens for answer in answers),
        "num_output_tokens": num_output,
        "num_cached_tokens": sum(answer.num_cached_tokens for answer in answers),
        "events_per_token": round(num_events / num_output, 4),
        "wall_s": round(wall_s, 4),
        "tokens_per_s": round(num_output / wall_s, 3),
        **_percentiles("ttft_ms", firsts),
        **(_percentiles("gap_ms", gaps) if len(gaps) else {}),
    }


def _percentiles(name: str, times_s: Sequence[float] | np.ndarray) -> Metrics:
    values = np.asarray(times_s) * 1e3
    points = {f"{name}_p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 90, 99)}
    return {**points, f"{name}_max": round(float(values.max()), 3)}
