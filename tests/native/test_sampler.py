"""csrc's sampler through its binding, against the numpy definition in reference_sampler.py.

The C++ tests in csrc/tests go further into its edges; these hold the Python side to the same.
"""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native import reference_sampler as reference
from tests.native.reference_sampler import ReferenceSampler
from tgi_llamacpp.engine.runner import Float32s, Int32s
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.native._sampler import Sampler, coin_uniform, draw_uniform

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
        penalty_last_n=draw(st.sampled_from([-1, -1, 0, 1, 3, 20, 64])),
        min_p=draw(st.sampled_from([0.0, 0.0, 1e-4, 0.05, 0.3, 1.0])),
        xtc_probability=draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])),
        xtc_threshold=draw(st.sampled_from([0.001, 0.02, 0.1, 0.3, 0.5, 1.0])),
        dry_multiplier=draw(st.sampled_from([0.0, 0.0, 0.3, 0.8, 5.0, 1e38])),
        dry_base=draw(st.sampled_from([1.0, 1.0000001, 1.2, 1.75, 1e30])),
        dry_allowed_length=draw(st.sampled_from([0, 1, 2, 5])),
        dry_last_n=draw(st.sampled_from([-1, -1, 0, 1, 7, 40])),
        mirostat=draw(st.sampled_from([0, 0, 0, 1, 2])),
        mirostat_tau=draw(st.sampled_from([0.0, 1.0, 3.0, 5.0, 100.0])),
        mirostat_eta=draw(st.sampled_from([0.0, 0.1, 1.0, 30.0])),
    )


@st.composite
def columns_of_ids(draw: st.DrawFn, num_vocab: int) -> dict[str, bytes]:
    """The parameters that name tokens: biases, also of tokens that are not there, and breakers."""
    ids = st.integers(-2, num_vocab + 2)
    biased = draw(st.lists(ids, max_size=8))
    size = len(biased)
    values = draw(
        st.lists(st.sampled_from([1.5, -2, 6, -100, -np.inf]), min_size=size, max_size=size)
    )
    breakers = sorted(draw(st.lists(ids, max_size=3)))
    return {
        "bias_ids": np.array(biased, np.int32).tobytes(),
        "bias_values": np.array(values, np.float32).tobytes(),
        "dry_breaker_ids": np.array(breakers, np.int32).tobytes(),
    }


def bias(params: SamplingParams, values: dict[int, float]) -> SamplingParams:
    return msgspec.structs.replace(
        params,
        bias_ids=np.array(list(values), np.int32).tobytes(),
        bias_values=np.array(list(values.values()), np.float32).tobytes(),
    )


def sampled_ids(
    params: SamplingParams, row: Float32s, prompt_ids: Int32s, num_steps: int
) -> list[int]:
    """What a sequence is when the model gives the same row at every position."""
    sampler = Sampler(len(row))
    sampler.reset(params, prompt_ids, NO_IDS)
    return [sampler.sample(row, len(prompt_ids) + step)[0] for step in range(num_steps)]


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


