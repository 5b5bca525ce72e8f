"""csrc's sampler through its binding, against the numpy definition in reference_sampler.py.

The C++ tests in csrc/tests go further into its edges; these hold the Python side to the same.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native import reference_sampler as reference
from tests.native.reference_sampler import ReferenceSampler
from tgi_llamacpp.engine.runner import Float32s, Int32s
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.native._sampler import Sampler, draw_uniform

ROUNDING = 2e-7  # a decision nearer than this to its boundary may fall on either side
NO_IDS: Int32s = np.empty(0, np.int32)


def normal_row(num_vocab: int, deviation: float, seed: int) -> Float32s:
    return np.random.default_rng(seed).normal(0, deviation, num_vocab).astype(np.float32)


def peaked_row(num_vocab: int, seed: int) -> Float32s:
    """Shaped like a trained model's: some 200 tokens stand out of a normal bulk."""
    rng = np.random.default_rng(seed)
    row = rng.normal(0, 2.2, num_vocab)
    row[rng.choice(num_vocab, 200, replace=False)] += 18 - 2 * np.log(np.arange(1, 201))
    return row.astype(np.float32)


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1e-6, 0.3, 0.7, 1.0, 1.5, 1e6])),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 40, 1200, 10**9])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.1, 0.5, 0.9, 0.95, 0.999])),
        typical_p=draw(st.sampled_from([1.0, 1.0, 0.1, 0.5, 0.95])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.1, 1.7, 0.8])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.4, -0.3])),
        presence_penalty=draw(st.sampled_from([0.0, 0.6, -1.5])),
        penalize_prompt=draw(st.booleans()),
        seed=draw(st.integers(0, 2**64 - 1)),
        num_top_tokens=draw(st.sampled_from([0, 1, 5, 20])),
    )


def check_row(
    sampler: Sampler, plain: ReferenceSampler, row: Float32s, position: int
) -> tuple[int, bool]:
    """The sampler's choice, and whether the reference made the same one."""
    token_id, logprob, top_ids, top_logprobs = sampler.sample(row, position)
    _, margin = plain.choose(row, position)
    plain_id, _, plain_ids, plain_logprobs = plain.sample(row, position)
    assert token_id == plain_id or margin < ROUNDING
    assert logprob == pytest.approx(reference.log_softmax(row)[token_id], rel=2e-7, abs=1e-6)
    np.testing.assert_array_equal(top_ids, plain_ids)
    np.testing.assert_allclose(top_logprobs, plain_logprobs, rtol=2e-7, atol=1e-6)
    return token_id, token_id == plain_id


