"""The random models that tests lean on are small, reproducible and listen to their context."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.native.tiny_models import (
    GENERATING,
    REFUSED,
    SPECIAL_TOKENS,
    vocabulary,
    write_tiny_model,
)
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.runner import Plan
from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.native import Model, Runner

MAX_FILE_BYTES = 2_000_000


def greedy_ids(path: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """The greedy continuation of `prompt`, fed token by token."""
    config = EngineConfig(
        model_path=str(path),
        max_total_tokens=128,
        max_batch_total_tokens=128,
        max_physical_batch_total_tokens=16,
        max_batch_size=1,
        n_threads=1,
        n_threads_batch=1,
        n_gpu_layers=0,
    )
    model = Model(config)
    runner = Runner(model, config)
    runner.open(0, SamplingParams(), np.array(prompt, np.int32), np.empty(0, np.int32))
    ids = list(prompt)
    for position in range(len(prompt) + num_tokens - 1):
        one = np.array([position], np.int32)
        is_sampled = position >= len(prompt) - 1
        step = runner.step(
            Plan(
                one * 0,
                one,
                np.array(ids[position : position + 1], np.int32),
                np.array([is_sampled], np.int8),
            )
        )
        ids.extend(step.token_ids.tolist())
    runner.close()
    model.close()
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", GENERATING + REFUSED)
def test_a_file_is_small_and_depends_on_its_seed_alone(kind: str, tmp_path: Path) -> None:
    first, again, other = (tmp_path / f"{name}.gguf" for name in ("first", "again", "other"))
    write_tiny_model(kind, first)
    write_tiny_model(kind, again)
    write_tiny_model(kind, other, seed=1)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert first.stat().st_size < MAX_FILE_BYTES


@pytest.mark.parametrize("kind", GENERATING)
def test_the_text_depends_on_the_first_token_of_the_prompt(kind: str, tmp_path: Path) -> None:
    path = write_tiny_model(kind, tmp_path / "tiny.gguf", weight_type="Q5_1")
    texts = {tuple(greedy_ids(path, [first, 50, 60, 70], 16)) for first in range(40, 44)}
    assert len(texts) == 4
    assert all(len(set(text)) > 4 for text in texts)


def test_without_eog_the_special_tokens_are_never_the_best(tmp_path: Path) -> None:
    path = write_tiny_model("attention", tmp_path / "tiny.gguf", with_eog=False)
    ids = greedy_ids(path, [40, 50], 100)
    assert min(ids) >= len(SPECIAL_TOKENS)


def test_the_vocabulary_has_every_byte_and_no_token_twice() -> None:
    texts = vocabulary()
    assert len(set(texts)) == len(texts)
    assert sum(len(text) == 1 for text in texts) == 256
