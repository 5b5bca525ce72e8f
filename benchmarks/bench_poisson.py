"""The highest rate of Poisson arrivals that a server keeps up with, beside llama-server's.

    python -m benchmarks.bench_poisson --pairs 6
    python -m benchmarks.bench_poisson --capacity 0.45 --fractions 0.5 0.7 --max-minutes 10

A request is good if its first token comes within a second and no silence after it is longer than
0.3 s. Rates are fractions of the first contestant's capacity, which is what it finishes in a closed
loop of 16 clients. A contestant's rate is the highest at which nine of ten requests are good
(--share): a share that no rate reaches where a prompt alone takes longer than a second to read.
The result file has the form of bench_serving's; the last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench_serving import RESULTS_DIR, about
from benchmarks.contestants import Contestant, in_turn, parse_contestant
from benchmarks.load_generator import BenchError
from benchmarks.machine_state import describe
from benchmarks.measures import highest_good_rate
from benchmarks.scenarios import Scenario, capacity_scenario, poisson_scenario

FRACTIONS = (0.5, 0.7, 0.9)
# llama-server at its defaults, with small batches, and with one pool and sampling in the graph too.
CONTESTANTS = (
    "llama-server",
    "llama-server -b 128 -ub 128",
    "llama-server -b 128 -ub 128 -kvu -bs",
    "tgi-llamacpp",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="0.5B")
    parser.add_argument("--contestant", action="append", help="as bench_serving has it")
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    parser.add_argument("--capacity", type=float, help="requests a second; else it is measured")
    parser.add_argument("--requests", type=int, default=24, help="of a run (24)")
    parser.add_argument("--share", type=float, default=0.9, help="that must be good (0.9)")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--max-minutes", type=float, help="begin no pair that would end later")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="poisson", help="of the result file")
    parser.add_argument("--results-dir", type=Path, default=RESULTS_DIR)
    try:
        return _run(parser.parse_args())
    except BenchError as error:
        print(f"bench_poisson: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    names = options.contestant or CONTESTANTS
    contestants = [parse_contestant(name, options.threads) for name in names]
    capacity = options.capacity or _capacity(contestants[0], options.model)
    print(f"{contestants[0].name}: {capacity:.3f} requests a second in a closed loop")
    scenarios = [
        poisson_scenario(options.model, fraction * capacity, options.requests)
        for fraction in sorted(options.fractions)
    ]
    result = _new_result(contestants, scenarios, capacity, options)
    path = options.results_dir / f"{result['date'][:10]}-{options.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    for pair in range(options.pairs):
        for scenario in scenarios:
            for contestant in in_turn(contestants, pair):
                _measure(result, scenario, contestant, pair)
        result["pairs"] = pair + 1
        result["highest_rates"] = highest_rates(result)
        path.write_text(json.dumps(result, indent=1) + "\n")
        minutes = (time.monotonic() - started_s) / 60
        if options.max_minutes and minutes * (pair + 2) / (pair + 1) > options.max_minutes:
            break
    print(format_fractions(result))
    print(format_rates(result["highest_rates"]))
    print(path)
    print(json.dumps(result))
    return 0


def _capacity(contestant: Contestant, model: str) -> float:
    (run,) = contestant.measure(capacity_scenario(model), seed=0, repeats=1)
    return float(run["metrics"]["all"]["requests_per_s"])


def _new_result(
    contestants: list[Contestant],
    scenarios: list[Scenario],
    capacity: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    return {
        "name": options.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "pairs": 0,
        "capacity_per_s": capacity,
        "share": options.share,
        "contestants": {c.name: about(c, scenarios) for c in contestants},
        "scenarios": {s.name: {"model": s.model, "num_slots": s.num_slots} for s in scenarios},
        "runs": [],
    }


def _measure(result: dict[str, Any], scenario: Scenario, contestant: Contestant, pair: int) -> None:
    (run,) = contestant.measure(scenario, seed=pair, repeats=1)
    where = {"scenario": scenario.name, "contestant": contestant.name}
    result["runs"].append({**where, "pair": pair, "repeat": 0, **run})
    metrics = run["metrics"]["all"]
    print(
        f"{pair} {scenario.name:14} {contestant.name:36} {metrics['good_fraction']:6.1%} good  "
        f"first {metrics['ttft_ms_p90']:8.0f} ms  longest gap {metrics['gap_ms_max']:7.0f} ms",
        flush=True,
    )


def highest_rates(result: dict[str, Any]) -> dict[str, list[float | None]]:
    """Of each contestant, requests a second by pair; None is below the lowest rate."""
    found: dict[str, list[float | None]] = {}
    for name in result["contestants"]:
        found[name] = []
        for pair in range(result["pairs"]):
            fractions = {
                float(run["scenario"].partition("@")[2]): run["metrics"]["all"]["good_fraction"]
                for run in result["runs"]
                if (run["contestant"], run["pair"]) == (name, pair)
            }
            found[name].append(highest_good_rate(fractions, result["share"]))
    return found


def format_fractions(result: dict[str, Any]) -> str:
    """The share of good requests, and good requests a second: medians of the pairs."""
    lines = []
    for scenario in result["scenarios"]:
        for name in result["contestants"]:
            found = [
                run["metrics"]["all"]
                for run in result["runs"]
                if (run["scenario"], run["contestant"]) == (scenario, name)
            ]
            share = median(metrics["good_fraction"] for metrics in found)
            rate = median(metrics["goodput_per_s"] for metrics in found)
            lines.append(f"{scenario:14} {name:36} {share:6.1%} good, {rate:.3f} a second")
    return "\n".join(lines)


def format_rates(rates: dict[str, list[float | None]]) -> str:
    """A line for each contestant; a pair below the lowest rate counts as none."""
    lines = []
    for name, by_pair in rates.items():
        values = [rate or 0.0 for rate in by_pair]
        middle, low, high = median(values), min(values), max(values)
        lines.append(f"{name:36} {middle:.3f} [{low:.3f}, {high:.3f}] good requests a second")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
