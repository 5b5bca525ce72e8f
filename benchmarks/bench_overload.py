"""Ten times what a server can do is offered to it: what the accepted see, and what it costs.

    python -m benchmarks.bench_overload
    python -m benchmarks.bench_overload --model 0.5B --factor 10 --seconds 60

First a closed loop of as many clients as requests are accepted at once: its rate is the capacity,
and its latencies are those of a full server. Then requests arrive at random, at `factor` times that
rate, whatever becomes of them. Every answer has to be a whole stream or a 429 with Retry-After. The
resident memory of router and engine is read all the while. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.contestants import serving
from benchmarks.load_generator import BenchError
from benchmarks.machine_state import describe
from benchmarks.make_models import ensure_model

NUM_SLOTS = 8
NUM_PERMITS = 2 * NUM_SLOTS
_RSS_INTERVAL_S = 0.5


@dataclass
class Answer:
    """One request: when it was sent, and what came when; times of one clock."""

    start_s: float
    status: int = 0
    retry_after: str | None = None
    token_times_s: list[float] = field(default_factory=list)
    is_whole: bool = False


@dataclass(frozen=True)
class Load:
    """What is asked, again and again."""

    url: str
    num_prompt_words: int = 64
    num_tokens: int = 32

    def request(self, number: int) -> bytes:
        parts = urlsplit(self.url)
        prompt = " ".join(f"{number}w{i}" for i in range(self.num_prompt_words // 4))
        body: dict[str, object] = {"prompt": prompt, "max_tokens": self.num_tokens}
        body |= {
            "ignore_eos": True,
            "stream": True,
            "temperature": 0,
            "logprobs": 0,
        }  # so that every token is an event
        content = json.dumps(body).encode()
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


async def ask(load: Load, number: int) -> Answer:
    parts = urlsplit(load.url)
    answer = Answer(time.perf_counter())
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(load.request(number))
    head = await reader.readuntil(b"\r\n\r\n")
    answer.status = int(head.split(b" ", 2)[1])
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    answer.retry_after = headers.get(b"retry-after", b"").decode() or None
    tail = b""
    while data := await reader.read(1 << 16):
        now_s = time.perf_counter()
        fresh = tail + data
        answer.token_times_s += [now_s] * fresh.count(b'"text":"')
        tail = fresh[-7:]
        answer.is_whole |= b"data: [DONE]" in fresh or answer.status != 200
    writer.close()
    return answer


async def closed_loop(load: Load, num_clients: int, seconds: float) -> tuple[list[Answer], float]:
    """All clients ask again as soon as they are answered; answers, and answers a second."""
    start_s = time.perf_counter()
    answers: list[Answer] = []

    async def client(number: int) -> None:
        while time.perf_counter() < start_s + seconds:
            number += num_clients
            answers.append(await ask(load, number))

    await asyncio.gather(*map(client, range(num_clients)))
    return answers, len(answers) / (time.perf_counter() - start_s)


async def open_loop(load: Load, rate_per_s: float, seconds: float) -> list[Answer]:
    """Requests arrive at random, whatever becomes of those before."""
    dice = random.Random(1)
    start_s = at_s = time.perf_counter()
    tasks: list[asyncio.Task[Answer]] = []
    while (at_s := at_s + dice.expovariate(rate_per_s)) < start_s + seconds:
        await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(load, 1_000_000 + len(tasks))))
    return await asyncio.gather(*tasks)


class MemoryWatch:
    """Resident memory of a router and of its engine, in MB, now and then."""

    def __init__(self, router_pid: int) -> None:
        path = Path(f"/proc/{router_pid}/task/{router_pid}/children")
        engine_pids = [int(pid) for pid in path.read_text().split()]
        self._pids = {"router": router_pid, "engine": engine_pids[0]}
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
        BenchError: an answer that is neither a whole stream nor a 429 with Retry-After.
    """
    memory = MemoryWatch(router_pid)
    watching = asyncio.create_task(memory.run())
    await closed_loop(load, NUM_PERMITS, capacity_s / 4)
    full, capacity = await closed_loop(load, NUM_PERMITS, capacity_s)
    before = len(memory.samples["router"])
    offered = await open_loop(load, factor * capacity, seconds)
    await asyncio.sleep(_RSS_INTERVAL_S)
    watching.cancel()
    check(full + offered)
    return {
        "capacity_per_s": round(capacity, 3),
        "offered_per_s": round(len(offered) / seconds, 3),
        "num_offered": len(offered),
        "statuses": dict(collections.Counter(str(answer.status) for answer in offered)),
        "retry_after_s": percentiles([float(a.retry_after) for a in offered if a.retry_after]),
        "at_capacity": latencies(full),
        "overloaded": latencies(offered),
        "rss_mb": memory.summary(before - 1),
    }


def check(answers: Sequence[Answer]) -> None:
    for answer in answers:
        is_good = answer.status == 200 and len(answer.token_times_s) > 0
        is_refused = answer.status == 429 and answer.retry_after is not None
        if not (answer.is_whole and (is_good or is_refused)):
            raise BenchError(f"an answer that is none: {answer}")


def latencies(answers: Sequence[Answer]) -> dict[str, Any]:
    """Of the accepted, in ms: first token, and gaps between tokens."""
    accepted = [answer for answer in answers if answer.status == 200]
    first = [1e3 * (answer.token_times_s[0] - answer.start_s) for answer in accepted]
    gaps = [
        1e3 * (later - earlier)
        for answer in accepted
        for earlier, later in zip(answer.token_times_s, answer.token_times_s[1:], strict=False)
    ]
    return {
        "num_accepted": len(accepted),
        "first_ms": percentiles(first),
        "gap_ms": percentiles(gaps),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(max(values), 1)}


def format_table(result: dict[str, Any]) -> str:
    lines = [
        f"capacity {result['capacity_per_s']:.2f} a second, offered {result['offered_per_s']:.2f};"
        f" answers {result['statuses']}, Retry-After {result['retry_after_s']}",
        f"{'':12} {'accepted':>8} {'first p50':>10} {'p99':>8} {'gap p50':>8} {'p99':>8}  ms",
    ]
    for name in ("at_capacity", "overloaded"):
        row = result[name]
        first, gap = row["first_ms"], row["gap_ms"]
        lines.append(
            f"{name:12} {row['num_accepted']:8} {first['p50']:10.0f} {first['p99']:8.0f}"
            f" {gap['p50']:8.1f} {gap['p99']:8.1f}"
        )
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
    parser.add_argument("--capacity-seconds", type=float, default=20.0)
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
    print(json.dumps({"name": "overload", "machine": describe(), "model": options.model} | result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
