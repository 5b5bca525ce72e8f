"""How long a step will take: the cost of a pass by its width, and of prompts by their tokens.

Pure: no clock, no runner, no sequence. warm_up.py measures the curve that it begins with, the loop
tells it what each step took, and the planner asks how many prompt tokens fit in a time. Steps that
contradict the curve have it measured again at rest (curve_upkeep.py).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# With nothing measured: a row beside another costs a quarter of a pass, and so does a prompt token.
# Both are too much for most machines, so that the first guess errs towards short steps.
GUESSED_PASS_S = 0.01
ROW_SHARE = 0.25
PAD_GAIN = 0.05  # a wider pass must be cheaper by this share of the narrow one,
MIN_PAD_GAIN_S = 2e-4  # and by more than the clock's and the planner's own noise
FULL_GROUP = 4  # kernels are tiled in powers of two: pads that end elsewhere are noise
_ROW_GROUPS = (4, 8)
_DRIFT_RATE = 0.2  # of what the last decode step says, against all before
_ERROR_RATE = 0.1
_PRIOR_ERROR = 0.1  # what is not known yet is off
_MEMORY = 0.95  # of prompt costs: a step counts half after 14 more
_ANCHOR = 0.05  # weight, beside the steps', of the costs of before: what no step shows stays
_SURPRISE = 2.0  # times longer or shorter than predicted: once a hiccup, twice in a row the truth
_MAX_RESCALE = 64.0
_OPTIMISM = 0.97
# ggml's CPU attention reads K and V once for each 64 rows of a sequence, which are a chunk less the
# row that runs beside the decode rows, and for each row where there are fewer: with 2000 tokens
# before them, 65 tokens take no longer than 33.
LONG_GROUP = 64
LONG_CHUNK = LONG_GROUP + 1
LONG_FROM = 512  # positions before a chunk from which on that is worth whole groups
SHORT_ATTENTION = 2.0  # at least so many times as much, for each token and position before it
MAX_STRETCH = 0.2
_TOKENS = 100.0  # the scales of the fit: tokens of a chunk,
_PRODUCTS = 1e5  # and tokens times the positions before them

_Costs = tuple[float, float, float]
_Floats = npt.NDArray[np.float64]


class WidthCurve:
    """Seconds of a pass by its number of rows, of one sequence each: what was measured, no more.

    Between two widths it is interpolated, beyond the last one extrapolated.
    """

    def __init__(self, measured_s: Mapping[int, float]) -> None:
        """measured_s: widths of at least 1, and seconds above 0."""
        assert all(width >= 1 and cost_s > 0 for width, cost_s in measured_s.items())
        self.measured_s = dict(sorted(measured_s.items()))
        known = self.measured_s or {1: GUESSED_PASS_S}
        self._widths = list(known)
        self._costs_s = list(known.values())
        self.row_s = self._marginal_s()
        self.row_group = self._find_row_group()

    def _marginal_s(self) -> float:
        """What one more row costs, over the widest span that was measured."""
        first, last = self._widths[0], self._widths[-1]
        rise_s = self._costs_s[-1] - self._costs_s[0]
        if last == first or rise_s <= 0:
            return self._costs_s[-1] / last * ROW_SHARE
        return rise_s / (last - first)

    def _find_row_group(self) -> int:
        """Rows are computed in groups of so many: one that fills a group costs nothing. Else 1."""
        for group in _ROW_GROUPS:
            full = [width for width in self.measured_s if width % group == 0]
            pairs = [(w, w - 1) for w in full if w - 1 in self.measured_s]
            if pairs and all(self.measured_s[w] <= self.measured_s[less] for w, less in pairs):
                return group
        return 1

    def pass_s(self, width: int) -> float:
        """Seconds of a pass over `width` rows; 0 rows are no pass."""
        if width <= 0:
            return 0.0
        at = bisect_left(self._widths, width)
        if at == len(self._widths):
            return self._costs_s[-1] + (width - self._widths[-1]) * self.row_s
        if self._widths[at] == width or at == 0:
            return self._costs_s[at]
        low, high = self._widths[at - 1], self._widths[at]
        share = (width - low) / (high - low)
        return self._costs_s[at - 1] * (1 - share) + self._costs_s[at] * share

    def num_pads(self, width: int) -> int:
        """Rows to add to a pass of `width` rows because the wider pass was measured as cheaper."""
        own_s = self.measured_s.get(width)
        if own_s is None:
            return 0
        full = -(-width // FULL_GROUP) * FULL_GROUP
        gain_s = own_s - self.measured_s.get(full, own_s)
        return full - width if gain_s > max(PAD_GAIN * own_s, MIN_PAD_GAIN_S) else 0


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step's time depends on."""

    width: int  # rows of decoding sequences, and dummies
    chunks: tuple[tuple[int, int], ...]  # of prompts: (positions before it, tokens)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(num_tokens for _, num_tokens in self.chunks)


