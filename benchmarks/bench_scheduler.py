"""What scheduling costs: Python's share of a step, with a runner that computes nothing.

Two regimes at each number of sequences: "steady", all decode and nobody comes or goes; "churn",
outputs of 8 to 120 tokens and a newcomer with a 16-token prompt for each that ended. The time
inside the fake runner is left out. The last line of the output is JSON.

    python -m benchmarks.bench_scheduler
"""

from __future__ import annotations

import argparse
import json
import random
import time
from array import array
from itertools import count

import numpy as np

from benchmarks.machine_state import describe
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.fake_runner import FakeModel, FakeRunner, fake_limits
from tgi_llamacpp.engine.limits import resolve_limits
from tgi_llamacpp.engine.scheduler import Scheduler
from tgi_llamacpp.messages import SamplingParams, StepOut, Submit, encode_frame

NUM_SEQUENCES = (1, 8, 16, 64, 256)
NUM_PROMPT = 16
NUM_WARM_UP = 50


class Load:
    """Keeps so many sequences open."""

    def __init__(self, num_sequences: int, *, is_steady: bool) -> None:
        config = EngineConfig(
            model_path="none",
            max_total_tokens=1 << 16,
            max_batch_total_tokens=num_sequences << 16,
            max_physical_batch_total_tokens=512,
            max_batch_size=num_sequences,
            n_threads=1,
            n_threads_batch=1,
            n_gpu_layers=0,
        )
        self.runner = FakeRunner(fake_limits(config, 512))
        limits, _ = resolve_limits(config, FakeModel(), self.runner.limits)
        self.scheduler = Scheduler(self.runner, limits)
        self._is_steady = is_steady
        self._rng = random.Random(1)
        self._seq_ids = count()
        for _ in range(num_sequences):
            self.submit()

    def submit(self) -> None:
        prompt = array("i", [self._rng.randrange(512) for _ in range(NUM_PROMPT)])
        max_new_tokens = 50_000 if self._is_steady else self._rng.randint(8, 120)
        submit = Submit(
            next(self._seq_ids), prompt.tobytes(), b"", max_new_tokens, SamplingParams(), True
        )
        self.scheduler.submit(submit)

    def turn(self) -> tuple[float, int]:
        """One step: seconds outside the runner, the frame's encoding included; bytes sent."""
        start_s = time.perf_counter()
        batch = self.scheduler.schedule()
        assert batch is not None
        planned_s = time.perf_counter()
        result = self.runner.step(batch.plan)
        stepped_s = time.perf_counter()
        out = self.scheduler.commit(batch, result)
        assert out is not None
        frame = encode_frame(out)
        spent_s = planned_s - start_s + time.perf_counter() - stepped_s
        self._replace(out)
        return spent_s, len(frame)

    def _replace(self, out: StepOut) -> None:
        for _ in range(sum(map(bool, out.finishes))):
            self.submit()


def measure(num_sequences: int, *, is_steady: bool, num_steps: int) -> dict[str, object]:
    load = Load(num_sequences, is_steady=is_steady)
    for _ in range(NUM_WARM_UP + num_sequences * NUM_PROMPT // 256):
        load.turn()
    turns = [load.turn() for _ in range(num_steps)]
    times_us = np.array([spent_s for spent_s, _ in turns]) * 1e6
    median_us = float(np.median(times_us))
    return {
        "sequences": num_sequences,
        "regime": "steady" if is_steady else "churn",
        "step_us_p50": round(median_us, 1),
        "step_us_p99": round(float(np.percentile(times_us, 99)), 1),
        "steps_per_s": round(1e6 / median_us),
        "frame_bytes": round(float(np.mean([num_bytes for _, num_bytes in turns]))),
        "num_dummy_rows": load.scheduler.counters.num_dummy_rows,
        "num_moves": load.scheduler.counters.num_moves,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    rows = []
    print("sequences  regime   µs/step p50     p99   steps/s")
    for num_sequences in NUM_SEQUENCES:
        for is_steady in (True, False):
            row = measure(num_sequences, is_steady=is_steady, num_steps=options.steps)
            rows.append(row)
            print(
                f"{row['sequences']:>9}  {row['regime']:<7} {row['step_us_p50']:>12}"
                f" {row['step_us_p99']:>7} {row['steps_per_s']:>9}"
            )
    print(json.dumps({"bench": "scheduler", "machine": describe(), "rows": rows}))


if __name__ == "__main__":
    main()
