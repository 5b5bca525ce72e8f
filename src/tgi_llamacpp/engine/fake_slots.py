"""What the slots of a FakeRunner hold: hashes of ids in place of keys and values.

Called by fake_runner.py, which says when a slot may be used how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tgi_llamacpp.messages import SamplingParams

_MASK = (1 << 64) - 1


def mix(state: int, value: int) -> int:
    """A 64-bit hash step: every bit of both reaches every bit of the result."""
    state = ((state ^ value) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & _MASK
    return ((state ^ (state >> 29)) * 0xBF58476D1CE4E5B9) & _MASK


def fold(ids: Sequence[int], state: int = 0) -> int:
    for token_id in ids:
        state = mix(state, token_id + 1)
    return state


@dataclass(slots=True)
class FakeSampler:
    params: SamplingParams
    history: int  # hash of every id counted: prompt, output, samples


@dataclass(slots=True)
class FakeSlot:
    cells: list[int] = field(default_factory=lambda: [0])  # hash of ids [0, i): one more than cells
    places: list[int] = field(default_factory=list)  # in one pool: which cells; copies share them
    sampler: FakeSampler | None = None
    num_loaded: int = 0  # of the cells, those that load gave

    @property
    def num_cells(self) -> int:
        return len(self.cells) - 1

    def state(self) -> bytes:
        """All that the cells say, as Runner.save writes it."""
        return np.array(self.cells, np.uint64).tobytes()


def score(slot: FakeSlot, token_id: int) -> float:
    """The log-probability of this id after the slot's cells."""
    return -((mix(slot.cells[-1], token_id + 1) >> 16) & 0xFFFF) / 8192


def cells_of(state: bytes) -> list[int]:
    """The cells of a slot that had this state."""
    cells: list[int] = np.frombuffer(state, np.uint64).tolist()
    return cells
