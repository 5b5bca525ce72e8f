"""How long outputs will be, judged by those that ended lately: a survival curve.

Most outputs end before their max_new_tokens; those that were cut there say only that they would
have been longer (Kaplan and Meier's estimate). Pure; admission.py tells it of ends and asks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

import numpy as np

NUM_REMEMBERED = 256


class OutputForecast:
    """Expected output tokens. With nothing learnt every output runs to its limit."""

    def __init__(self) -> None:
        self._ended: deque[tuple[int, bool]] = deque(maxlen=NUM_REMEMBERED)  # tokens, was cut
        self._open: list[int] = []
        self._is_stale = False
        # The curve after each length: the share that is longer, and the area below it up to there.
        self._lengths, self._shares, self._areas = [0], [1.0], [0.0]

    def learn(self, num_tokens: int, *, is_cut: bool, still_open: Iterable[int]) -> None:
        """An output ended, or was cut at its limit. still_open: the tokens so far of the others.

        Without those the first to end would make all outputs look short.
        """
        self._ended.append((num_tokens, is_cut))
        self._open = list(still_open)
        self._is_stale = True

    def remaining(self, num_tokens: int, max_new_tokens: int) -> float:
        """Tokens that an output of so many tokens is expected to get still; 1 at least if any."""
        num_left = max_new_tokens - num_tokens
        if num_left <= 1:
            return max(0, num_left)
        if self._is_stale:
            self._refresh()
        area = self._area(max_new_tokens) - self._area(num_tokens)
        share = self._shares[bisect_right(self._lengths, num_tokens) - 1]
        return min(max(area / share, 1.0), num_left)

    def _area(self, length: int) -> float:
        at = bisect_right(self._lengths, length) - 1
        return self._areas[at] + self._shares[at] * (length - self._lengths[at])

    def _refresh(self) -> None:
        """One more than there are is taken to have no end, so that no share is ever 0."""
        self._is_stale = False
        samples = [*self._ended, *((length, True) for length in self._open)]
        samples.sort()  # at equal lengths those that ended come before those that were cut
        lengths = np.array([0, *(length for length, _ in samples)])
        has_ended = np.array([not is_cut for _, is_cut in samples])
        num_longer = np.arange(len(samples), 0, -1)
        shares = np.cumprod(np.where(has_ended, num_longer / (num_longer + 1), 1.0))
        shares = np.concatenate([[1.0], shares])
        areas = np.concatenate([[0.0], np.cumsum(np.diff(lengths) * shares[:-1])])
        self._lengths, self._shares, self._areas = (
            lengths.tolist(),
            shares.tolist(),
            areas.tolist(),
        )