@settings(max_examples=400, deadline=None)
@given(
    params=sampling_params(),
    num_vocab=st.sampled_from([1, 2, 37, 512, 1500, 6000]),
    deviation=st.sampled_from([0.01, 1.0, 3.0]),
    ties=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_every_token_is_the_one_that_the_plain_definition_chooses(
    params: SamplingParams,
    num_vocab: int,
    deviation: float,
    ties: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    params = msgspec.structs.replace(params, **data.draw(columns_of_ids(num_vocab)))
    num_different = min(num_vocab, int(rng.choice([3, 6, num_vocab])))  # few repeat themselves
    prompt = rng.integers(0, num_different, rng.integers(0, 50)).astype(np.int32)
    sampler, plain = Sampler(num_vocab), ReferenceSampler(num_vocab)
    sampler.reset(params, prompt, NO_IDS)
    plain.reset(params, prompt, NO_IDS)
    for step in range(4):
        row = normal_row(num_vocab, deviation, seed + step)
        row[rng.random(num_vocab) < 0.05] = np.nan
        row[-1] = 0.5
        row = np.round(row) if ties else row
        if not np.isfinite(plain.changed(row)).any():  # all that there is was banned
            with pytest.raises(RunnerError, match="NaN"):
                sampler.sample(row, len(prompt) + step)
            break
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
        {"min_p": 0.1, "temperature": 1.4},
        {"xtc_probability": 1.0, "xtc_threshold": 0.03},
        {"top_p": 0.9, "min_p": 0.05, "xtc_probability": 1.0, "xtc_threshold": 0.05},
        {"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.0},
        {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.0},
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


def test_xtc_takes_the_top_out_as_often_as_its_probability_says() -> None:
    params = SamplingParams(temperature=1.0, xtc_probability=0.3, xtc_threshold=0.1, seed=5)
    sampler = Sampler(4)
    sampler.reset(params, NO_IDS, NO_IDS)
    row = np.log(np.array([0.2, 0.5, 0.25, 0.05])).astype(np.float32)
    ids = np.array([sampler.sample(row, position)[0] for position in range(100_000)])
    # With the coin 0.2 and 0.05 are left, and 0 has four fifths of them.
    shares = 0.7 * np.array([0.2, 0.5, 0.25, 0.05]) + 0.3 * np.array([0.8, 0, 0, 0.2])
    assert np.bincount(ids) / len(ids) == pytest.approx(shares, abs=0.008)


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**40))
def test_xtcs_coin_is_a_documented_hash_of_its_own(seed: int, position: int) -> None:
    assert coin_uniform(seed, position) == reference.coin_uniform(seed, position)
    assert coin_uniform(seed, position) != draw_uniform(seed, position)


def test_xtcs_coin_does_not_go_with_the_draw() -> None:
    pairs = np.array([(coin_uniform(3, i), draw_uniform(3, i)) for i in range(40_000)])
    counts, _, _ = np.histogram2d(*pairs.T, bins=8, range=[(0, 1), (0, 1)])
    chi_square = ((counts - 625) ** 2 / 625).sum()
    assert abs(chi_square - 63) < 5 * np.sqrt(2 * 63)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_comes_near_the_surprise_it_aims_at(version: int) -> None:
    params = SamplingParams(
        temperature=1.0, seed=4, mirostat=version, mirostat_tau=3.0, mirostat_eta=0.1
    )
    sampler, plain = Sampler(5000), ReferenceSampler(5000)
    sampler.reset(params, NO_IDS, NO_IDS)
    plain.reset(params, NO_IDS, NO_IDS)
    rows = [normal_row(5000, 3.0, seed) for seed in range(5)]
    surprises = []
    for position in range(400):
        row = rows[position % 5]
        p = plain.distribution(row).p
        token_id, same = check_row(sampler, plain, row, position)
        assert same
        surprises.append(-np.log2(p[token_id]))
    assert np.mean(surprises[100:]) == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize("value", [-np.inf, -100.0])
def test_a_banned_token_is_never_chosen_and_a_bias_chooses(value: float) -> None:
    row = np.array([3, 9, 2, 1], np.float32)
    for temperature in (0.0, 1.0):
        params = bias(SamplingParams(temperature=temperature), {1: value, 7: 50.0, -3: 50.0})
        assert 1 not in sampled_ids(params, row, NO_IDS, 100)
        params = bias(params, {3: 100.0})
        assert sampled_ids(params, row, NO_IDS, 20) == [3] * 20


def test_a_row_whose_every_token_is_banned_is_refused() -> None:
    sampler = Sampler(2)
    sampler.reset(bias(SamplingParams(), {0: -np.inf, 1: -np.inf}), NO_IDS, NO_IDS)
    with pytest.raises(RunnerError, match="no token to choose"):
        sampler.sample(np.zeros(2, np.float32), 0)


def test_dry_ends_a_repetition_that_greedy_would_go_on_with() -> None:
    prompt = np.array([5, 6, 7, 8, 1, 5, 6, 7], np.int32)
    row = np.zeros(10, np.float32)
    row[8], row[2] = 1.5, 1.0
    dry = SamplingParams(dry_multiplier=0.8, dry_base=1.75, dry_allowed_length=2)
    assert sampled_ids(dry, row, prompt, 1) == [2]
    assert sampled_ids(SamplingParams(), row, prompt, 1) == [8]
    breakers = msgspec.structs.replace(dry, dry_breaker_ids=np.array([6], np.int32).tobytes())
    assert sampled_ids(breakers, row, prompt, 1) == [8]
    assert sampled_ids(msgspec.structs.replace(dry, dry_last_n=5), row, prompt, 1) == [8]
    assert sampled_ids(msgspec.structs.replace(dry, dry_allowed_length=4), row, prompt, 1) == [8]


def test_penalties_forget_what_left_their_window() -> None:
    row = np.array([5, 4, 3], np.float32)
    params = SamplingParams(presence_penalty=10.0, penalty_last_n=2)
    assert sampled_ids(params, row, NO_IDS, 6) == [0, 1, 2, 0, 1, 2]
    params = msgspec.structs.replace(params, penalty_last_n=1)
    assert sampled_ids(params, row, NO_IDS, 4) == [0, 1, 0, 1]
    params = msgspec.structs.replace(params, penalty_last_n=0)
    assert sampled_ids(params, row, NO_IDS, 3) == [0, 0, 0]


def test_a_sequence_resumed_with_its_output_goes_on_as_it_would_have() -> None:
    params = SamplingParams(
        temperature=1.2,
        top_p=0.9,
        repetition_penalty=1.2,
        frequency_penalty=0.5,
        seed=77,
        penalty_last_n=12,
        min_p=0.01,
        xtc_probability=0.5,
        dry_multiplier=0.8,
        dry_allowed_length=1,
        dry_last_n=20,
    )
    prompt = np.array([4, 4, 9], np.int32)
    rows = [normal_row(800, 3.0, step % 4) for step in range(30)]
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


@pytest.mark.parametrize(
    "bad",
    [
        {"penalty_last_n": -2},
        {"min_p": 1.5},
        {"xtc_probability": -0.1},
        {"xtc_threshold": float("nan")},
        {"dry_multiplier": float("inf")},
        {"dry_base": 0.5},
        {"dry_allowed_length": -1},
        {"dry_last_n": -2},
        {"mirostat": 3},
        {"mirostat_tau": -1.0},
        {"mirostat_eta": float("nan")},
        {"bias_ids": b"\0\0\0\0", "bias_values": np.float32(np.inf).tobytes()},
        {"bias_ids": b"\0\0\0\0", "bias_values": np.float32(np.nan).tobytes()},
    ],
)
def test_a_parameter_out_of_its_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(RunnerError, match="out of range"):
        Sampler(4).reset(SamplingParams(**bad), NO_IDS, NO_IDS)  # type: ignore[arg-type]


def test_columns_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(RunnerError, match="1 ids have a bias, and 0 values"):
        Sampler(4).reset(SamplingParams(bias_ids=b"\0\0\0\0"), NO_IDS, NO_IDS)
    with pytest.raises(RunnerError, match="3 bytes"):
        Sampler(4).reset(SamplingParams(dry_breaker_ids=b"\0\0\0"), NO_IDS, NO_IDS)
