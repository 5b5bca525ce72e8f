"""Prints what two contestants differ in, with the noise that the difference must be read with.

    python -m benchmarks.compare RESULT.json             contestants of one file, pair by pair
    python -m benchmarks.compare OLD.json NEW.json       the same contestant in two files

A contestant's value in a pair is the median of its repeats; a ratio is taken within a pair; what is
printed is the median of the pairs, with the smallest and the largest of them. For rows of the table
of goals (goals.py) it says besides whether each goal is reached.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.goals import OURS, ROWS, Goal

METRICS = ("tokens_per_s", "ttft_ms_p50", "gap_ms_p50", "gap_ms_max", "wall_s")
Result = dict[str, Any]  # what bench_serving writes
Row = dict[str, Any]
_Values = dict[int, float]  # by pair


def compare_contestants(result: Result) -> list[Row]:
    """Every other contestant of a result beside its first."""
    baseline, *others = result["contestants"]
    return [row for other in others for row in _compare((result, baseline), (result, other))]


def compare_files(old: Result, new: Result) -> list[Row]:
    """Contestants and scenarios that both files have."""
    shared = [name for name in old["contestants"] if name in new["contestants"]]
    return [row for name in shared for row in _compare((old, name), (new, name))]


def _compare(first: tuple[Result, str], second: tuple[Result, str]) -> list[Row]:
    scenarios = [name for name in first[0]["scenarios"] if name in second[0]["scenarios"]]
    rows = []
    for scenario in scenarios:
        for group in _groups(first[0], scenario):
            for metric in METRICS:
                a = _values(*first, scenario, group, metric)
                b = _values(*second, scenario, group, metric)
                if pairs := sorted(a.keys() & b.keys()):
                    where = {"scenario": scenario, "group": group, "metric": metric}
                    names = {"baseline": first[1], "contestant": second[1]}
                    rows.append({**where, **names, **_row(a, b, pairs)})
    return rows


def _row(a: _Values, b: _Values, pairs: list[int]) -> Row:
    return {
        "num_pairs": len(pairs),
        "baseline_value": _spread([a[pair] for pair in pairs]),
        "value": _spread([b[pair] for pair in pairs]),
        "ratio": _spread([b[pair] / a[pair] for pair in pairs if a[pair]]),
    }


def _spread(values: list[float]) -> list[float]:
    """[median, smallest, largest]"""
    return [round(v, 4) for v in (median(values), min(values), max(values))] if values else []


def _groups(result: Result, scenario: str) -> list[str]:
    runs = [run for run in result["runs"] if run["scenario"] == scenario]
    return list(dict.fromkeys(group for run in runs for group in run["metrics"]))


def _values(result: Result, contestant: str, scenario: str, group: str, metric: str) -> _Values:
    by_pair: dict[int, list[float]] = {}
    for run in result["runs"]:
        if (run["contestant"], run["scenario"]) == (contestant, scenario):
            metrics = run["metrics"].get(group, {})
            if metric in metrics:
                by_pair.setdefault(run["pair"], []).append(metrics[metric])
    return {pair: median(values) for pair, values in by_pair.items()}


def compare_goal(result: Result, goal: Goal) -> list[float]:
    """The ratio of a goal as [median, smallest, largest] of the pairs; empty if it was not run."""
    baseline = goal.baseline if goal.reference is None else OURS
    scenario = goal.reference or goal.scenario
    theirs = _values(result, baseline, scenario, goal.group, goal.metric)
    ours = _values(result, OURS, goal.scenario, goal.group, goal.metric)
    return _spread([ours[pair] / theirs[pair] for pair in theirs if pair in ours and theirs[pair]])


def format_goals(result: Result) -> str:
    """One line for each goal of the result's rows."""
    lines = []
    for goal in (goal for name in result.get("rows", ()) for goal in ROWS[name].goals):
        ratio = compare_goal(result, goal)
        verdict = "not run"
        if ratio:
            verdict = "reached" if goal.is_reached(ratio) else "NOT REACHED"
        what = goal.metric if goal.group == "all" else f"{goal.metric} ({goal.group})"
        other = goal.reference or goal.baseline
        ratio_text = _format_spread(ratio, ".3f")
        lines.append(f"{goal.scenario} {what} over {other}: {ratio_text}, {goal}: {verdict}")
    return "\n".join(lines)


def format_table(rows: list[Row]) -> str:
    """Columns for people: value and ratio as median [smallest, largest]."""
    head = ("scenario", "metric", "baseline", "", "contestant", "", "ratio")
    cells = [head]
    for row in rows:
        group = "" if row["group"] == "all" else f" ({row['group']})"
        cells.append(
            (
                row["scenario"],
                row["metric"] + group,
                row["baseline"],
                _format_spread(row["baseline_value"], ".1f"),
                row["contestant"],
                _format_spread(row["value"], ".1f"),
                _format_spread(row["ratio"], ".3f"),
            )
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _format_spread(spread: list[float], form: str) -> str:
    if not spread:
        return "-"
    middle, low, high = (format(value, form) for value in spread)
    return f"{middle} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT")
    arguments = parser.parse_args()
    loaded = [json.loads(path.read_text()) for path in arguments.results]
    if len(loaded) == 1:
        rows = compare_contestants(loaded[0])
    elif len(loaded) == 2:
        rows = compare_files(*loaded)
    else:
        parser.error("one file, or two to compare")
    print(format_table(rows))
    for result in loaded:
        if goals := format_goals(result):
            print(goals)


if __name__ == "__main__":
    main()
