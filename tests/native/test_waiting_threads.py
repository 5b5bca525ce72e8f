"""ggml's threads beside other work: one that waits for another lets it, and others, run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from tests.native.test_runner import CONFIG, GREEDY, NONE
from tgi_llamacpp.engine.runner import Plan
from tgi_llamacpp.native import Model, Runner, _runner

NUM_STEPS = 10


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """For this thread, and those that it starts."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def steps_cpu_s(model: Model, num_threads: int) -> float:
    """CPU time of some steps: the wall time says how busy the machine is."""
    config = msgspec.structs.replace(CONFIG, n_threads=num_threads, n_threads_batch=num_threads)
    runner = Runner(model, config)
    try:
        slots, zeros = np.arange(8, dtype=np.int32), np.zeros(8, np.int32)
        for slot in range(8):
            runner.open(slot, GREEDY, zeros[:1], NONE)
        started_s = time.process_time()
        for position in range(NUM_STEPS):
            positions = np.full(8, position, np.int32)
            runner.step(Plan(slots, positions, zeros, np.ones(8, np.int8)))
        return time.process_time() - started_s
    finally:
        runner.close()


def test_two_threads_that_share_a_cpu_take_little_more_of_it_than_one() -> None:
    model = Model(CONFIG)
    try:
        with on_one_cpu():
            one_s = min(steps_cpu_s(model, 1) for _ in range(3))
            two_s = min(steps_cpu_s(model, 2) for _ in range(3))
    finally:
        model.close()
    # Where the first at a barrier spins until its time is over, it is fifty times as much.
    assert two_s < 4 * one_s


def test_every_cpu_backend_of_the_build_yields() -> None:
    libraries = sorted((Path(_runner.__file__).parent / "lib").glob("libggml-cpu*.so"))
    assert libraries
    for library in libraries:
        assert b"sched_yield\0" in library.read_bytes(), library.name
