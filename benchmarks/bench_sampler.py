"""Time per row of the C++ sampler, by vocabulary, shape of the logits and parameters.

Builds and runs csrc/tests/bench_sampler.cpp, which measures; no Python is in the timed part. Prints
a table, and as the last line JSON. `fastest` is the tenth percentile: what the code takes when
nothing else wants the CPU.

    python benchmarks/bench_sampler.py --rounds 100
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import machine_state

_REPOSITORY = Path(__file__).parents[1]
_BUILD = _REPOSITORY / "build" / "core-0"  # the folder of `make test-native`
_TOOLS = Path(sys.executable).parent  # cmake and ninja of the development environment


def build() -> Path:
    """Compile the bench; the path of the program."""
    cmake = str(_TOOLS / "cmake")
    source = ["-S", str(_REPOSITORY / "csrc"), "-B", str(_BUILD), "-G", "Ninja", "-DSANITIZE=0"]
    ninja = f"-DCMAKE_MAKE_PROGRAM={_TOOLS / 'ninja'}"
    subprocess.run([cmake, *source, ninja], check=True, stdout=subprocess.DEVNULL)
    make = [cmake, "--build", str(_BUILD), "--target", "bench_sampler"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return _BUILD / "bench_sampler"


def measure(program: Path, num_rounds: int) -> list[dict[str, object]]:
    """One dict for each case, as the program prints them: 16 rows are sampled in every round."""
    done = subprocess.run([program, str(num_rounds)], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def print_table(rows: list[dict[str, object]]) -> None:
    print(f"{'vocabulary':>10}  {'logits':6}  {'parameters':28}  {'median':>9}  {'fastest':>9}")
    for row in rows:
        times = f"{row['median_us']:>6} us  {row['p10_us']:>6} us"
        print(f"{row['vocab']:>10}  {row['logits']:6}  {row['case']:28}  {times}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="of 16 rows, for each case")
    num_rounds = parser.parse_args().rounds
    program = build()
    busy_cpus = machine_state.busy_cpus()
    rows = measure(program, num_rounds)
    print_table(rows)
    state = {"machine": machine_state.describe(), "busy_cpus": busy_cpus}
    print(json.dumps({"bench": "sampler", **state, "rows": rows}))


if __name__ == "__main__":
    main()
