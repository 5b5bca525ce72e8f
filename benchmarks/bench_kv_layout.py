"""The two layouts of the KV cache under an engine without HTTP: a step's time by what is in it.

The same slots and memory, split and in one pool: streams that share a long prefix, streams with
prompts of their own, and short streams beside what the long ones left parked. The last line of the
output is JSON.

    python -m benchmarks.bench_kv_layout --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import count

import numpy as np

from benchmarks.machine_state import describe
from benchmarks.make_models import ensure_model
from tgi_llamacpp.config import EngineConfig, KvLayout
from tgi_llamacpp.engine.limits import resolve_limits
from tgi_llamacpp.engine.runner import Int32s
from tgi_llamacpp.engine.scheduler import Scheduler
from tgi_llamacpp.engine.warm_up import measure_widths
from tgi_llamacpp.messages import SamplingParams, Submit
from tgi_llamacpp.native import Model, Runner

NUM_STREAMS = 16
SLOT_TOKENS = 528
NUM_SHARED = 480
NUM_OWN = 16
NUM_OUTPUT = 32
LAYOUTS: tuple[KvLayout, ...] = ("split", "unified")

Row = dict[str, object]


class Engine:
    """Scheduler and runner of one layout."""

    def __init__(self, layout: KvLayout, model_name: str, num_threads: int) -> None:
        config = EngineConfig(
            model_path=str(ensure_model(model_name)),
            max_total_tokens=SLOT_TOKENS,
            max_batch_total_tokens=NUM_STREAMS * SLOT_TOKENS,
            max_physical_batch_total_tokens=512,
            max_batch_size=NUM_STREAMS,
            n_threads=num_threads,
            n_threads_batch=num_threads,
            n_gpu_layers=0,
            target_itl_ms=0,
            kv_layout=layout,
        )
        self.layout = layout
        self._model = Model(config)
        self._runner = Runner(self._model, config)
        limits, _ = resolve_limits(config, self._model, self._runner.limits)
        curve = measure_widths(self._runner, NUM_STREAMS, time.perf_counter, 2.0)
        self.curve_ms = {width: round(s * 1e3, 2) for width, s in curve.measured_s.items()}
        self.scheduler = Scheduler(self._runner, limits, curve=curve)
        self._seq_ids = count()

    def run(self, name: str, prompts: list[Int32s]) -> Row:
        """Everything that these prompts ask; the median step in which all of them decode."""
        for prompt in prompts:
            submit = Submit(
                next(self._seq_ids), prompt.tobytes(), b"", NUM_OUTPUT, SamplingParams(), True
            )
            self.scheduler.submit(submit)
        started_s = time.perf_counter()
        steps_s = list(self._steps(len(prompts)))
        row = {
            "layout": self.layout,
            "workload": name,
            "decode_step_ms": round(statistics.median(steps_s) * 1e3, 2),
            "wall_s": round(time.perf_counter() - started_s, 3),
            "parked_tokens": self.scheduler.num_parked_tokens,
        }
        print(
            f"{self.layout:8} {name:24} {row['decode_step_ms']:>8} ms {row['wall_s']:>8} s in all"
        )
        return row

    def _steps(self, num_streams: int) -> Iterator[float]:
        while (batch := self.scheduler.schedule()) is not None:
            started_s = time.perf_counter()
            result = self._runner.step(batch.plan)
            taken_s = time.perf_counter() - started_s
            self.scheduler.commit(batch, result)
            if batch.num_decode == num_streams and not batch.num_prefill:
                yield taken_s

    def close(self) -> None:
        self._runner.close()
        self._model.close()


def measure(layout: KvLayout, model_name: str, num_threads: int) -> tuple[list[Row], Row]:
    rng = np.random.default_rng(1)

    def prompt(num_tokens: int) -> Int32s:
        return rng.integers(256, 16_000, num_tokens).astype(np.int32)

    engine = Engine(layout, model_name, num_threads)
    print(f"{layout:8} milliseconds by rows: {engine.curve_ms}")
    shared = prompt(NUM_SHARED)
    long = [np.concatenate([shared, prompt(NUM_OWN)]) for _ in range(NUM_STREAMS)]
    rows = [
        engine.run("4 short", [prompt(NUM_OWN) for _ in range(4)]),
        engine.run("7 short", [prompt(NUM_OWN) for _ in range(7)]),
        engine.run("16 shared prefix", long),
        engine.run("16 own prompts", [prompt(NUM_SHARED + NUM_OWN) for _ in range(NUM_STREAMS)]),
        engine.run("4 short beside parked", [prompt(NUM_OWN) for _ in range(4)]),
    ]
    engine.close()
    return rows, {"layout": layout, "curve_ms": engine.curve_ms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="135M")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows, curves = [], []
    for layout in LAYOUTS:
        own_rows, curve = measure(layout, options.model, options.threads)
        rows += own_rows
        curves.append(curve)
    result = {"bench": "kv_layout", "model": options.model, "threads": options.threads}
    print(json.dumps({**result, "machine": describe(), "rows": rows, "curves": curves}))


if __name__ == "__main__":
    main()
