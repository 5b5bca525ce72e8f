"""The sampler's plain definition in numpy float64: what csrc's sampler must choose, and why.

One step after the other, full sorts, no shortcut. Takes the same parameters and rows as
native's Sampler; test_sampler.py compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def coin_uniform(seed: int, position: int) -> float:
    """The number in [0, 1) of XTC's coin."""
    return draw_uniform(seed ^ 0xD1B54A32D192ED03, position)


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _U64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _U64
    return z ^ (z >> 31)


def _f32(value: float) -> float:
    """The parameter as it crosses the seam."""
    return float(np.float32(value))


def _int64s(ids: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array(ids, np.int64)


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
    """Probabilities by id, and how far the nearest cut was from another token, as a probability.

    Where a cut compares with a threshold the distance is relative.
    """

    p: Float64s
    margin: float = 1.0

    def keep_prefix(self, order: Int32s, fraction: float) -> Distribution:
        """Keep the smallest prefix of `order` with a mass of at least `fraction`, renormalised."""
        mass = np.cumsum(self.p[order])
        num_kept = min(int(np.searchsorted(mass, fraction)) + 1, len(order))
        margin = np.abs(mass[max(num_kept - 2, 0) : num_kept + 1] - fraction).min()
        return self._keep(order[:num_kept], float(margin))

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

    def keep_from(self, threshold: float) -> Distribution:
        """Keep the tokens of at least this probability, and the best in any case, renormalised."""
        kept = np.flatnonzero(self.p >= threshold)
        kept = kept if len(kept) else np.array([self.p.argmax()])
        return self._keep(kept.astype(np.int32), self._distance(threshold))

    def exclude_top(self, threshold: float) -> Distribution:
        """XTC: without the tokens of at least this probability, but for the last of them."""
        order = np.argsort(-self.p, kind="stable")
        num_top = np.count_nonzero(self.p >= threshold)
        kept = np.sort(order[max(num_top - 1, 0) :])
        best = abs(float(self.p.max()) / threshold - 1.0) if np.count_nonzero(self.p) > 1 else 1.0
        return self._keep(kept.astype(np.int32), min(best, self._distance(threshold)))

    def _distance(self, threshold: float) -> float:
        """Relative, from the nearest token; but for the best, which any such cut keeps."""
        others = self.p[self.p < self.p.max()]
        return float(np.abs(others / max(threshold, 1e-300) - 1.0).min(initial=1.0))

    def _keep(self, ids: Int32s, margin: float) -> Distribution:
        p = np.zeros_like(self.p)
        p[ids] = self.p[ids]
        return Distribution(p / p.sum(), min(self.margin, margin))


def longest_repetitions(window: Sequence[int], breakers: set[int]) -> dict[int, int]:
    """DRY by its definition: how long a repetition of the window's end each token would extend.

    A repetition is the same tokens, without a breaker, anywhere before the end.
    """
    longest: dict[int, int] = {}
    for end in range(1, len(window)):  # of the earlier occurrence
        length = 0
        while length < end and window[end - 1 - length] == window[len(window) - 1 - length]:
            if window[end - 1 - length] in breakers:
                break
            length += 1
        if window[end] not in breakers:
            longest[window[end]] = max(longest.get(window[end], 0), length)
    return longest


def zipf_kept(logits: Float64s, temperature: float, mu: float) -> float:
    """Mirostat 1: how many of the best tokens are kept, before it is rounded down."""
    best = np.sort(logits)[::-1][:100]
    best = best[best > -np.inf] / temperature
    if len(best) < 2:
        return 1.0
    ranks = np.arange(1, len(best))
    t = np.log((ranks + 1) / ranks)
    s = float((t * (best[:-1] - best[1:])).sum() / (t**2).sum())
    log_n = np.log(len(logits))
    with np.errstate(all="ignore"):
        ratio = 1 / log_n if s == 1.0 else (s - 1) / -np.expm1((1 - s) * log_n)
        k = float(np.exp((np.log(ratio) + mu * np.log(2)) / s))
    return min(max(k, 1.0), len(logits)) if k == k else 1.0


def _last(ids: Sequence[int], num: int) -> Sequence[int]:
    return ids if num < 0 else ids[len(ids) - min(num, len(ids)) :]


class ReferenceSampler:
    """Same interface as native's Sampler, and `distribution`, of which `sample` draws."""

    def __init__(self, num_vocab: int) -> None:
        self._num_vocab = num_vocab
        self.reset(SamplingParams(), np.empty(0, np.int32), np.empty(0, np.int32))

    def reset(self, params: SamplingParams, prompt_ids: Int32s, output_ids: Int32s) -> None:
        self._params = params
        self._prompt: list[int] = prompt_ids.tolist()
        self._output: list[int] = output_ids.tolist()
        self._mu = 2.0 * _f32(params.mirostat_tau)

    def changed(self, logits: Float32s) -> Float32s:
        """The logits after bias, penalties and DRY, in float64 and rounded to float32 once."""
        x = finite(logits).astype(np.float64)
        ids = np.frombuffer(self._params.bias_ids, np.int32)
        inside = (ids >= 0) & (ids < self._num_vocab)
        values = np.frombuffer(self._params.bias_values, np.float32)[inside]
        np.add.at(x, ids[inside], values.astype(np.float64))
        x = self._penalized(x)
        x[x < -_LARGEST] = -np.inf
        return self._without_repetition(np.minimum(x, _LARGEST)).astype(np.float32)

    def _penalized(self, x: Float64s) -> Float64s:
        params = self._params
        prompt, output = self._counts()
        counts = output + params.penalize_prompt * prompt
        repetition = _f32(params.repetition_penalty)
        x = np.where(prompt + output > 0, np.where(x > 0, x / repetition, x * repetition), x)
        x = x - _f32(params.frequency_penalty) * counts
        return x - _f32(params.presence_penalty) * (counts > 0)

    def _counts(self) -> tuple[Float64s, Float64s]:
        """How often every token is in the last penalty_last_n, in the prompt and in the output."""
        num_last = self._params.penalty_last_n
        output = _last(self._output, num_last)
        prompt = _last(self._prompt, num_last - len(output) if num_last >= 0 else -1)
        counts = [
            np.bincount(ids, minlength=self._num_vocab) for ids in map(_int64s, (prompt, output))
        ]
        return counts[0][: self._num_vocab], counts[1][: self._num_vocab]

    def _without_repetition(self, x: Float64s) -> Float64s:
        params = self._params
        if params.dry_multiplier == 0.0:
            return x
        window = _last(self._prompt + self._output, params.dry_last_n)
        breakers = set(np.frombuffer(params.dry_breaker_ids, np.int32).tolist())
        base = np.float64(_f32(params.dry_base))
        longest_exponent = 88.0 / np.log(base) if base > 1.0 else np.inf
        for token_id, length in longest_repetitions(window, breakers).items():
            if length < max(params.dry_allowed_length, 1) or token_id >= self._num_vocab:
                continue
            exponent = min(length - params.dry_allowed_length, longest_exponent)
            if x[token_id] > -np.inf:
                penalty = _f32(params.dry_multiplier) * base**exponent
                x[token_id] = max(x[token_id] - penalty, -_LARGEST)
        return x

    def distribution(self, logits: Float32s, position: int = 0) -> Distribution:
        """What is kept of the row. Ties go to the lower id; greedy keeps one token.

        The position decides whether XTC's coin falls.
        """
        params = self._params
        x = self.changed(logits).astype(np.float64)
        order = np.argsort(-x, kind="stable").astype(np.int32)
        if params.temperature == 0.0:
            return Distribution(np.eye(1, self._num_vocab, order[0])[0])
        if params.mirostat:
            return self._mirostat(x, order)
        if params.top_k > 0:
            x[order[params.top_k :]] = -np.inf
        kept = self._tempered(x)
        if params.top_p < 1.0:
            kept = kept.keep_prefix(order, _f32(params.top_p))
        if params.typical_p < 1.0:
            kept = kept.keep_typical(_f32(params.typical_p))
        if params.min_p > 0.0:
            kept = kept.keep_from(_f32(params.min_p) * kept.p.max())
        if coin_uniform(params.seed, position) < _f32(params.xtc_probability):
            kept = kept.exclude_top(max(_f32(params.xtc_threshold), 1e-6))
        return kept

    def _tempered(self, x: Float64s) -> Distribution:
        weights = np.exp((x - x.max()) / _f32(self._params.temperature))
        return Distribution(weights / weights.sum())

    def _mirostat(self, x: Float64s, order: Int32s) -> Distribution:
        kept = self._within_surprise(x) if self._params.mirostat == 2 else self._zipf(x, order)
        # mu carries the rounding of all draws before.
        num_roundings = 1.0 + _f32(self._params.mirostat_eta) * len(self._output)
        return Distribution(kept.p, kept.margin / num_roundings)

    def _within_surprise(self, x: Float64s) -> Distribution:
        return self._tempered(x).keep_from(float(np.exp2(min(-self._mu, 1000.0))))

    def _zipf(self, x: Float64s, order: Int32s) -> Distribution:
        k = zipf_kept(x, _f32(self._params.temperature), self._mu)
        x[order[int(k) :]] = -np.inf
        return Distribution(self._tempered(x).p, abs(1.0 - round(k) / k) if k > 1.0 else 1.0)

    def choose(self, logits: Float32s, position: int) -> tuple[int, float]:
        """(id, margin): the draw by ascending id, and how far it was from another id."""
        return self._draw(self.distribution(logits, position), position)

    def _draw(self, kept: Distribution, position: int) -> tuple[int, float]:
        u = draw_uniform(self._params.seed, position)
        ids = np.flatnonzero(kept.p)
        mass = np.cumsum(kept.p[ids])
        at = min(int(np.searchsorted(mass, u, side="right")), len(ids) - 1)
        inner = mass[max(at - 1, 0) : at + 1]
        margin = float(np.abs(inner - u).min()) if len(ids) > 1 else 1.0
        return int(ids[at]), min(kept.margin, margin)

    def sample(self, logits: Float32s, position: int) -> tuple[int, float, Int32s, Float32s]:
        """(id, logprob, top_ids, top_logprobs), and the choice is counted."""
        kept = self.distribution(logits, position)
        token_id, _ = self._draw(kept, position)
        self._output.append(token_id)
        error = -np.log2(kept.p[token_id]) - _f32(self._params.mirostat_tau)
        self._mu -= _f32(self._params.mirostat_eta) * float(error)
        logprobs = log_softmax(logits)
        top_ids = np.argsort(-finite(logits), kind="stable")[: self._params.num_top_tokens]
        return (
            token_id,
            float(np.float32(logprobs[token_id])),
            top_ids.astype(np.int32),
            logprobs[top_ids].astype(np.float32),
        )
