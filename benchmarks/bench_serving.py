"""Serving over HTTP with a real model: this project beside llama-server, same GGUF, same cores.

    python -m benchmarks.bench_serving --pairs 6
    python -m benchmarks.bench_serving --row churn --max-minutes 10
    python -m benchmarks.bench_serving --scenario streams-16 --contestant tgi-llamacpp

Each pair starts every contestant once, in turn, every other pair from last to first, warms it up
and runs the scenario a few times with prompts that it has not seen. The result file is rewritten
after every pair; compare.py reads it. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.compare import compare_contestants, format_goals, format_table
from benchmarks.contestants import Contestant, in_turn, parse_contestant
from benchmarks.cpu_quota import why_no_quota
from benchmarks.goals import OURS, ROWS
from benchmarks.load_generator import BenchError
from benchmarks.machine_state import QUIET_BUSY_CPUS, describe
from benchmarks.scenarios import DEFAULT_SCENARIOS, SCENARIOS, Scenario

REPOSITORY = Path(__file__).parents[1]
RESULTS_DIR = Path(__file__).parent / "results"
DEFAULT_CONTESTANTS = ("llama-server", "tgi-llamacpp")


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # the servers are stopped on the way out
    try:
        return _run(arguments)
    except BenchError as error:
        print(f"bench_serving: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--row",
        action="append",
        choices=ROWS,
        help="of the table of goals: its scenarios, with llama-server at its defaults and at the "
        "flags that its documentation has for them; may be repeated",
    )
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="may be repeated")
    parser.add_argument(
        "--contestant",
        action="append",
        help="a program with flags of its own, e.g. 'llama-server -ub 256'; the first is what the "
        f"others are compared with; may be repeated (default: {', '.join(DEFAULT_CONTESTANTS)})",
    )
    parser.add_argument("--pairs", type=int, default=6, help="turns of every contestant (6)")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs in a turn (3)")
    parser.add_argument(
        "--max-minutes", type=float, help="begin no pair that would probably end later"
    )
    parser.add_argument("--threads", type=int, default=2, help="of every contestant (2)")
    parser.add_argument("--name", default="serving", help="of the result file (serving)")
    parser.add_argument("--results-dir", type=Path, default=RESULTS_DIR)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    names = arguments.scenario or ([] if arguments.row else DEFAULT_SCENARIOS)
    names = [*names, *(name for row in arguments.row or () for name in ROWS[row].scenarios)]
    scenarios = _possible([SCENARIOS[name] for name in dict.fromkeys(names)])
    contestants = [parse_contestant(name, arguments.threads) for name in _contestants(arguments)]
    result = _new_result(scenarios, contestants, arguments)
    print(f"load average {_load_average()} on {result['machine']['cpu']}")
    path = arguments.results_dir / f"{result['date'][:10]}-{arguments.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    for pair in range(arguments.pairs):
        for scenario in scenarios:
            for contestant in in_turn(contestants, pair):
                if contestant.can_run(scenario):
                    _measure(result, scenario, contestant, pair, arguments.repeats)
        result["pairs"] = pair + 1
        path.write_text(json.dumps(result, indent=1) + "\n")
        minutes = (time.monotonic() - started_s) / 60
        if arguments.max_minutes and minutes * (pair + 2) / (pair + 1) > arguments.max_minutes:
            break
    comparisons = compare_contestants(result)
    print(format_table(comparisons))
    print(format_goals(result))
    print(path)
    print(json.dumps({**result, "runs": len(result["runs"]), "comparisons": comparisons}))
    return 0


def _possible(scenarios: list[Scenario]) -> list[Scenario]:
    """Those that this machine can run; a sentence for each of the others."""
    why_not = why_no_quota() if any(one.cpu_quota for one in scenarios) else None
    for scenario in scenarios:
        if scenario.cpu_quota and why_not:
            print(f"{scenario.name} is left out: {why_not}")
    return [one for one in scenarios if not (one.cpu_quota and why_not)]


def _contestants(arguments: argparse.Namespace) -> list[str]:
    """Those that were named, else those of the rows, the first and ours in any case."""
    if arguments.contestant:
        return list(arguments.contestant)
    rows = [ROWS[name].contestants(REPOSITORY) for name in arguments.row or ()]
    names = list(dict.fromkeys(name for row in rows for name in row if name != OURS))
    return [*names, OURS] if names else list(DEFAULT_CONTESTANTS)


def _new_result(
    scenarios: list[Scenario], contestants: list[Contestant], arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "name": arguments.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "load_average_at_start": _load_average(),
        "pairs": 0,
        "rows": arguments.row or [],
        "repeats": arguments.repeats,
        "contestants": {c.name: about(c, scenarios) for c in contestants},
        "scenarios": {s.name: _definition(s) for s in scenarios},
        "runs": [],
    }


def _measure(
    result: dict[str, Any], scenario: Scenario, contestant: Contestant, pair: int, repeats: int
) -> None:
    """Adds the runs of one turn. The prompts depend on the pair alone."""
    for repeat, run in enumerate(contestant.measure(scenario, seed=pair, repeats=repeats)):
        where = {"scenario": scenario.name, "contestant": contestant.name}
        result["runs"].append({**where, "pair": pair, "repeat": repeat, **run})
        metrics = run["metrics"]["all"]
        busy = run["others_busy_cpus"]
        remark = "" if busy <= QUIET_BUSY_CPUS else f"   (others kept {busy:.1f} CPUs busy)"
        print(
            f"{pair}.{repeat} {scenario.name:14} {contestant.name:28} "
            f"{metrics['tokens_per_s']:8.1f} tok/s  gap {metrics['gap_ms_p50']:7.1f} ms{remark}",
            flush=True,
        )


def about(contestant: Contestant, scenarios: list[Scenario]) -> dict[str, object]:
    """Its version, and the command for each scenario, without the folders of this machine."""
    commands = {s.name: contestant.command(s) for s in scenarios if contestant.can_run(s)}
    shorten = {name: [part.rpartition("/")[2] for part in c] for name, c in commands.items()}
    return {
        "version": _version_of(contestant),
        "has_openmp": _has_openmp(Path(contestant.program[0])),
        "commands": shorten,
    }


def _has_openmp(program: Path) -> bool | None:
    """Whether the ggml beside a llama.cpp program was built with OpenMP; None if none is there."""
    library = program.resolve().parent / "libggml-cpu.so"
    return b"libgomp.so" in library.read_bytes() if library.exists() else None


def _version_of(contestant: Contestant) -> str | None:
    if contestant.kind == "tgi-llamacpp":
        return metadata.version("tgi-llamacpp")
    program = [contestant.program[0], "--version"]
    answer = subprocess.run(program, capture_output=True, text=True, check=False)
    lines = (answer.stdout + answer.stderr).splitlines()
    return next((line for line in lines if "version" in line), None)


def _definition(scenario: Scenario) -> dict[str, object]:
    return {
        "model": scenario.model,
        "num_slots": scenario.num_slots,
        "slot_tokens": scenario.slot_tokens,
        "temperature": scenario.sampling.temperature,
        "top_p": scenario.sampling.top_p,
        "repetition_penalty": scenario.sampling.repetition_penalty,
        "is_warm": scenario.is_warm,
        "num_busy_beside": scenario.num_busy_beside,
        "busy_nice": scenario.busy_nice,
        "cpu_quota": scenario.cpu_quota,
    }


def _load_average() -> list[float]:
    return [round(value, 2) for value in os.getloadavg()]


if __name__ == "__main__":
    sys.exit(main())
