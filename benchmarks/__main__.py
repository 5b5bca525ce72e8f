"""Runs benches one after the other, each in its own process, and keeps what they print last.

python -m benchmarks                  the layers: sampler, scheduler, socket, HTTP
python -m benchmarks scheduler http   those two
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

LAYERS = ("sampler", "scheduler", "socket", "http")
REPOSITORY = Path(__file__).parents[1]
RESULTS_DIR = Path(__file__).parent / "results"


def run_layer(name: str) -> None:
    """Run one bench; its last line, which is JSON, becomes the result file of today."""
    command = [sys.executable, "-m", f"benchmarks.bench_{name}"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last_line = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last_line = line
    if process.returncode:
        raise SystemExit(f"bench_{name} failed with {process.returncode}")
    RESULTS_DIR.mkdir(exist_ok=True)
    path = RESULTS_DIR / f"{datetime.date.today().isoformat()}-{name}.json"
    path.write_text(last_line)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="LAYER", help=", ".join(LAYERS))
    names = parser.parse_args().names or LAYERS
    if unknown := [name for name in names if name not in LAYERS]:
        parser.error(f"{unknown[0]} is none of {', '.join(LAYERS)}")
    for name in names:
        run_layer(name)


if __name__ == "__main__":
    main()
