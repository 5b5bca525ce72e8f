"""Which slot each running sequence sits in, and what to do about holes between them.

With split KV one pass over the model takes only slots that follow each other without a hole, so a
hole costs an extra pass unless it is filled: by the next sequence, by a dummy row, or by moving the
last sequence into it. With one unified pool none of that matters. Knows no tokens and calls no
runner; the scheduler does what `find_move` says, the planner what `bridge` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tgi_llamacpp.engine.sequence import Sequence

# The cost model, in passes of one row. Measured on a CPU with a 135M model: a pass takes 11 ms,
# a further row 3 ms, a move 10 ms and a rebuilt graph. They scale together with the model.
EXTRA_PASS = 1.0
DUMMY_ROW = 0.25
MOVE = 2.0
MAX_HORIZON_STEPS = 32  # a hole rarely lasts longer: something arrives or ends


class SlotTable:
    """The slots of one runner. A slot is empty or holds one running sequence."""

    def __init__(self, num_slots: int, *, is_unified: bool) -> None:
        self._sequences: list[Sequence | None] = [None] * num_slots
        self._is_unified = is_unified
        self.num_running = 0

    def __getitem__(self, slot: int) -> Sequence | None:
        return self._sequences[slot]

    def __len__(self) -> int:
        return len(self._sequences)

    def running(self) -> list[Sequence]:
        """By ascending slot."""
        return [sequence for sequence in self._sequences if sequence is not None]

    @property
    def num_free(self) -> int:
        return len(self._sequences) - self.num_running

    def place(self, sequence: Sequence) -> int:
        """Bind a sequence to the free slot that keeps the running ones densest."""
        slot = self._densest_free()
        assert sequence.slot is None
        assert self._sequences[slot] is None
        self._sequences[slot] = sequence
        sequence.slot = slot
        self.num_running += 1
        return slot

    def release(self, sequence: Sequence) -> int:
        """Unbind a sequence; its slot is empty from now on."""
        slot = sequence.slot
        assert slot is not None
        assert self._sequences[slot] is sequence
        self._sequences[slot] = None
        sequence.slot = None
        self.num_running -= 1
        return slot

    def move(self, src: int, dst: int) -> None:
        """Rebind the sequence in src to the empty slot dst."""
        sequence = self._sequences[src]
        assert sequence is not None
        assert self._sequences[dst] is None
        self._sequences[src], self._sequences[dst] = None, sequence
        sequence.slot = dst

    def _densest_free(self) -> int:
        """The lowest hole between running slots; else the neighbour below them, then above."""
        occupied = [slot for slot, one in enumerate(self._sequences) if one is not None]
        if not occupied:
            return 0
        low, high = occupied[0], occupied[-1]
        if high - low + 1 > len(occupied):
            return self._sequences.index(None, low)
        if low > 0:
            return low - 1
        assert high + 1 < len(self._sequences), "place() needs a free slot"
        return high + 1

    def find_move(self) -> tuple[int, int] | None:
        """The next move (src, dst) towards dense slots, where making them dense pays."""
        if self._is_unified or self.num_running < 2:
            return None
        occupied = [slot for slot, one in enumerate(self._sequences) if one is not None]
        low, num_running = occupied[0], len(occupied)
        strays = [slot for slot in occupied if slot >= low + num_running]
        if not strays or not self._pays(occupied, strays):
            return None
        return occupied[-1], self._sequences.index(None, low)

    def _pays(self, occupied: list[int], strays: list[int]) -> bool:
        cost = sum(
            min((after - slot - 1) * DUMMY_ROW, EXTRA_PASS) for slot, after in pairwise(occupied)
        )
        remaining = [one.num_remaining for slot in strays if (one := self._sequences[slot])]
        return cost * min(MAX_HORIZON_STEPS, *remaining) > MOVE * len(strays)

    def bridge(self, decoding: list[int], max_rows: int) -> tuple[list[int], list[int]]:
        """How to join the decode rows of these ascending slots into one pass.

        Returns (dummies, prefilling): empty slots that get a dummy row, and slots of prefilling
        sequences that get at least one row of their prompt; at most max_rows together. A gap that
        costs more to fill than an extra pass is left.
        """
        dummies: list[int] = []
        prefilling: list[int] = []
        if self._is_unified or not decoding or decoding[-1] - decoding[0] + 1 == len(decoding):
            return dummies, prefilling
        for slot, after in pairwise(decoding):
            gap = range(slot + 1, after)
            empty = [between for between in gap if self._sequences[between] is None]
            if len(empty) * DUMMY_ROW >= EXTRA_PASS or len(gap) > max_rows:
                continue
            max_rows -= len(gap)
            dummies += empty
            prefilling += [between for between in gap if self._sequences[between] is not None]
        return dummies, prefilling

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raises AssertionError where table and sequences disagree: a bug of ours."""
        expected = {id(sequence) for sequence in running}
        held = self.running()
        assert {id(sequence) for sequence in held} == expected, "slots hold other sequences"
        assert len(held) == len(expected) == self.num_running, "a sequence sits in two slots"
        for slot, sequence in enumerate(self._sequences):
            assert sequence is None or sequence.slot == slot, f"slot {slot} is mislabelled"
