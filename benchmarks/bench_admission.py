"""Both ways of admission under a tight budget, with a real model and without HTTP.

Clients ask for far more tokens than they take: they leave as soon as they have their own number of
them, as at a stop string. In "short" that is what all do; in "turning" all outputs are short at
first, and then every one runs to its limit, which is what a forecast must not get wrong for long.
The last line of the output is JSON.

    python -m benchmarks.bench_admission --threads 2
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks.machine_state import describe
from benchmarks.make_models import ensure_model
from tgi_llamacpp.config import AdmissionPolicy, EngineConfig
from tgi_llamacpp.engine.limits import resolve_limits
from tgi_llamacpp.engine.runner import StepStatus
from tgi_llamacpp.engine.scheduler import Scheduler
from tgi_llamacpp.messages import SamplingParams, StepOut, Submit
from tgi_llamacpp.native import Model, Runner

BUDGET = 2048
NUM_SLOTS = 16
NUM_PROMPT = 64
MAX_NEW_TOKENS = 448
NUM_CLIENTS = 24
POLICIES: tuple[AdmissionPolicy, ...] = ("reserve", "optimistic")


@dataclass
class Client:
    """One request: how many tokens it takes, and when it got them."""

    num_wanted: int
    submitted_s: float
    token_times_s: list[float] = field(default_factory=list)


def lengths_of(workload: str) -> list[int]:
    rng = random.Random(1)
    if workload == "short":
        return [rng.randint(16, 96) for _ in range(64)]
    return [rng.randint(16, 48) for _ in range(32)] + [MAX_NEW_TOKENS] * 6


class Bench:
    """A closed loop of clients around one scheduler."""

    def __init__(self, policy: AdmissionPolicy, model_name: str, num_threads: int) -> None:
        config = EngineConfig(
            model_path=str(ensure_model(model_name)),
            max_total_tokens=NUM_PROMPT + MAX_NEW_TOKENS,
            max_batch_total_tokens=BUDGET,
            max_physical_batch_total_tokens=512,
            max_batch_size=NUM_SLOTS,
            n_threads=num_threads,
            n_threads_batch=num_threads,
            n_gpu_layers=0,
            admission=policy,
        )
        self.model = Model(config)
        self.runner = Runner(self.model, config)
        limits, _ = resolve_limits(config, self.model, self.runner.limits)
        self.scheduler = Scheduler(self.runner, limits)
        self._rng = np.random.default_rng(1)
        self.clients: dict[int, Client] = {}
        self._num_open = 0

    def run(self, lengths: list[int]) -> float:
        """Seconds until all have what they want."""
        pending = list(reversed(lengths))
        started_s = time.perf_counter()
        while pending or self._num_open:
            while pending and self._num_open < NUM_CLIENTS:
                self._submit(pending.pop())
            self._step()
        return time.perf_counter() - started_s

    def _submit(self, num_wanted: int) -> None:
        prompt = self._rng.integers(256, 16_000, NUM_PROMPT).astype(np.int32)
        seq_id = len(self.clients)
        self.clients[seq_id] = Client(num_wanted, time.perf_counter())
        self._num_open += 1
        self.scheduler.submit(
            Submit(seq_id, prompt.tobytes(), b"", MAX_NEW_TOKENS, SamplingParams(), True)
        )

    def _step(self) -> None:
        batch = self.scheduler.schedule()
        assert batch is not None
        started_s = time.perf_counter()
        result = self.runner.step(batch.plan)
        if result.status is StepStatus.OK:
            self.scheduler.learn(batch, time.perf_counter() - started_s)
        out = self.scheduler.commit(batch, result)
        if out is not None:
            self._take(out)

    def _take(self, out: StepOut) -> None:
        now_s = time.perf_counter()
        seq_ids = np.frombuffer(out.seq_ids, np.int64).tolist()
        for seq_id, finish in zip(seq_ids, out.finishes, strict=True):
            client = self.clients[seq_id]
            client.token_times_s.append(now_s)
            if len(client.token_times_s) == client.num_wanted:
                self._num_open -= 1
                if not finish:
                    self.scheduler.abort([seq_id])


def measure(
    policy: AdmissionPolicy, workload: str, options: argparse.Namespace
) -> dict[str, object]:
    bench = Bench(policy, options.model, options.threads)
    wall_s = bench.run(lengths_of(workload))
    clients = bench.clients.values()
    latencies_s = [one.token_times_s[-1] - one.submitted_s for one in clients]
    firsts_s = [one.token_times_s[0] - one.submitted_s for one in clients]
    gaps_s = [float(np.diff(one.token_times_s).max()) for one in clients]
    row: dict[str, object] = {
        "workload": workload,
        "admission": policy,
        "tokens_per_s": round(sum(len(one.token_times_s) for one in clients) / wall_s, 1),
        "latency_s_p50": round(float(np.percentile(latencies_s, 50)), 2),
        "latency_s_p95": round(float(np.percentile(latencies_s, 95)), 2),
        "ttft_s_p50": round(float(np.percentile(firsts_s, 50)), 2),
        "gap_s_max": round(max(gaps_s), 2),
        "num_preempted": bench.scheduler.counters.num_preempted,
        "prefill_tokens": bench.scheduler.counters.num_prefill_tokens,
    }
    bench.runner.close()
    bench.model.close()
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="135M")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows = [measure(policy, name, options) for name in ("short", "turning") for policy in POLICIES]
    result = {"bench": "admission", "model": options.model, "threads": options.threads}
    print(json.dumps({**result, "machine": describe(), "rows": rows}))


if __name__ == "__main__":
    main()
