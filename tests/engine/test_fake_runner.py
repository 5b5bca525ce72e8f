"""FakeRunner keeps the contract of every Runner, and its text shows what a scheduler did wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.runner_contract import (
    GREEDY,
    NOTHING,
    OTHER,
    PROMPT,
    RunnerContract,
    generate,
    ids_of,
    plan_of,
    rows_of,
    start,
)
from tests.engine.state_contract import StateContract
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.fake_runner import FakeModel, FakeRunner, fake_limits, fake_load
from tgi_llamacpp.engine.runner import RunnerLimits, StepStatus
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import SamplingParams

SPLIT = RunnerLimits(
    num_slots=4,
    max_slot_tokens=64,
    max_pool_tokens=256,
    max_step_tokens=16,
    max_step_outputs=16,
    num_vocab=256,
    is_unified=False,
    can_trim=True,
    has_aside=True,
)
UNIFIED = replace(SPLIT, has_aside=False, max_pool_tokens=64, is_unified=True)


@pytest.mark.parametrize(
    "limits",
    [SPLIT, UNIFIED, replace(SPLIT, can_trim=False), replace(SPLIT, can_cut_states=False)],
    ids=["split", "unified", "no trim", "window"],
)
class TestFakeRunner(StateContract, RunnerContract):
    @pytest.fixture
    def runner(self, limits: RunnerLimits) -> FakeRunner:
        return FakeRunner(limits)


def test_text_depends_on_every_id_of_the_history() -> None:
    runner = FakeRunner(SPLIT)
    texts = set()
    for changed in range(len(PROMPT)):
        prompt = PROMPT.copy()
        prompt[changed] += 1
        first = start(runner, 0, prompt)
        texts.add((first, *generate(runner, 0, first, 4)))
        runner.drop(0)
    assert len(texts) == len(PROMPT)


def test_text_depends_on_what_the_sampler_was_opened_with() -> None:
    runner = FakeRunner(SPLIT)
    runner.open(0, GREEDY, PROMPT, NOTHING)
    runner.open(1, GREEDY, OTHER, NOTHING)
    rows = [row for slot in (0, 1) for row in rows_of(slot, 0, PROMPT.tolist())]
    assert len(set(runner.step(plan_of(rows)).token_ids.tolist())) == 2


def test_the_seed_matters_when_sampling_and_not_when_greedy() -> None:
    runner = FakeRunner(SPLIT)
    firsts = {}
    for temperature in (0.0, 1.0):
        for seed in (1, 2):
            firsts[temperature, seed] = start(
                runner, 0, PROMPT, SamplingParams(temperature, seed=seed)
            )
            runner.drop(0)
    assert firsts[0.0, 1] == firsts[0.0, 2]
    assert firsts[1.0, 1] != firsts[1.0, 2]


def test_a_full_slot_takes_no_row() -> None:
    runner = FakeRunner(replace(SPLIT, max_slot_tokens=6))
    first = start(runner, 0, PROMPT)
    with pytest.raises(RunnerError, match="full"):
        generate(runner, 0, first, 1)


def test_a_unified_pool_runs_out_for_all_and_changes_nothing() -> None:
    runner = FakeRunner(UNIFIED, num_withheld_cells=64 - 10)
    start(runner, 0, PROMPT)
    runner.open(1, GREEDY, PROMPT, NOTHING)
    result = runner.step(plan_of(rows_of(1, 0, PROMPT.tolist())))
    assert result.status is StepStatus.NO_KV_SPACE
    assert len(result.token_ids) == 0
    assert runner.num_cells(1) == 0


def test_arrays_of_a_step_are_lent_until_the_next() -> None:
    runner = FakeRunner(SPLIT)
    runner.open(0, GREEDY, PROMPT, NOTHING)
    result = runner.step(plan_of(rows_of(0, 0, PROMPT.tolist())))
    generate(runner, 0, 1, 1)
    assert result.token_ids.tolist() == [-1]


def test_generation_ends_as_often_as_asked() -> None:
    runner = FakeRunner(replace(SPLIT, max_slot_tokens=2100), eog_chance=0.25)
    ids = generate(runner, 0, start(runner, 0, PROMPT), 2000)
    assert 0.2 < ids.count(255) / len(ids) < 0.3


def test_a_wrong_column_type_is_refused() -> None:
    runner = FakeRunner(SPLIT)
    plan = plan_of(rows_of(0, 0, [1, 2], sample=False))
    with pytest.raises(RunnerError, match="int32"):
        runner.step(replace(plan, slots=plan.slots.astype(np.int64)))


@pytest.mark.parametrize(("budget", "is_unified"), [(8 * 64, False), (8 * 64 - 1, True)])
def test_the_layout_follows_the_budget(budget: int, is_unified: bool) -> None:
    config = EngineConfig(
        model_path="",
        max_total_tokens=64,
        max_batch_total_tokens=budget,
        max_physical_batch_total_tokens=32,
        max_batch_size=8,
        n_threads=1,
        n_threads_batch=1,
        n_gpu_layers=0,
    )
    limits = fake_limits(config, 512)
    assert limits.is_unified is is_unified
    model, runner = fake_load(FakeModel())(config, lambda _: True)
    assert runner.limits == limits
    assert model.eog_ids == {511}
    runner.open(0, GREEDY, ids_of(1), NOTHING)
    runner.close()
    model.close()
