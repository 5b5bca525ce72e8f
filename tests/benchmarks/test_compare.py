"""Ratios are taken within a pair, from the medians of its repeats."""

from __future__ import annotations

from typing import Any

from benchmarks.compare import compare_contestants, compare_files, format_table


def result(speeds: dict[str, list[list[float]]]) -> dict[str, Any]:
    """speeds: contestant to its tokens per second, by pair and repeat."""
    runs = [
        {
            "scenario": "streams-1",
            "contestant": name,
            "pair": pair,
            "metrics": {"all": {"tokens_per_s": speed}},
        }
        for name, pairs in speeds.items()
        for pair, repeats in enumerate(pairs)
        for speed in repeats
    ]
    return {"contestants": dict.fromkeys(speeds), "scenarios": {"streams-1": {}}, "runs": runs}


def test_a_contestant_is_compared_with_the_first_pair_by_pair() -> None:
    rows = compare_contestants(result({"a": [[10, 10, 90], [20]], "b": [[11], [18]]}))
    assert len(rows) == 1
    assert rows[0]["num_pairs"] == 2
    assert rows[0]["baseline_value"] == [15, 10, 20]
    assert rows[0]["ratio"] == [1.0, 0.9, 1.1]
    assert "1.000 [0.900, 1.100]" in format_table(rows)


def test_two_files_compare_what_both_have() -> None:
    old, new = result({"a": [[10]], "b": [[5]]}), result({"b": [[6]], "c": [[7]]})
    rows = compare_files(old, new)
    assert [(row["baseline"], row["contestant"]) for row in rows] == [("b", "b")]
    assert rows[0]["ratio"] == [1.2, 1.2, 1.2]
