"""The sampler's plain definition in numpy float64: what csrc's sampler must choose, and why.

One step after the other, full sorts, no shortcut. Takes the same parameters and rows as
native's Sampler; test_sampler.py compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tgi_llamacpp.engine.runner import Float32s, Int32s
from tgi_llamacpp.messages import SamplingParams

Float64s = npt.NDArray[np.float64]
_LARGEST = np.finfo(np.float32).max
_U64 = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def draw_uniform(seed: int, position: int) -> float:
    """The number in [0, 1) of this seed and position: 53 bits of two rounds of splitmix64."""
    bits = _mix(_mix((seed + _STEP) & _U64) + _STEP * position & _U64)
    return (bits >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _U64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _U64
    return z ^ (z >> 31)


def finite(logits: Float32s) -> Float32s:
    """NaN counts as -inf, and +inf as the largest float."""
    return np.minimum(np.where(np.isnan(logits), -np.inf, logits), _LARGEST).astype(np.float32)


def log_softmax(logits: Float32s) -> Float64s:
    x = finite(logits).astype(np.float64)
    x = x - x.max()
    logprobs: Float64s = x - np.log(np.exp(x).sum())
    return logprobs


@dataclass(frozen=True)
class Distribution:
    """Probabilities by id, and how far, in probability, the nearest cut was from another token."""

    p: Float64s
    margin: float = 1.0

    def keep_prefix(self, order: Int32s, fraction: float) -> Distribution:
        """Keep the smallest prefix of `order` with a mass of at least `fraction`, renormalised."""
        mass = np.cumsum(self.p[order])
        num_kept = min(int(np.searchsorted(mass, fraction)) + 1, len(order))
        p = np.zeros_like(self.p)
        p[order[:num_kept]] = self.p[order[:num_kept]]
        margin = np.abs(mass[max(num_kept - 2, 0) : num_kept + 1] - fraction).min()
        return Distribution(p / p.sum(), min(self.margin, float(margin)))

    def keep_typical(self, fraction: float) -> Distribution:
        """Locally typical sampling: the tokens whose surprise, -log p, is nearest to its mean."""
        ids = np.flatnonzero(self.p).astype(np.int32)
        surprise = -np.log(self.p[ids])
        distance = np.abs(surprise - (self.p[ids] * surprise).sum())
        order = np.lexsort((ids, distance))
        kept = self.keep_prefix(ids[order], fraction)
        num_kept = np.count_nonzero(kept.p)
        around = order[num_kept - 1 : num_kept + 1]
        if len(around) == 2 and surprise[around[0]] != surprise[around[1]]:
            gap = float(distance[around[1]] - distance[around[0]])
            kept = Distribution(kept.p, min(kept.margin, gap))
        return kept


class ReferenceSampler:
    """Same interface as native's Sampler, and `distribution`, of which `sample` draws."""

    def __init__(self, num_vocab: int) -> None:
        self._num_vocab = num_vocab
        self.reset(SamplingParams(), np.empty(0, np.int32), np.empty(0, np.int32))

    def reset(self, params: SamplingParams, prompt_ids: Int32s, output_ids: Int32s) -> None:
        self._params = params
        self._prompt_counts = np.bincount(prompt_ids, minlength=self._num_vocab)
        self._output_counts = np.bincount(output_ids, minlength=self._num_vocab)

    def penalized(self, logits: Float32s) -> Float32s:
        """The logits after the penalties, computed in float64 and rounded to float32."""
        params = self._params
        occurred = self._prompt_counts + self._output_counts > 0
        counts = self._output_counts + params.penalize_prompt * self._prompt_counts
        x = finite(logits).astype(np.float64)
        repetition = float(np.float32(params.repetition_penalty))
        x = np.where(occurred, np.where(x > 0, x / repetition, x * repetition), x)
        x = x - float(np.float32(params.frequency_penalty)) * counts
        x = x - float(np.float32(params.presence_penalty)) * (counts > 0)
        x[x < -_LARGEST] = -np.inf
        return np.minimum(x, _LARGEST).astype(np.float32)

    def distribution(self, logits: Float32s) -> Distribution:
        """What is kept of the row. Ties go to the lower id; greedy keeps one token."""
        params = self._params
        x = self.penalized(logits).astype(np.float64)
        order = np.argsort(-x, kind="stable").astype(np.int32)
        if params.temperature == 0.0:
            return Distribution(np.eye(1, self._num_vocab, order[0])[0])
        if params.top_k > 0:
            x[order[params.top_k :]] = -np.inf
        weights = np.exp((x - x.max()) / float(np.float32(params.temperature)))
        kept = Distribution(weights / weights.sum())
        if params.top_p < 1.0:
            kept = kept.keep_prefix(order, float(np.float32(params.top_p)))
        if params.typical_p < 1.0:
            kept = kept.keep_typical(float(np.float32(params.typical_p)))
        return kept

    def choose(self, logits: Float32s, position: int) -> tuple[int, float]:
        """(id, margin): the draw by ascending id, and how far it was from another id."""
        kept = self.distribution(logits)
        u = draw_uniform(self._params.seed, position)
        ids = np.flatnonzero(kept.p)
        mass = np.cumsum(kept.p[ids])
        at = min(int(np.searchsorted(mass, u, side="right")), len(ids) - 1)
        inner = mass[max(at - 1, 0) : at + 1]
        margin = float(np.abs(inner - u).min()) if len(ids) > 1 else 1.0
        return int(ids[at]), min(kept.margin, margin)

    def sample(self, logits: Float32s, position: int) -> tuple[int, float, Int32s, Float32s]:
        """(id, logprob, top_ids, top_logprobs), and the choice is counted."""
        token_id, _ = self.choose(logits, position)
        self._output_counts[token_id] += 1
        logprobs = log_softmax(logits)
        top_ids = np.argsort(-finite(logits), kind="stable")[: self._params.num_top_tokens]
        return (
            token_id,
            float(np.float32(logprobs[token_id])),
            top_ids.astype(np.int32),
            logprobs[top_ids].astype(np.float32),
        )
