"""Sequences that give way to a budget that runs out go on with the text they would have had.

The demo model's exact copy behind a scheduler with optimistic admission. In a split cache of bf16
on one thread logits are bit-identical in any batch, so there equality is exact; in one pool it is
up to a tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.engine.simulation import Simulation, engine_limits
from tgi_llamacpp.config import EngineConfig, KvLayout
from tgi_llamacpp.messages import SamplingParams, Submit
from tgi_llamacpp.native import Model, Runner

NUM_SEQUENCES = 6
NUM_PROMPT = 20
NUM_OUTPUT = 70
MARGIN = 0.05
CONFIG = EngineConfig(
    model_path="",  # the exact copy's, below
    max_total_tokens=128,
    max_batch_total_tokens=NUM_SEQUENCES * 128,
    max_physical_batch_total_tokens=64,
    max_batch_size=NUM_SEQUENCES,
    n_threads=1,
    n_threads_batch=1,
    n_gpu_layers=0,
    type_k="bf16",
    type_v="bf16",
)

Tops = dict[int, list[list[float]]]  # the log-probabilities of two candidates a token


@pytest.fixture(scope="module")
def model(exact_model: Path) -> Iterator[Model]:
    model = Model(msgspec.structs.replace(CONFIG, model_path=str(exact_model)))
    yield model
    model.close()


def answer(model: Model, layout: KvLayout, budget: int) -> tuple[Simulation, Tops]:
    """What everybody gets where outputs were short before; a greedy half, and one that is drawn."""
    config = msgspec.structs.replace(CONFIG, kv_layout=layout, max_batch_total_tokens=budget)
    runner = Runner(model, config)
    limits = engine_limits(
        runner.limits,
        max_running=NUM_SEQUENCES,
        max_budget_tokens=budget,
        eog_ids=model.eog_ids,
        is_optimistic=True,
    )
    simulation = Simulation(runner, limits)
    tops: Tops = {}
    for seq_id in range(100, 140):
        simulation.submit(submit_of(seq_id))
        while not simulation.texts[seq_id]:
            simulation.turn()
        simulation.scheduler.abort([seq_id])
    simulation.submit(*(submit_of(seq_id) for seq_id in range(NUM_SEQUENCES)))
    while simulation.has_work:
        if (out := simulation.turn()) is not None:
            rows = np.frombuffer(out.top_logprobs, np.float32).reshape(-1, 2).tolist()
            for seq_id, row in zip(np.frombuffer(out.seq_ids, np.int64), rows, strict=True):
                tops.setdefault(int(seq_id), []).append(row)
    assert not simulation.failures
    runner.close()
    return simulation, tops


def submit_of(seq_id: int) -> Submit:
    ids = np.random.default_rng(seq_id).integers(3, 200, NUM_PROMPT).astype(np.int32)
    params = SamplingParams(temperature=float(seq_id % 2), seed=seq_id, num_top_tokens=2)
    return Submit(seq_id, ids.tobytes(), b"", NUM_OUTPUT, params, ignore_eog=True)


def test_preemption_changes_no_bit_in_a_split_cache(model: Model) -> None:
    expected, expected_tops = answer(model, "split", NUM_SEQUENCES * 128)
    assert expected.scheduler.counters.num_preempted == 0
    given, given_tops = answer(model, "split", 256)
    assert given.scheduler.counters.num_preempted > 0
    for seq_id in range(NUM_SEQUENCES):
        assert given.texts[seq_id] == expected.texts[seq_id]
        assert given_tops[seq_id] == expected_tops[seq_id]


def test_preemption_changes_no_text_in_one_pool_but_for_ties(model: Model) -> None:
    expected, expected_tops = answer(model, "unified", NUM_SEQUENCES * 128)
    given, given_tops = answer(model, "unified", 256)
    assert given.scheduler.counters.num_preempted > 0
    for seq_id in range(0, NUM_SEQUENCES, 2):  # the greedy ones
        pairs = zip(expected.texts[seq_id], given.texts[seq_id], strict=True)
        tops = zip(expected_tops[seq_id], given_tops[seq_id], strict=True)
        for (wanted, got), (first, second) in zip(pairs, tops, strict=True):
            assert first[0] == pytest.approx(second[0], abs=MARGIN)
            if wanted != got:
                assert first[0] - first[1] < MARGIN
                break
