"""Ten times what a server can do is offered to it: what the accepted see, and what it costs.

    python -m benchmarks.bench_overload
    python -m benchmarks.bench_overload --model 0.5B --factor 10 --seconds 60

First a closed loop of as many clients as requests are accepted at once: its rate is the capacity,
and its latencies are those of a full server that refuses nobody. Then requests arrive at random, at
`factor` times that rate, whatever becomes of them. Both ask prompts of as many tokens, each its
own, so that refusals are the only difference; the bench fails if the server counted otherwise.
Every answer has to be a whole stream or a 429 with Retry-After. Resident memory and CPU time of
router, engine and clients are read all the while. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import re
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.contestants import serving
from benchmarks.load_generator import BenchError
from benchmarks.machine_state import cpu_s_of_tree, describe
from benchmarks.make_models import ensure_model
from benchmarks.process_memory import children
from benchmarks.scenarios import make_prompt

NUM_SLOTS = 8
NUM_PERMITS = 2 * NUM_SLOTS
_RSS_INTERVAL_S = 0.5
_USAGE = re.compile(rb'"prompt_tokens":(\d+).*"cached_tokens":(\d+)')
_MAX_PROMPT_RATIO = 1.05  # of the two loads' mean tokens to compute


@dataclass
class Answer:
    """One request: when it was sent, and what came when; times of one clock."""

    start_s: float
    status: int = 0
    retry_after: str | None = None
    token_times_s: list[float] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    is_whole: bool = False


@dataclass(frozen=True)
class Load:
    """What is asked, again and again; every prompt is another one, and as long."""

    url: str
    num_prompt_tokens: int = 128
    num_tokens: int = 32
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def request(self) -> bytes:
        parts = urlsplit(self.url)
        body = {
            "prompt": make_prompt(self.rng, self.num_prompt_tokens),
            "max_tokens": self.num_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "logprobs": 0,  # so that every token is an event
        }
        content = json.dumps(body).encode()
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


@dataclass(frozen=True)
class Phase:
    """The answers to one load, and the CPU seconds that router, engine and clients took."""

    answers: list[Answer]
    wall_s: float
    cpu_s: dict[str, float]

    @property
    def accepted(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def num_computed(self) -> float:
        """Prompt tokens of an accepted request that came from no cache, on average."""
        return fmean(a.num_prompt_tokens - a.num_cached_tokens for a in self.accepted)

    def summary(self) -> dict[str, Any]:
        """Of the accepted, times in ms: first token, and gaps between tokens."""
        accepted = self.accepted
        first = [1e3 * (answer.token_times_s[0] - answer.start_s) for answer in accepted]
        gaps = [
            1e3 * (later - earlier)
            for answer in accepted
            for earlier, later in zip(answer.token_times_s, answer.token_times_s[1:], strict=False)
        ]
        open_s = sum(answer.token_times_s[-1] - answer.start_s for answer in accepted)
        return {
            "num_accepted": len(accepted),
            "accepted_per_s": round(len(accepted) / self.wall_s, 3),
            "num_open": round(open_s / self.wall_s, 2),
            "num_computed_prompt_tokens": round(self.num_computed, 1),
            "first_ms": percentiles(first),
            "gap_ms": percentiles(gaps),
            "busy_cores": {name: round(s / self.wall_s, 3) for name, s in self.cpu_s.items()},
        }


async def ask(load: Load) -> Answer:
    parts, request = urlsplit(load.url), load.request()
    answer = Answer(time.perf_counter())
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    answer.status = int(head.split(b" ", 2)[1])
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    answer.retry_after = headers.get(b"retry-after", b"").decode() or None
    received = bytearray()
    while data := await reader.read(1 << 16):
        now_s = time.perf_counter()
        received += data
        num_fresh = received.count(b'"text":"') - len(answer.token_times_s)
        answer.token_times_s += [now_s] * num_fresh
    writer.close()
    answer.is_whole = answer.status != 200 or b"data: [DONE]" in received
    if usage := _USAGE.search(received):
        answer.num_prompt_tokens, answer.num_cached_tokens = map(int, usage.groups())
    return answer


async def closed_loop(load: Load, num_clients: int, seconds: float) -> list[Answer]:
    """All clients ask again as soon as they are answered."""
    end_s = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def client() -> None:
        while time.perf_counter() < end_s:
            answers.append(await ask(load))

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return answers


async def open_loop(load: Load, rate_per_s: float, seconds: float) -> list[Answer]:
    """Requests arrive at random, whatever becomes of those before."""
    dice = random.Random(1)
    start_s = at_s = time.perf_counter()
    tasks: list[asyncio.Task[Answer]] = []
    while (at_s := at_s + dice.expovariate(rate_per_s)) < start_s + seconds:
        await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(load)))
    return await asyncio.gather(*tasks)


async def observe(router_pid: int, work: Coroutine[Any, Any, list[Answer]]) -> Phase:
    """
    Raises:
        BenchError: an answer that is neither a whole stream nor a 429 with Retry-After.
    """
    start_s, before = time.perf_counter(), cpu_s(router_pid)
    answers = await work
    wall_s, after = time.perf_counter() - start_s, cpu_s(router_pid)
    check(answers)
    return Phase(answers, wall_s, {name: after[name] - before[name] for name in after})


def cpu_s(router_pid: int) -> dict[str, float]:
    engine_s = cpu_s_of_tree(children(router_pid)["engine"])
    router_s = cpu_s_of_tree(router_pid) - engine_s
    return {"router": router_s, "engine": engine_s, "clients": time.process_time()}


class MemoryWatch:
    """Resident memory of a router and of its engine, in MB, now and then."""

    def __init__(self, router_pid: int) -> None:
        self._pids = {"router": router_pid, "engine": children(router_pid)["engine"]}
        self.samples: dict[str, list[float]] = {name: [] for name in self._pids}

    async def run(self) -> None:
        while True:
            for name, pid in self._pids.items():
                self.samples[name].append(rss_mb(pid))
            await asyncio.sleep(_RSS_INTERVAL_S)

    def summary(self, start: int) -> dict[str, dict[str, float]]:
        """From sample `start` on."""
        return {
            name: {"first": found[start], "last": found[-1], "max": max(found[start:])}
            for name, found in self.samples.items()
        }


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6, 1)


async def measure(
    load: Load, router_pid: int, *, factor: float, seconds: float, capacity_s: float
) -> dict[str, Any]:
    """Both loads, one after the other.

    Raises:
        BenchError: a wrong answer; prompts of one load took more tokens than those of the other.
    """
    memory = MemoryWatch(router_pid)
    watching = asyncio.create_task(memory.run())
    await closed_loop(load, NUM_PERMITS, capacity_s / 8)
    full = await observe(router_pid, closed_loop(load, NUM_PERMITS, capacity_s))
    before = len(memory.samples["router"])
    capacity = len(full.answers) / full.wall_s
    over = await observe(router_pid, open_loop(load, factor * capacity, seconds))
    await asyncio.sleep(_RSS_INTERVAL_S)
    watching.cancel()
    check_equal_prompts(full, over)
    statuses = collections.Counter(str(answer.status) for answer in over.answers)
    return {
        "capacity_per_s": round(capacity, 3),
        "offered_per_s": round(len(over.answers) / seconds, 3),
        "num_offered": len(over.answers),
        "statuses": dict(statuses),
        "retry_after_s": percentiles([float(a.retry_after) for a in over.answers if a.retry_after]),
        "at_capacity": full.summary(),
        "overloaded": over.summary(),
        "refusal_cpu_ms": refusal_cpu_ms(full, over),
        "rss_mb": memory.summary(before - 1),
    }


def check(answers: Sequence[Answer]) -> None:
    for answer in answers:
        is_good = answer.status == 200 and len(answer.token_times_s) > 0
        is_refused = answer.status == 429 and answer.retry_after is not None
        if not (answer.is_whole and (is_good or is_refused)):
            raise BenchError(f"an answer that is none: {answer}")


def check_equal_prompts(full: Phase, over: Phase) -> None:
    fewer, more = sorted((full.num_computed, over.num_computed))
    if more > _MAX_PROMPT_RATIO * fewer:
        raise BenchError(
            f"prompts took {full.num_computed:.1f} tokens at capacity and {over.num_computed:.1f}"
            " in overload: latencies cannot be compared"
        )


def refusal_cpu_ms(full: Phase, over: Phase) -> dict[str, float]:
    """What a refusal costs router and clients: all that the accepted do not account for."""
    num_refused = len(over.answers) - len(over.accepted)
    more = len(over.accepted) / len(full.accepted)
    return {
        name: round(1e3 * (over.cpu_s[name] - more * full.cpu_s[name]) / max(1, num_refused), 3)
        for name in ("router", "clients")
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = quantiles(values, n=100, method="inclusive")
    found = {"mean": fmean(values), "p50": cuts[49], "p99": cuts[98], "max": max(values)}
    return {name: round(value, 1) for name, value in found.items()}


def format_table(result: dict[str, Any]) -> str:
    lines = [
        f"capacity {result['capacity_per_s']:.2f} a second, offered {result['offered_per_s']:.2f};"
        f" answers {result['statuses']}, Retry-After {result['retry_after_s']}",
        f"{'':12} {'accepted':>8} {'a second':>8} {'open':>5} {'prompt':>6} {'first p50':>10}"
        f" {'p99':>8} {'gap mean':>8} {'p50':>8} {'p99':>8}  ms",
    ]
    for name in ("at_capacity", "overloaded"):
        row = result[name]
        first, gap = row["first_ms"], row["gap_ms"]
        lines.append(
            f"{name:12} {row['num_accepted']:8} {row['accepted_per_s']:8.2f} {row['num_open']:5.1f}"
            f" {row['num_computed_prompt_tokens']:6.1f} {first['p50']:10.0f} {first['p99']:8.0f}"
            f" {gap['mean']:8.1f} {gap['p50']:8.1f} {gap['p99']:8.1f}"
            f"  busy cores {row['busy_cores']}"
        )
    lines.append(f"CPU ms for each refusal: {result['refusal_cpu_ms']}")
    lines += [f"{name} resident MB: {found}" for name, found in result["rss_mb"].items()]
    return "\n".join(lines)


def command(model: str, port: int, num_threads: int) -> list[str]:
    source = ["demo"] if model == "demo" else ["serve", "--model-id", str(ensure_model(model))]
    return [
        *(sys.executable, "-m", "tgi_llamacpp", *source, "--hostname", "127.0.0.1"),
        *("--port", str(port), "--n-threads", str(num_threads)),
        *("--max-batch-size", str(NUM_SLOTS), "--max-concurrent-requests", str(NUM_PERMITS)),
        *("--cache-ram", "0"),  # which grows to its limit, as it should
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="135M", help="of make_models, or demo")
    parser.add_argument("--factor", type=float, default=10.0, help="times the capacity (10)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload (60)")
    parser.add_argument("--capacity-seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped on the way out
    try:
        with serving(lambda port: command(options.model, port, options.threads)) as (url, pid):
            seconds, capacity_s = options.seconds, options.capacity_seconds
            work = measure(
                Load(url), pid, factor=options.factor, seconds=seconds, capacity_s=capacity_s
            )
            result = uvloop.run(work)
    except BenchError as error:
        print(f"bench_overload: {error}", file=sys.stderr)
        return 1
    print(format_table(result))
    asked = {"model": options.model, "num_threads": options.threads}
    print(json.dumps({"name": "overload", "machine": describe()} | asked | result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
