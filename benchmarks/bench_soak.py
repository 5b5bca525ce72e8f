"""Whether memory stays flat under everything at once: all processes, sampled under mixed load.

    python -m benchmarks.bench_soak --minutes 20
    python -m benchmarks.bench_soak --minutes 3 --model 135M

Some clients send requests of every kind one after the other, on all routes: streamed and not, with
every sampler, stop strings, shared beginnings, long prompts; some leave before the end, and some
requests are wrong. What remembers words is filled before. The first part, a quarter, is warm-up;
then lines are fitted to the memory of each process. README.md says the rule of the verdict. The
last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import datetime
import json
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

import tgi_llamacpp
from benchmarks.contestants import serving
from benchmarks.load_generator import BenchError
from benchmarks.machine_state import describe
from benchmarks.make_models import ensure_model
from benchmarks.mixed_load import BROKEN_OFF, Ending, ask, draw, new_words
from benchmarks.process_memory import Growth, Sample, children, growth, take_sample, verdict

RESULTS_DIR = Path(__file__).parent / "results"
SAMPLE_EVERY_S = 2.0
WARM_UP_SHARE = 0.25
LIMIT_KIB_PER_MINUTE = 64.0  # 90 MiB a day
_NUM_NEW_WORDS = 12_000  # a tokenizer remembers 10,000, which the load fills slowly
_KINDS = ("rss_kib", "pss_kib", "anonymous_kib")
_REST_S = 3.0  # after the load, until connections are gone
_MAX_PROBLEMS = 20


@dataclass
class Soak:
    """One run: who ended how, and the samples of each process by its name."""

    endings: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    at_rest: dict[str, list[Sample]] = field(default_factory=dict)  # before and after the load
    num_requests: int = 0

    def note(self, ending: Ending) -> None:
        self.num_requests += 1
        status = ending.status or ("left" if ending.kind == BROKEN_OFF else "none")
        self.endings[f"{ending.kind} {status}"] += 1
        if ending.problem and len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(ending.problem)
            print(f"problem: {ending.problem}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--model", default="demo", help="demo, or one of make_models")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="soak", help="of the result file")
    parser.add_argument("--results-dir", type=Path, default=RESULTS_DIR)
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes below 1 has too few samples for a slope")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped on the way out
    try:
        return _run(options)
    except BenchError as error:
        print(f"bench_soak: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    with serving(lambda port: _command(options, port)) as (url, pid):
        soak = uvloop.run(_soak(url, pid, options))
    result = _result(soak, options)
    path = options.results_dir / f"{result['date'][:10]}-{options.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(format_result(result))
    print(path)
    print(json.dumps({**result, "samples": None}))
    return 0 if result["verdict"] == "flat" and not result["problems"] else 1


def _command(options: argparse.Namespace, port: int) -> list[str]:
    is_demo = options.model == "demo"
    folder = Path(tgi_llamacpp.__file__).parent / "demo"
    model = folder / "demo.gguf" if is_demo else ensure_model(options.model)
    return [
        *(sys.executable, "-m", "tgi_llamacpp", "serve", "--model-id", str(model)),
        *("--hostname", "127.0.0.1", "--port", str(port), "--n-threads", str(options.threads)),
        *("--max-batch-size", "8", "--max-concurrent-requests", "64"),
        *("--cache-ram", "64"),  # full long before the warm-up ends
    ]


async def _soak(url: str, pid: int, options: argparse.Namespace) -> Soak:
    soak = Soak()
    engine = children(pid)["engine"]
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    start_s = time.monotonic()
    until_s = start_s + options.minutes * 60

    def look(into: dict[str, list[Sample]]) -> None:
        processes = {"router": pid, **children(pid)}
        if processes.get("engine") != engine:
            raise BenchError("the engine is another one: it died under the load")
        for name, process in processes.items():
            sample = take_sample(process, round(time.monotonic() - start_s, 2), soak.num_requests)
            into.setdefault(name, []).append(sample)

    look(soak.at_rest)
    for call in new_words(_NUM_NEW_WORDS):
        soak.note(await ask(host, port, call))
    clients = [
        asyncio.create_task(
            _client(soak, host, port, random.Random(f"{options.seed}.{i}"), until_s)
        )
        for i in range(options.clients)
    ]
    while time.monotonic() < until_s:
        await asyncio.sleep(SAMPLE_EVERY_S)
        look(soak.samples)
        _show(soak)
    await asyncio.gather(*clients)
    await asyncio.sleep(_REST_S)
    look(soak.at_rest)
    return soak


async def _client(soak: Soak, host: str, port: int, dice: random.Random, until_s: float) -> None:
    while time.monotonic() < until_s:
        soak.note(await ask(host, port, draw(dice)))


def _show(soak: Soak) -> None:
    if len(soak.samples["router"]) % 15:
        return
    latest = {name: samples[-1] for name, samples in soak.samples.items()}
    held = "  ".join(
        f"{name} {sample.rss_kib} KiB {sample.num_fds} files {sample.num_threads} threads"
        for name, sample in latest.items()
    )
    at_s = latest["router"].at_s
    print(f"{at_s:7.0f} s {soak.num_requests:7d} requests  {held}", flush=True)


def _result(soak: Soak, options: argparse.Namespace) -> dict[str, Any]:
    processes = {name: analyse(samples) for name, samples in soak.samples.items()}
    for name, looks in soak.at_rest.items():
        before, after = looks[0], looks[-1]
        processes[name]["files_at_rest"] = [before.num_fds, after.num_fds]
        processes[name]["threads_at_rest"] = [before.num_threads, after.num_threads]
    verdicts = [analysis["verdict"] for analysis in processes.values()]
    worst = next((word for word in ("grows", "unclear") if word in verdicts), "flat")
    return {
        "name": options.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "minutes": options.minutes,
        "model": options.model,
        "clients": options.clients,
        "seed": options.seed,
        "limit_kib_per_minute": LIMIT_KIB_PER_MINUTE,
        "num_requests": soak.num_requests,
        "endings": dict(sorted(soak.endings.items())),
        "problems": soak.problems,
        "processes": processes,
        "verdict": worst,
        "samples": {name: [asdict(s) for s in found] for name, found in soak.samples.items()},
    }


def analyse(samples: list[Sample]) -> dict[str, Any]:
    """Growth after the warm-up, and the verdict on it. Memory in KiB."""
    end_s = samples[-1].at_s
    kept = [sample for sample in samples if sample.at_s >= WARM_UP_SHARE * end_s]
    minutes = [sample.at_s / 60 for sample in kept]
    thousands = [sample.num_requests / 1000 for sample in kept]
    found: dict[str, Any] = {}
    for name in _KINDS:
        values = [getattr(sample, name) for sample in kept]
        by_minute = growth(minutes, values)
        found[name] = {
            "start": values[0],
            "end": values[-1],
            "largest": max(values),
            "per_minute": _rounded(by_minute),
            "per_1000_requests": _rounded(growth(thousands, values)),
        }
        if name == "rss_kib":
            found["verdict"] = verdict(by_minute, LIMIT_KIB_PER_MINUTE)
    return found


def _rounded(found: Growth) -> list[float]:
    return [round(found.slope, 1), round(found.margin, 1)]


def format_result(result: dict[str, Any]) -> str:
    """A table for people: a line for each process and kind of memory."""
    lines = [f"{result['num_requests']} requests in {result['minutes']:g} minutes after the start"]
    lines += [f"  {count:7d} {ending}" for ending, count in result["endings"].items()]
    for name, analysis in result["processes"].items():
        for kind in _KINDS:
            memory = analysis[kind]
            by_minute, by_requests = memory["per_minute"], memory["per_1000_requests"]
            lines.append(
                f"{name:16} {kind.removesuffix('_kib'):9} "
                f"{memory['start']:8d} to {memory['end']:8d} KiB, "
                f"{by_minute[0]:+8.1f} ± {by_minute[1]:.1f} KiB a minute, "
                f"{by_requests[0]:+8.1f} ± {by_requests[1]:.1f} KiB for 1000 requests"
            )
        files, threads = analysis["files_at_rest"], analysis["threads_at_rest"]
        lines.append(
            f"{name:16} at rest before and after: {files[0]}, {files[1]} files, "
            f"{threads[0]}, {threads[1]} threads: {analysis['verdict']}"
        )
    lines.append(f"{result['verdict']}; {len(result['problems'])} problems")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
