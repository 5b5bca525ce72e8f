from __future__ import annotations

from dataclasses import replace

import pytest

from tests.allocations import growth_of
from tests.engine.simulation import SPLIT, UNIFIED, engine_limits, submit_of
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.runner import RunnerLimits
from tgi_llamacpp.engine.scheduler import Scheduler

NUM_AT_ONCE = 6  # of 4 slots, so that some wait
HOST_BYTES = 60_000


@pytest.mark.parametrize(
    "limits", [SPLIT, replace(SPLIT, has_aside=True), UNIFIED], ids=["split", "aside", "unified"]
)
def test_sequences_that_ended_leave_nothing_in_the_scheduler(limits: RunnerLimits) -> None:
    runner = FakeRunner(limits, eog_chance=0.05)
    scheduler = Scheduler(runner, engine_limits(limits, max_host_cache_bytes=HOST_BYTES))

    def work(number: int) -> None:
        """A burst: some end, some are refused, one is aborted as it waits and one as it runs."""
        ids = range(number * NUM_AT_ONCE, (number + 1) * NUM_AT_ONCE)
        for seq_id in ids:
            length = 70 if seq_id % 23 == 0 else 3 + seq_id % 40
            scheduler.submit(
                submit_of(
                    seq_id, length, 1 + seq_id % 12, scope=seq_id, prompt_logprobs=seq_id % 3 == 0
                )
            )
        scheduler.abort([ids[-1]])
        _turn(scheduler, runner)
        scheduler.abort([ids[0]])
        while scheduler.num_running + scheduler.num_waiting:
            _turn(scheduler, runner)
        scheduler.take_failures()

    assert growth_of(work, num_first=60, num_more=200) < 1


def _turn(scheduler: Scheduler, runner: FakeRunner) -> None:
    batch = scheduler.schedule()
    if batch is not None:
        scheduler.commit(batch, runner.step(batch.plan))
        scheduler.learn(batch, 0.001)
    scheduler.aside.advance(0.02)
    scheduler.take_prompt_logprobs()
