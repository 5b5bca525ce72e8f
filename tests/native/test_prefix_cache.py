"""Sequences that share prefixes, on every kind of memory that llama.cpp has: the text is the same
with the cache, without it, and when there is hardly room for it.

A scheduler over the native runner and tiny random models. In a split cache their logits are
bit-identical in any batch. In one pool the order of a sequence's cells depends on what was free,
and sums round by their order, with the cache and without it: there texts are equal up to a tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tests.engine.simulation import Simulation, engine_limits
from tests.native.test_memory_kinds import config_of
from tests.native.tiny_models import GENERATING, SLIDING_WINDOW, write_tiny_model
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.runner import Int32s
from tgi_llamacpp.messages import SamplingParams, Submit
from tgi_llamacpp.native import Model, Runner

MIN_PREFIX_TOKENS = 4
NUM_SHARED = SLIDING_WINDOW + 12  # so that a window leaves some of it behind
GREEDY = SamplingParams(num_top_tokens=2)


@pytest.fixture(scope="module", params=GENERATING)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Model, EngineConfig]]:
    kind = request.param
    path = write_tiny_model(
        kind, tmp_path_factory.mktemp("models") / f"{kind}.gguf", weight_type="Q5_1"
    )
    config = config_of(path)
    model = Model(config)
    yield model, config
    model.close()


def ids_of(seed: int, num_tokens: int) -> Int32s:
    return np.random.default_rng(seed).integers(3, 200, num_tokens).astype(np.int32)


def submit_of(seq_id: int, ids: Int32s, max_new_tokens: int = 12) -> Submit:
    return Submit(seq_id, ids.tobytes(), b"", max_new_tokens, GREEDY, ignore_eog=True)


class Server:
    """A scheduler over a runner of its own, and what it answered."""

    def __init__(
        self,
        loaded: tuple[Model, EngineConfig],
        num_cells: int,
        *,
        has_cache: bool = True,
        host_bytes: int = 0,
    ) -> None:
        model, config = loaded
        config = msgspec.structs.replace(
            config, max_batch_total_tokens=num_cells, prefix_cache=has_cache
        )
        self.runner = Runner(model, config)
        limits = replace(
            engine_limits(self.runner.limits),
            max_running=4,
            eog_ids=model.eog_ids,
            min_prefix_tokens=MIN_PREFIX_TOKENS if has_cache else None,
            max_host_cache_bytes=host_bytes,
        )
        # A clock that stands still: every save and load is worth it.
        self.simulation = Simulation(self.runner, limits, now_s=lambda: 0.0)
        self.top_logprobs: dict[int, list[list[float]]] = {}  # of two candidates a token

    def run(self, *submits: Submit) -> None:
        self.simulation.submit(*submits)
        while self.simulation.has_work:
            if (out := self.simulation.turn()) is not None:
                tops = np.frombuffer(out.top_logprobs, np.float32).reshape(-1, 2).tolist()
                for seq_id, row in zip(np.frombuffer(out.seq_ids, np.int64), tops, strict=True):
                    self.top_logprobs.setdefault(int(seq_id), []).append(row)
        assert not self.simulation.failures


SHARED = ids_of(0, NUM_SHARED)
QUESTIONS = {n: np.concatenate([SHARED, ids_of(n, 4 + n)]) for n in range(2, 8)}


def converse(server: Server, known: dict[int, list[int]] | None = None) -> dict[int, list[int]]:
    """Shared beginnings in turn and at once, conversations that go on, others in between.

    known: the answers that the conversations go on from; its own where they are not given.
    """
    texts = server.simulation.texts
    known = texts if known is None else known
    server.run(submit_of(1, np.concatenate([SHARED, ids_of(1, 8)])))
    server.run(*(submit_of(n, ids) for n, ids in QUESTIONS.items()))
    server.run(*(submit_of(n, ids_of(n, 50)) for n in (10, 11, 12)))
    talks = {n: (n, QUESTIONS[n]) for n in (2, 3, 4)}
    for turn in (20, 40):  # each with the whole talk so far
        for n, (last, ids) in talks.items():
            answer = np.array(known[last], np.int32)
            talks[n] = turn + n, np.concatenate([ids, answer, ids_of(90 + n, 3)])
        server.run(*(submit_of(seq_id, ids, 6) for seq_id, ids in talks.values()))
    return texts


@pytest.fixture(scope="module")
def expected(loaded: tuple[Model, EngineConfig]) -> Server:
    """What is answered where every prompt is computed."""
    server = Server(loaded, 4 * 128, has_cache=False)
    converse(server)
    assert server.simulation.cached == {}
    server.runner.close()
    return server


def check_same_up_to_ties(server: Server, expected: Server, margin: float) -> None:
    """Log-probabilities within the margin up to where texts part, which is at a tie."""
    for seq_id, text in expected.simulation.texts.items():
        pairs = zip(text, server.simulation.texts[seq_id], strict=True)
        tops = zip(expected.top_logprobs[seq_id], server.top_logprobs[seq_id], strict=True)
        for (wanted, given), (first, second) in zip(pairs, tops, strict=True):
            assert first[0] == pytest.approx(second[0], abs=margin)
            if wanted != given:
                assert first[0] - first[1] < margin
                break


def test_the_cache_changes_no_bit(loaded: tuple[Model, EngineConfig], expected: Server) -> None:
    server = Server(loaded, 4 * 128)
    assert converse(server) == expected.simulation.texts
    assert server.top_logprobs == expected.top_logprobs
    cached = server.simulation.cached
    if server.runner.limits.can_trim:
        assert all(cached[n] >= NUM_SHARED for n in QUESTIONS)
    assert all(cached[40 + n] > NUM_SHARED + 20 for n in (2, 3, 4))
    server.runner.close()


@pytest.mark.parametrize("host_bytes", [1 << 30, 1 << 18])
def test_host_memory_changes_no_bit(
    host_bytes: int, loaded: tuple[Model, EngineConfig], expected: Server
) -> None:
    server = Server(loaded, 4 * 128, host_bytes=host_bytes)
    assert converse(server) == expected.simulation.texts
    assert server.top_logprobs == expected.top_logprobs
    assert all(server.simulation.cached[40 + n] > NUM_SHARED + 20 for n in (2, 3, 4))
    server.runner.close()


def test_a_conversation_comes_back_from_host_memory(
    loaded: tuple[Model, EngineConfig], expected: Server
) -> None:
    server = Server(loaded, 4 * 128, host_bytes=1 << 30)
    server.run(submit_of(2, QUESTIONS[2]))
    for n in range(10, 16):  # others, which take all slots
        server.run(submit_of(n, ids_of(n, 50)))
    answer = np.array(server.simulation.texts[2], np.int32)
    assert answer.tolist() == expected.simulation.texts[2]
    server.run(submit_of(22, np.concatenate([QUESTIONS[2], answer, ids_of(92, 3)]), 6))
    assert server.simulation.cached == {22: len(QUESTIONS[2]) + 11}
    assert server.simulation.scheduler.host_stats().num_hits == 1
    assert server.simulation.texts[22] == expected.simulation.texts[22]
    assert server.top_logprobs[22] == expected.top_logprobs[22]
    server.runner.close()


@pytest.mark.parametrize("num_cells", [384, 256])
@pytest.mark.parametrize("host_bytes", [0, 1 << 30])
def test_one_pool_answers_the_same_with_room_and_without(
    num_cells: int, host_bytes: int, loaded: tuple[Model, EngineConfig], expected: Server
) -> None:
    server = Server(loaded, num_cells, host_bytes=host_bytes)
    assert server.runner.limits.is_unified
    converse(server, expected.simulation.texts)
    is_routed = "experts" in loaded[1].model_path  # a tie there is between experts
    check_same_up_to_ties(server, expected, margin=1.0 if is_routed else 0.2)
    if server.runner.limits.can_trim:
        assert all(server.simulation.cached[n] >= NUM_SHARED for n in QUESTIONS)
    server.runner.close()


def test_a_conversation_that_goes_on_finds_its_state(loaded: tuple[Model, EngineConfig]) -> None:
    server = Server(loaded, 4 * 128)
    prompt = ids_of(0, 40)
    server.run(submit_of(1, prompt))
    answer = np.array(server.simulation.texts[1], np.int32)
    server.run(submit_of(2, np.concatenate([prompt, answer, ids_of(9, 5)])))
    assert server.simulation.cached == {2: 51}
    server.runner.close()


def test_a_pool_that_is_full_gives_up_what_is_parked(loaded: tuple[Model, EngineConfig]) -> None:
    server = Server(loaded, 256)
    for seq_id in range(1, 9):
        server.run(submit_of(seq_id, ids_of(seq_id, 60)))
    counters = server.simulation.scheduler.counters
    assert counters.prefix.num_evictions > 0
    assert counters.num_preempted == 0
    server.runner.close()
