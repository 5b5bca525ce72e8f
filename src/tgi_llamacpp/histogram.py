"""How often observed values fell between fixed bounds, and TGI's bounds for durations.

Both processes count with it: the router what happens to requests, the engine what happens to
steps, which crosses the socket as Counts. Knows no names; router/prometheus.py prints it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import msgspec

# In seconds: 35 of them from 0.00015, each 1.5 times the one before.
DURATION_BOUNDS_S = tuple(accumulate([0.0001 * 1.5] + [1.5] * 34, lambda a, b: a * b))


class Counts(msgspec.Struct, array_like=True):
    """counts[i] values were at most bounds[i] and above the bound before; the last, above all."""

    counts: list[int]
    total: float = 0.0  # the sum of all values


class Histogram:
    """Upper bounds, ascending, and the counts between them."""

    __slots__ = ("bounds", "state")

    def __init__(self, bounds: Sequence[float], state: Counts | None = None) -> None:
        self.bounds = bounds
        self.state = state if state is not None else Counts([0] * (len(bounds) + 1))

    def observe(self, value: float) -> None:
        self.state.counts[bisect_left(self.bounds, value)] += 1
        self.state.total += value
