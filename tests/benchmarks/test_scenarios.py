"""What the benches ask is what they say they ask, for every scenario."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import make_models
from benchmarks.make_models import SPECIAL_TOKENS, Shape, write_model
from benchmarks.scenarios import SCENARIOS, Scenario, make_prompt
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.gguf_tokenizer import build_tokenizer


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_every_request_fits_its_slot_and_counts_its_words(scenario: Scenario) -> None:
    for stream in scenario.build(random.Random(0)):
        for request in stream.requests:
            assert request.prompt.count(" ") == request.num_prompt_tokens
            assert request.num_prompt_tokens + request.num_output_tokens <= scenario.slot_tokens


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_contestants_are_asked_the_same_and_pairs_are_not(scenario: Scenario) -> None:
    assert scenario.build(random.Random(0)) == scenario.build(random.Random(0))
    assert scenario.build(random.Random(0)) != scenario.build(random.Random(1))


def test_prompts_of_a_shared_prefix_begin_alike() -> None:
    streams = SCENARIOS["prefix-cold"].build(random.Random(0))
    prompts = [request.prompt.split() for stream in streams for request in stream.requests]
    assert len(prompts) == 32
    assert len({tuple(words[:480]) for words in prompts}) == 1
    assert len({tuple(words) for words in prompts}) == 32


def test_a_word_of_a_prompt_is_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(1, 32, 1, 1, 32, 20_000, 512, 1e4, "smollm")
    monkeypatch.setitem(make_models.SHAPES, "small", shape)
    write_model("small", tmp_path / "small.gguf")
    tokenizer = build_tokenizer(read_metadata(tmp_path / "small.gguf"))
    ids = tokenizer.encode(make_prompt(random.Random(0), 500), add_special_tokens=True).ids
    assert len(ids) == 500
    assert min(ids) >= len(SPECIAL_TOKENS) + make_models.NUM_BYTES