@settings(max_examples=150, deadline=None)
@given(
    params=sampling_params(),
    num_vocab=st.sampled_from([1, 2, 37, 512, 1500, 6000]),
    deviation=st.sampled_from([0.01, 1.0, 3.0]),
    ties=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_token_is_the_one_that_the_plain_definition_chooses(
    params: SamplingParams, num_vocab: int, deviation: float, ties: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, num_vocab, rng.integers(0, 50)).astype(np.int32)
    sampler, plain = Sampler(num_vocab), ReferenceSampler(num_vocab)
    sampler.reset(params, prompt, NO_IDS)
    plain.reset(params, prompt, NO_IDS)
    for step in range(4):
        row = normal_row(num_vocab, deviation, seed + step)
        row[rng.random(num_vocab) < 0.05] = np.nan
        row[-1] = 0.5
        row = np.round(row) if ties else row
        _, same = check_row(sampler, plain, row, len(prompt) + step)
        if not same:  # the counts part here
            break


@pytest.mark.parametrize("num_vocab", [49152, 151936])
def test_rows_like_a_trained_models_are_sampled_as_the_plain_definition_samples_them(
    num_vocab: int,
) -> None:
    cases = [
        SamplingParams(temperature=1.0, top_p=0.95, seed=3),
        SamplingParams(temperature=0.7, top_p=0.95, repetition_penalty=1.1, seed=4),
        SamplingParams(temperature=1.0, typical_p=0.95, seed=5),
        SamplingParams(temperature=1.0, top_k=40, seed=6, num_top_tokens=20),
    ]
    prompt = np.arange(0, num_vocab, 97, dtype=np.int32)
    for params, seed in itertools.product(cases, range(3)):
        sampler, plain = Sampler(num_vocab), ReferenceSampler(num_vocab)
        sampler.reset(params, prompt, NO_IDS)
        plain.reset(params, prompt, NO_IDS)
        check_row(sampler, plain, peaked_row(num_vocab, seed), 1000 + seed)


@pytest.mark.parametrize("cut", [{"top_p": 0.999}, {"typical_p": 0.999}, {"top_k": 30000}])
def test_a_flat_row_whose_kept_set_is_large_is_cut_exactly(cut: dict[str, float]) -> None:
    params = SamplingParams(temperature=1.0, seed=8, **cut)  # type: ignore[arg-type]
    sampler, plain = Sampler(50000), ReferenceSampler(50000)
    row = normal_row(50000, 1.0, 9)
    sampler.reset(params, NO_IDS, NO_IDS)
    plain.reset(params, NO_IDS, NO_IDS)
    num_same = sum(check_row(sampler, plain, row, position)[1] for position in range(40))
    assert num_same >= 39


@pytest.mark.parametrize(
    "cut",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 20},
        {"top_p": 0.8},
        {"typical_p": 0.7},
        {"top_k": 50, "top_p": 0.9, "typical_p": 0.8, "temperature": 1.4},
    ],
)
def test_frequencies_over_many_positions_are_those_of_the_plain_distribution(
    cut: dict[str, float],
) -> None:
    params = SamplingParams(**({"temperature": 1.0, "seed": 12} | cut))  # type: ignore[arg-type]
    sampler, plain = Sampler(120), ReferenceSampler(120)
    row = normal_row(120, 1.5, 10)
    sampler.reset(params, NO_IDS, NO_IDS)
    plain.reset(params, NO_IDS, NO_IDS)
    expected = 100_000 * plain.distribution(row).p
    counts = np.zeros(120)
    for position in range(100_000):
        counts[sampler.sample(row, position)[0]] += 1
    kept = expected > 0
    assert counts[~kept].sum() == 0
    freedom = kept.sum() - 1
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_a_sequence_resumed_with_its_output_goes_on_as_it_would_have() -> None:
    params = SamplingParams(
        temperature=1.2, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.5, seed=77
    )
    prompt = np.array([4, 4, 9], np.int32)
    rows = [normal_row(800, 3.0, step) for step in range(30)]
    whole = Sampler(800)
    whole.reset(params, prompt, NO_IDS)
    ids = [whole.sample(row, 3 + step)[0] for step, row in enumerate(rows)]
    for num_done in (1, 7, 29):
        resumed = Sampler(800)
        resumed.reset(params, prompt, np.array(ids[:num_done], np.int32))
        rest = [
            resumed.sample(row, 3 + num_done + step)[0] for step, row in enumerate(rows[num_done:])
        ]
        assert rest == ids[num_done:]


def test_a_row_without_a_finite_logit_is_refused() -> None:
    sampler = Sampler(4)
    sampler.reset(SamplingParams(), NO_IDS, NO_IDS)
    with pytest.raises(RunnerError, match="NaN"):
        sampler.sample(np.full(4, np.nan, np.float32), 0)


def test_padding_ids_of_a_prompt_count_for_nothing_and_negative_ones_are_refused() -> None:
    sampler = Sampler(4)
    params = SamplingParams(repetition_penalty=2.0)
    sampler.reset(params, np.array([1, 4, 2**30], np.int32), NO_IDS)
    assert sampler.sample(np.array([1, 1.5, 0, 0], np.float32), 3)[0] == 0
    with pytest.raises(RunnerError, match="negative"):
        sampler.reset(params, np.array([-1], np.int32), NO_IDS)


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**40))
def test_draws_are_the_documented_hash(seed: int, position: int) -> None:
    assert draw_uniform(seed, position) == reference.draw_uniform(seed, position)
