"""csrc's scorer through its binding, against the log-softmax of numpy and against the sampler."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_llamacpp.engine.runner import Float32s, Int32s
from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.native._sampler import Sampler
from tgi_llamacpp.native._score import ScoredRows

NO_IDS: Int32s = np.empty(0, np.int32)


def log_softmax(row: Float32s) -> np.ndarray:
    wide = row.astype(np.float64)
    return wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())


@given(
    num_vocab=st.sampled_from([1, 2, 511, 512, 513, 4000, 151936]),
    deviation=st.sampled_from([0.01, 1.0, 6.0, 60.0]),
    offset=st.sampled_from([-200.0, 0.0, 30.0]),
    num_top=st.integers(0, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=120, deadline=None)
def test_a_score_is_the_log_softmax_and_alternatives_are_the_best(
    num_vocab: int, deviation: float, offset: float, num_top: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    row = rng.normal(offset, deviation, num_vocab).astype(np.float32)
    token_id = int(rng.integers(num_vocab))
    num_top = min(num_top, num_vocab)
    scores = ScoredRows(num_vocab, 1).score(row[None], np.array([token_id], np.int32), num_top)
    logprob, top_ids = scores.logprobs[0], scores.top_ids[0, :num_top]
    top_logprobs = scores.top_logprobs[0, :num_top]
    expected = log_softmax(row)
    assert logprob == pytest.approx(expected[token_id], rel=2e-7, abs=2e-7)
    assert top_ids.tolist() == np.argsort(-row, kind="stable")[:num_top].tolist()
    assert top_logprobs == pytest.approx(expected[top_ids], rel=2e-7, abs=2e-7)


def test_scores_have_the_bits_that_the_sampler_reports() -> None:
    rows = np.random.default_rng(1).normal(0, 4, (50, 3001)).astype(np.float32)
    sampler = Sampler(3001)
    sampled = []
    for seed, row in enumerate(rows):
        sampler.reset(SamplingParams(num_top_tokens=5, seed=seed), NO_IDS, NO_IDS)
        sampled.append(sampler.sample(row, 0))
    token_ids = np.array([one[0] for one in sampled], np.int32)
    scores = ScoredRows(3001, 64).score(rows, token_ids, 5)
    assert scores.logprobs.tolist() == [one[1] for one in sampled]
    assert scores.top_ids[:, :5].tolist() == [one[2].tolist() for one in sampled]
    assert scores.top_logprobs[:, :5].tolist() == [one[3].tolist() for one in sampled]


def test_a_row_without_a_finite_logit_scores_nan_and_spoils_no_other() -> None:
    rows = np.zeros((3, 4), np.float32)
    rows[1] = -np.inf
    scores = ScoredRows(4, 3).score(rows, np.zeros(3, np.int32), 1)
    assert np.isnan(scores.logprobs).tolist() == [False, True, False]
    assert np.isnan(scores.top_logprobs[:, 0]).tolist() == [False, True, False]
    assert scores.logprobs[[0, 2]] == pytest.approx(np.log(0.25))


def test_more_rows_than_there_is_room_for_are_an_error() -> None:
    with pytest.raises(ValueError, match="at most 2"):
        ScoredRows(4, 2).score(np.zeros((3, 4), np.float32), np.zeros(3, np.int32), 1)