class CostModel:
    """step_s = drift * pass_s(width) + c0 + c1 * prompt tokens + c2 * tokens times positions.

    drift follows the steps that only decode: longer contexts, a busier machine. c0, c1 and c2 are
    fitted to the steps that had prompt tokens, apart for those with a chunk of LONG_CHUNK and those
    without.
    """

    def __init__(self, curve: WidthCurve) -> None:
        self.curve = curve
        # Smoothed |measured / predicted - 1| of steps with prompts beside streams.
        self.error_share = _PRIOR_ERROR
        self._drift = 1.0
        # c0 is a pass: a chunk is computed apart from the decode rows.
        guess = (curve.pass_s(1), curve.row_s * _TOKENS, 0.0)
        self._long, self._short = ChunkCosts(guess), ChunkCosts(guess)

    @property
    def drift(self) -> float:
        """What steps that only decode take at present, of what was measured."""
        return self._drift

    def replace_curve(self, curve: WidthCurve) -> None:
        """Believe what was measured just now, and no step before."""
        self.curve = curve
        self._drift = 1.0

    def pass_s(self, width: int) -> float:
        """Seconds of a step that only decodes."""
        return self._drift * self.curve.pass_s(width)

    def prompt_s(self, chunks: Sequence[tuple[int, int]]) -> float:
        """What these chunks add to a step; 0 for none. Short ones are no cheaper than long ones."""
        long_s = self._long.prompt_s(chunks)
        if self._costs_of(chunks) is self._long:
            return long_s
        return max(long_s, self._short.prompt_s(chunks))

    def predict_s(self, shape: StepShape) -> float:
        """Seconds that Runner.step will take."""
        return self.pass_s(shape.width) + self.prompt_s(shape.chunks)

    def learn(self, shape: StepShape, step_s: float) -> None:
        """Take in what a step took. Steps that did not run must not be told."""
        if not shape.chunks:
            if shape.width:
                self._follow(self.curve.pass_s(shape.width), step_s)
            return
        predicted_s = self.predict_s(shape)
        if shape.width:
            error_share = min(abs(step_s / max(predicted_s, 1e-9) - 1), _SURPRISE)
            self.error_share += _ERROR_RATE * (error_share - self.error_share)
        costs = self._costs_of(shape.chunks)
        costs.learn(shape.chunks, step_s, self.pass_s(shape.width))
        if costs is self._short:
            # What is not tried gets cheaper in belief, until it is tried again.
            self._long.rescale(_OPTIMISM)
        else:
            self._short.expect_product(SHORT_ATTENTION * self._long.costs[2])

    def _follow(self, measured_s: float, step_s: float) -> None:
        """A pass that was once measured to take so long took step_s now."""
        predicted_s = self._drift * measured_s
        seen_s = min(max(step_s, predicted_s / _SURPRISE), predicted_s * _SURPRISE)
        ratio = max(seen_s, 1e-9) / measured_s
        self._drift += _DRIFT_RATE * (ratio - self._drift)

    def _costs_of(self, chunks: Sequence[tuple[int, int]]) -> ChunkCosts:
        is_long = max((tokens for _, tokens in chunks), default=0) >= LONG_CHUNK
        return self._long if is_long else self._short

    def num_tokens_within(self, limit_s: float, prompts: Sequence[tuple[int, int]]) -> int:
        """Tokens of these prompts (positions before, tokens left), in order, that take limit_s.

        Where no long chunk fits, one is taken nevertheless if it exceeds the time by no more than
        MAX_STRETCH of it and reads its tokens in two thirds of the time that short ones take.
        """
        chunks = self._long.chunks_within(limit_s, prompts)
        if self._costs_of(chunks) is self._long:
            return sum(tokens for _, tokens in chunks)
        num_short = sum(tokens for _, tokens in self._short.chunks_within(limit_s, prompts))
        num_short = min(num_short, sum(tokens for _, tokens in chunks))
        if prompts and prompts[0][1] >= LONG_CHUNK:
            stretched = [(prompts[0][0], LONG_CHUNK)]
            long_s = self._long.prompt_s(stretched)
            is_quicker = long_s * 1.5 <= self._short.prompt_s(stretched)
            if is_quicker and long_s <= limit_s * (1 + MAX_STRETCH):
                return LONG_CHUNK
        return num_short


