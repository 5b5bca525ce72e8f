"""Which slot each running sequence sits in, and what to do about holes between them.

With split KV one pass over the model takes only slots that follow each other without a hole, so a
hole costs an extra pass unless it is filled: by the next sequence, by a dummy row, or by moving the
last sequence into it. With one unified pool none of that matters. Cells of a finished sequence may
be parked in a free slot; it stays free. Knows no tokens and calls no runner; placement.py does what
`find_move` and `obstacles` say, the planner what `bridge` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, pairwise, takewhile

from tgi_llamacpp.engine.sequence import Sequence

# The cost model, in passes of one row. Measured on a CPU with a 135M model: a pass takes 11 ms,
# a further row 3 ms, a move 10 ms and a rebuilt graph. They scale together with the model.
EXTRA_PASS = 1.0
DUMMY_ROW = 0.25
MOVE = 2.0
MAX_HORIZON_STEPS = 32  # a hole rarely lasts longer: something arrives or ends
MAX_DUMMIES = 3  # in one gap: a further one makes the rows dearer than an extra pass
CELL_BLOCK = 256  # attention reads a slot's cells in such blocks


class SlotTable:
    """The slots of one runner. A slot is running, which is one sequence, or free.

    A free slot is empty or has parked cells.
    """

    def __init__(
        self,
        num_slots: int,
        *,
        is_unified: bool,
        can_trim: bool = True,
        max_slot_tokens: int = 2**31 - 1,
        max_pool_tokens: int = 2**31 - 1,
    ) -> None:
        self._sequences: list[Sequence | None] = [None] * num_slots
        self._is_unified = is_unified
        self._can_trim = can_trim
        self._max_slot_tokens = max_slot_tokens
        self._max_pool_tokens = max_pool_tokens
        self._parked: dict[int, int] = {}  # slot -> cells
        self.num_running = 0
        self.num_following = 0
        self.num_changes = 0  # of who sits where, who waits, and what is parked

    def __getitem__(self, slot: int) -> Sequence | None:
        return self._sequences[slot]

    def __len__(self) -> int:
        return len(self._sequences)

    def running(self) -> list[Sequence]:
        """By ascending slot."""
        return [sequence for sequence in self._sequences if sequence is not None]

    def computing(self) -> list[Sequence]:
        """By ascending slot: those that have something to compute now."""
        if not self.num_following:
            return self.running()
        return [one for one in self._sequences if one is not None and not one.is_following]

    @property
    def num_free(self) -> int:
        return len(self._sequences) - self.num_running

    def num_parked(self, slot: int) -> int:
        """Cells that are parked in a free slot."""
        return self._parked.get(slot, 0)

    def park(self, slot: int, num_cells: int) -> None:
        """A free slot has cells of its last sequence; 0: it has none any more."""
        assert self._sequences[slot] is None
        self.num_changes += 1
        if num_cells:
            self._parked[slot] = num_cells
        else:
            self._parked.pop(slot, None)

    def place(self, sequence: Sequence, slot: int | None = None) -> int:
        """Bind a sequence to an empty slot; to the first of `candidates` if none is given."""
        if slot is None:
            slot = self.candidates()[0]
        assert sequence.slot is None
        assert self._sequences[slot] is None
        assert slot not in self._parked
        self._sequences[slot] = sequence
        sequence.slot = slot
        self.num_running += 1
        self.num_changes += 1
        return slot

    def release(self, sequence: Sequence) -> int:
        """Unbind a sequence; its slot is empty from now on."""
        slot = sequence.slot
        assert slot is not None
        assert self._sequences[slot] is sequence
        self._sequences[slot] = None
        sequence.slot = None
        self.num_running -= 1
        self.follow(sequence, is_following=False)
        return slot

    def follow(self, sequence: Sequence, *, is_following: bool) -> None:
        """Whether a sequence waits for cells that another computes, and has nothing to compute."""
        self.num_changes += 1
        self.num_following += is_following - sequence.is_following
        sequence.is_following = is_following

    def move(self, src: int, dst: int) -> None:
        """Rebind the sequence in src to the empty slot dst."""
        sequence = self._sequences[src]
        assert sequence is not None
        assert self._sequences[dst] is None
        assert dst not in self._parked
        self._sequences[src], self._sequences[dst] = None, sequence
        sequence.slot = dst
        self.num_changes += 1

    def candidates(self) -> list[int]:
        """Free slots that keep the running ones equally dense: holes, else neighbours, else all."""
        occupied = [slot for slot, one in enumerate(self._sequences) if one is not None]
        if not occupied or self._is_unified:
            return [slot for slot, one in enumerate(self._sequences) if one is None]
        low, high = occupied[0], occupied[-1]
        if high - low + 1 > len(occupied):
            return [slot for slot in range(low, high) if self._sequences[slot] is None]
        neighbours = [low - 1] if low > 0 else []
        if high + 1 < len(self._sequences):
            neighbours.append(high + 1)
        return neighbours

    def find_move(self) -> tuple[int, int] | None:
        """The next move (src, dst) towards dense slots, where making them dense pays.

        dst is free; what is parked there has to go first.
        """
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

    def outside(self) -> list[int]:
        """Free slots, those first that lie farthest from where sequences run."""
        occupied = [slot for slot, one in enumerate(self._sequences) if one is not None]
        low, high = (occupied[0], occupied[-1]) if occupied else (0, 0)
        free = [slot for slot, one in enumerate(self._sequences) if one is None]
        return sorted(free, key=lambda slot: -max(low - slot, slot - high))

    def obstacles(self, max_slot_tokens: int, *, can_trim: bool) -> list[int]:
        """Slots in narrow gaps whose parked cells are in the way of a dummy row.

        It cannot be taken back, or there is no room for it, or all rows of the pass would read as
        many cells as are parked there.
        """
        if not self._parked or self._is_unified or self.num_running < 2:
            return []
        occupied = [slot for slot, one in enumerate(self._sequences) if one is not None]
        if occupied[-1] - occupied[0] + 1 == len(occupied):
            return []
        longest = max(one.num_computed for one in self._sequences if one is not None)
        limit = min(-(-(longest + 1) // CELL_BLOCK) * CELL_BLOCK, max_slot_tokens)
        return [
            between
            for slot, after in pairwise(occupied)
            if after - slot - 1 <= MAX_DUMMIES
            for between in range(slot + 1, after)
            if between in self._parked and (not can_trim or self._parked[between] >= limit)
        ]

    def bridge(self, decoding: list[int], max_rows: int) -> tuple[list[int], list[int]]:
        """How to join the decode rows of these ascending slots into one pass.

        Returns (dummies, prefilling): slots without a row of their own that get a dummy row, and
        slots of prefilling sequences that get at least one row of their prompt; at most max_rows
        together. A gap that costs more to fill than an extra pass is left.
        """
        dummies: list[int] = []
        prefilling: list[int] = []
        if self._is_unified or not decoding or decoding[-1] - decoding[0] + 1 == len(decoding):
            return dummies, prefilling
        for slot, after in pairwise(decoding):
            gap = range(slot + 1, after)
            idle = [between for between in gap if self._is_idle(between)]
            if len(idle) > MAX_DUMMIES or len(gap) > max_rows:
                continue
            max_rows -= len(gap)
            dummies += idle
            prefilling += [between for between in gap if not self._is_idle(between)]
        return dummies, prefilling

    def _is_idle(self, slot: int) -> bool:
        sequence = self._sequences[slot]
        return sequence is None or sequence.is_following

    def pads(self, num_pads: int, taken: Iterable[int]) -> list[int]:
        """Free slots for so many dummy rows that join the pass over the slots `taken`.

        None where there are not enough of them, or the slots have holes, or the pool has no cells
        to spare. Parked cells are no hindrance but where they could not be restored, or would be
        more than the pass reads anyway.
        """
        occupied = sorted(taken)
        if not occupied:
            return []
        if self._is_unified:
            return self._pool_pads(num_pads, len(occupied))
        low, high = occupied[0], occupied[-1]
        if high - low + 1 > len(occupied):
            return []
        limit = self._block_limit()
        above = self._free_from(range(high + 1, len(self._sequences)), num_pads, limit)
        below = self._free_from(range(low - 1, -1, -1), num_pads - len(above), limit)
        return [*above, *below] if len(above) + len(below) == num_pads else []

    def _pool_pads(self, num_pads: int, num_rows: int) -> list[int]:
        """Free slots for dummy rows beside so many others, empty ones first.

        The pool must have the cells; one that several share counts for each.
        """
        num_cells = sum(one.num_computed for one in self.running()) + sum(self._parked.values())
        if num_cells + num_rows + num_pads > self._max_pool_tokens:
            return []
        limit = self._max_slot_tokens if self._can_trim else 1
        free = [slot for slot, one in enumerate(self._sequences) if one is None]
        fit = sorted((slot for slot in free if self.num_parked(slot) < limit), key=self.num_parked)
        return fit[:num_pads] if len(fit) >= num_pads else []

    def _block_limit(self) -> int:
        """Cells that a pass over the running sequences reads of a slot."""
        longest = max(one.num_computed for one in self._sequences if one is not None)
        return min(-(-(longest + 1) // CELL_BLOCK) * CELL_BLOCK, self._max_slot_tokens)

    def _free_from(self, slots: range, max_slots: int, limit: int) -> list[int]:
        """The first of these slots, up to one that runs or has too much parked."""

        def is_fit(slot: int) -> bool:
            num_parked = self._parked.get(slot, 0)
            has_room = not num_parked or (self._can_trim and num_parked < limit)
            return self._sequences[slot] is None and has_room

        return list(islice(takewhile(is_fit, slots), max_slots))

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raises AssertionError where table and sequences disagree: a bug of ours."""
        expected = {id(sequence) for sequence in running}
        held = self.running()
        assert {id(sequence) for sequence in held} == expected, "slots hold other sequences"
        assert len(held) == len(expected) == self.num_running, "a sequence sits in two slots"
        for slot, sequence in enumerate(self._sequences):
            assert sequence is None or sequence.slot == slot, f"slot {slot} is mislabelled"
            assert sequence is None or slot not in self._parked, f"slot {slot} runs and is parked"
        assert self.num_following == sum(one.is_following for one in held), "followers are lost"
