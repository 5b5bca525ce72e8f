"""What llama-server's HTTP side costs for a streamed token, to read beside bench_http's figure.

    python -m benchmarks.bench_http_peer

It serves the demo model on one thread, so that the main thread decodes and samples, and all other
threads are its HTTP side: they make the JSON and the events. (Detokenizing is the main thread's, so
the figure flatters it.) Linux only. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from pathlib import Path

from benchmarks.bench_http import DEMO, run_clients
from benchmarks.contestants import find_program, serving
from benchmarks.machine_state import describe

ROUTE = "/v1/completions"
_WARM_UP_TOKENS = 20


def cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds, user and system, of the main thread and of all others, ended ones included."""
    main_s = _cpu_s(Path(f"/proc/{pid}/task/{pid}/stat"))
    return main_s, _cpu_s(Path(f"/proc/{pid}/stat")) - main_s


def _cpu_s(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, num_streams: int, num_tokens: int) -> int:
    """Read the streams in another process; the number of events."""
    spawn = multiprocessing.get_context("spawn")
    near, far = spawn.Pipe()
    clients = spawn.Process(target=run_clients, args=(port, ROUTE, num_streams, num_tokens, far))
    clients.start()
    num_events: int = near.recv()
    clients.join()
    return num_events


def measure(program: str, num_streams: int, num_tokens: int) -> dict[str, object]:
    slot_tokens = -(-(num_tokens + 32) // 256) * 256

    def command(port: int) -> list[str]:
        return [
            *(program, "-m", str(DEMO / "demo.gguf"), "--host", "127.0.0.1", "--port", str(port)),
            *("-t", "1", "-np", str(num_streams), "-c", str(num_streams * slot_tokens)),
        ]

    with serving(command) as (url, pid):
        port = int(url.rpartition(":")[2].partition("/")[0])
        load(port, num_streams, _WARM_UP_TOKENS)
        before = cpu_s(pid)
        num_events = load(port, num_streams, num_tokens)
        main_s, others_s = (b - a for a, b in zip(before, cpu_s(pid), strict=True))
    return {
        "bench": "http_peer",
        "route": ROUTE,
        "streams": num_streams,
        "events": num_events,
        "http_cpu_us_per_token": round(others_s / num_events * 1e6, 2),
        "main_cpu_us_per_token": round(main_s / num_events * 1e6, 2),
        "machine": describe(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=400, help="per stream")
    options = parser.parse_args()
    result = measure(find_program("llama-server"), options.streams, options.tokens)
    print(f"{result['http_cpu_us_per_token']} µs of HTTP threads per streamed token")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