class ChunkCosts:
    """What prompt tokens add to a step: c0, c1 and c2 of CostModel, none of them negative.

    Fitted by least squares of relative errors, which forget, and which move a cost away from what
    it was only where steps say so.
    """

    def __init__(self, guess: _Costs) -> None:
        self.costs = guess  # for _features
        self.has_learnt = False
        self._surprise = 0  # of the last step: 1 much too long, -1 much too short
        self._products = np.zeros((3, 3))
        self._targets = np.zeros(3)

    def prompt_s(self, chunks: Iterable[tuple[int, int]]) -> float:
        """Seconds of these chunks; 0 for none."""
        return sum(c * value for c, value in zip(self.costs, _features(chunks), strict=True))

    def rescale(self, factor: float) -> None:
        """Believe that everything costs so much more or less."""
        constant, linear, product = self.costs
        self.costs = (constant * factor, max(linear * factor, 1e-9), product * factor)
        self._targets *= factor

    def expect_product(self, least: float) -> None:
        """Believe that a token and position cost so much at least."""
        constant, linear, product = self.costs
        self.costs = (constant, linear, max(product, least))

    def learn(self, chunks: Sequence[tuple[int, int]], step_s: float, pass_s: float) -> None:
        """Take in a step with these chunks, of which decode rows took pass_s."""
        if self._is_hiccup(step_s, pass_s + self.prompt_s(chunks)):
            return
        own_s = max(0.0, step_s - pass_s)
        if not self.has_learnt:  # nothing to fit yet: keep the proportions
            factor = own_s / max(self.prompt_s(chunks), 1e-9)
            self.rescale(min(max(factor, 1 / _MAX_RESCALE), _MAX_RESCALE))
        self.has_learnt = True
        weight = 1.0 / max(step_s, 1e-6) ** 2  # of relative errors
        features = np.array(_features(chunks))
        self._products = _MEMORY * self._products + weight * np.outer(features, features)
        self._targets = _MEMORY * self._targets + weight * own_s * features
        anchor = _ANCHOR * np.diag(self._products)
        self.costs = _nonnegative_solution(
            self._products + np.diag(anchor), self._targets + anchor * np.array(self.costs)
        )

    def _is_hiccup(self, step_s: float, predicted_s: float) -> bool:
        """Whether to pass over a step. A second one like it starts the fit anew."""
        side = (step_s > predicted_s * _SURPRISE) - (step_s < predicted_s / _SURPRISE)
        is_first = side != 0 and side != self._surprise
        self._surprise = side
        if is_first and self.has_learnt:
            return True
        if side:
            self.has_learnt = False
            self._products[:] = 0.0
            self._targets[:] = 0.0
        return False

    def chunks_within(
        self, limit_s: float, prompts: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Chunks of these prompts (positions before, tokens left), in order, that take limit_s."""
        chunks = []
        left_s = limit_s - self.costs[0]
        for start, num_left in prompts:
            num_taken = min(num_left, self._tokens_of_one(left_s, start))
            chunks.append((start, num_taken))
            if num_taken < num_left:
                break
            left_s -= self.prompt_s([(start, num_taken)]) - self.costs[0]
        return chunks

    def _tokens_of_one(self, left_s: float, start: int) -> int:
        """The largest n with n * token_s + n * (start + n / 2) * product_s <= left_s."""
        if left_s <= 0:
            return 0
        linear = self.costs[1] / _TOKENS + start * self.costs[2] / _PRODUCTS
        square = self.costs[2] / _PRODUCTS / 2
        root = linear + math.sqrt(linear * linear + 4 * square * left_s)
        # The root without a difference of two near numbers; a cost of nothing bounds nothing.
        return int(min(2 * left_s / root, 2**31)) if root > 0 else 2**31


def _features(chunks: Iterable[tuple[int, int]]) -> _Costs:
    num_tokens = num_products = 0.0
    for start, num_own in chunks:
        num_tokens += num_own
        num_products += num_own * (start + num_own / 2)
    return (1.0 if num_tokens else 0.0, num_tokens / _TOKENS, num_products / _PRODUCTS)


def _nonnegative_solution(matrix: _Floats, targets: _Floats) -> _Costs:
    """Solve, and again without the costs that came out negative, which are 0."""
    solution = np.zeros(len(targets))
    free = np.ones(len(targets), dtype=bool)
    while free.any():
        part = np.linalg.solve(matrix[np.ix_(free, free)], targets[free])
        if (part >= 0).all():
            solution[free] = part
            break
        free[np.flatnonzero(free)[part < 0]] = False
    constant, linear, product = solution.tolist()
    return constant, linear, product
