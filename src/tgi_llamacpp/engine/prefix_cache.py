"""Which ids the cells of every slot stand for, and who can serve a newcomer's prompt from them.

A resident is what sits in a slot: a running sequence, or the cells that a finished one left, which
are parked. Decides what a prefix is worth and which parked one goes first; moves no cell and calls
no runner. Called by placement.py.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from tgi_llamacpp.engine.host_cache import HostState
from tgi_llamacpp.engine.prefix_tree import PrefixTree
from tgi_llamacpp.engine.runner import Int32s
from tgi_llamacpp.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class Resident:
    """The cells of one slot: those of ids [0, num_cells)."""

    slot: int
    scope: int
    num_ids: int  # that the tree knows; a running sequence has yet to compute some of them
    sequence: Sequence | None  # None when it has finished
    num_prompt: int  # of its ids; the others are an answer
    num_parked: int = 0
    is_settled: bool = False  # it was considered for a save while there was no work

    @property
    def num_cells(self) -> int:
        return self.num_parked if self.sequence is None else self.sequence.num_computed


@dataclass(slots=True)
class Match:
    """What there is for a newcomer: `num_tokens` of its prompt, in the cells of each source.

    Or in `state`, from host memory, and then there are no sources. `leader` is a running sequence
    that is about to compute more of it: `num_led` tokens. `miss` says why there is nothing now.
    """

    num_tokens: int = 0
    sources: list[Resident] = field(default_factory=list)
    state: HostState | None = None
    leader: Resident | None = None
    num_led: int = 0
    miss: str = ""


class PrefixCache:
    """The residents, by sequence and by slot, and a tree of their ids for each scope."""

    def __init__(self, min_tokens: int, *, can_trim: bool) -> None:
        """A prefix shorter than min_tokens is not worth its copy.

        Without can_trim a resident's cells are of use only whole.
        """
        self._min_tokens = min_tokens
        self._can_trim = can_trim
        self._trees: dict[int, PrefixTree[Resident]] = {}
        self._running: dict[int, Resident] = {}  # by seq_id
        self._parked: OrderedDict[int, Resident] = (
            OrderedDict()
        )  # by slot; least recently used first
        self.num_parked_tokens = 0

    @property
    def num_parked(self) -> int:
        return len(self._parked)

    def parked_in(self, slot: int) -> Resident | None:
        return self._parked.get(slot)

    def running(self, sequence: Sequence) -> Resident | None:
        return self._running.get(sequence.seq_id)

    def find(self, sequence: Sequence) -> Match:
        """What can serve a sequence that has no cells. Its last id is computed in any case."""
        if sequence.num_tokens <= self._min_tokens:
            return Match(miss="short")
        tree = self._trees.get(sequence.scope)
        steps = tree.match(ids_of(sequence)[:-1]) if tree is not None else []
        if not steps:
            return Match(miss="unknown")
        match = Match()
        is_long = is_whole = False
        for step in reversed(steps):
            if step.num_tokens < self._min_tokens or step.num_tokens <= match.num_tokens:
                break
            for resident in step.holders:
                if resident.sequence is sequence:
                    continue
                is_long = True
                num_tokens = min(step.num_tokens, resident.num_cells)
                if resident.num_cells > step.num_tokens and not self._can_trim:
                    continue
                is_whole = True
                _add_source(match, resident, num_tokens)
                self._add_leader(match, resident, step.num_tokens, sequence)
        if match.num_tokens < self._min_tokens:
            match.num_tokens, match.sources = 0, []
            match.miss = "short" if not is_long else "computing" if is_whole else "partial"
        if match.num_led < match.num_tokens + self._min_tokens:
            match.leader, match.num_led = None, 0
        return match

    def _add_leader(
        self, match: Match, resident: Resident, num_tokens: int, sequence: Sequence
    ) -> None:
        """Only those who came before can lead, so nobody waits for one who waits for him.

        What cannot be trimmed would have to be caught at the very step.
        """
        leader = resident.sequence
        if leader is None or not self._can_trim or leader.num_arrival >= sequence.num_arrival:
            return
        if leader.num_computed < num_tokens and num_tokens > match.num_led:
            match.leader, match.num_led = resident, num_tokens

    def enter(self, sequence: Sequence) -> None:
        """A sequence runs in its slot from now on; what it computes may serve others."""
        assert sequence.slot is not None
        if sequence.num_reserved < self._min_tokens:
            return  # it never comes to anything that could be shared
        ids = ids_of(sequence)
        resident = Resident(
            sequence.slot, sequence.scope, len(ids), sequence, len(sequence.prompt_ids)
        )
        self._running[sequence.seq_id] = resident
        self._tree(sequence.scope).insert(resident, ids)

    def leave(self, sequence: Sequence, *, keep: bool) -> Resident | None:
        """A sequence ends; its resident if its cells are worth keeping, which are parked then."""
        resident = self._running.pop(sequence.seq_id, None)
        if resident is None:
            return None
        num_cells = sequence.num_computed
        resident.sequence = None
        resident.num_parked = num_cells
        if not keep or num_cells < self._min_tokens:
            self._forget(resident)
            return None
        tree = self._tree(resident.scope)
        if num_cells > resident.num_ids:
            tail = sequence.ids(resident.num_ids, num_cells)
            tree.extend(resident, np.array(tail, np.int32))
        elif num_cells < resident.num_ids:
            tree.remove(resident)
            tree.insert(resident, ids_of(sequence)[:num_cells])
        resident.num_ids = num_cells
        if superset := self._superset(resident):
            self.touch(superset)
            self._forget(resident)
            return None
        self._parked[resident.slot] = resident
        self.num_parked_tokens += num_cells
        return resident

    def _superset(self, resident: Resident) -> Resident | None:
        """One who has all that this one has, and will have it as long."""
        for other in self._tree(resident.scope).supersets(resident):
            if other.sequence is None and (self._can_trim or other.num_ids == resident.num_ids):
                return other
        return None

    def ids(self, resident: Resident) -> Int32s:
        """Those that its cells stand for, or will."""
        return self._trees[resident.scope].ids(resident)

    def has_cells(self, scope: int, ids: Int32s) -> bool:
        """Whether a resident, running or parked, has computed all of these ids."""
        tree = self._trees.get(scope)
        steps = tree.match(ids) if tree is not None else []
        if not steps or steps[-1].num_tokens < len(ids):
            return False
        return any(one.num_cells >= len(ids) for one in steps[-1].holders)

    def is_contained(self, resident: Resident) -> bool:
        """Whether another, running or parked, has all that this one has."""
        return self._can_trim and any(self._trees[resident.scope].supersets(resident))

    def superseded(self, resident: Resident) -> list[Resident]:
        """Parked ones that a parked one makes needless."""
        if not self._can_trim:
            return []
        subsets = self._tree(resident.scope).subsets(resident)
        return [other for other in subsets if other.sequence is None]

    def touch(self, resident: Resident) -> None:
        """A resident was of use."""
        if resident.slot in self._parked:
            self._parked.move_to_end(resident.slot)

    def oldest(
        self, slots: list[int] | None = None, pinned: Resident | None = None
    ) -> Resident | None:
        """The least recently used parked one in these slots, but for the pinned one."""
        allowed = None if slots is None else set(slots)
        for slot, resident in self._parked.items():
            if resident is not pinned and (allowed is None or slot in allowed):
                return resident
        return None

    def next_to_settle(self) -> Resident | None:
        """The parked one that goes first of those not considered for a save yet."""
        return next((one for one in self._parked.values() if not one.is_settled), None)

    def unpark(self, resident: Resident) -> None:
        """The parked cells are gone, or another's."""
        del self._parked[resident.slot]
        self.num_parked_tokens -= resident.num_parked
        self._forget(resident)

    def move_parked(self, resident: Resident, dst: int) -> None:
        """Parked cells sit in another slot, and are as old as they were."""
        order = [dst if slot == resident.slot else slot for slot in self._parked]
        residents = list(self._parked.values())
        resident.slot = dst
        self._parked = OrderedDict(zip(order, residents, strict=True))

    def move_running(self, sequence: Sequence, dst: int) -> None:
        if resident := self._running.get(sequence.seq_id):
            resident.slot = dst

    def _forget(self, resident: Resident) -> None:
        tree = self._trees[resident.scope]
        tree.remove(resident)
        if not len(tree):
            del self._trees[resident.scope]

    def _tree(self, scope: int) -> PrefixTree[Resident]:
        tree = self._trees.get(scope)
        if tree is None:
            tree = self._trees[scope] = PrefixTree()
        return tree

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raises AssertionError where trees, residents and sequences disagree: a bug of ours."""
        able = [one for one in running if one.num_reserved >= self._min_tokens]
        assert self._running.keys() == {one.seq_id for one in able}, "residents are off"
        for sequence in able:
            resident = self._running[sequence.seq_id]
            assert resident.sequence is sequence
            assert resident.slot == sequence.slot, "a resident's slot is off"
        for slot, resident in self._parked.items():
            assert resident.slot == slot, "a parked one's slot is off"
            assert resident.sequence is None
            assert resident.num_ids == resident.num_parked >= self._min_tokens
        residents = [*self._running.values(), *self._parked.values()]
        assert len({one.slot for one in residents}) == len(residents), "two in one slot"
        assert self.num_parked_tokens == sum(one.num_parked for one in self._parked.values())
        assert sum(map(len, self._trees.values())) == len(residents), "the trees know others"
        assert all(one in self._trees[one.scope] for one in residents), "a tree lacks one"
        for tree in self._trees.values():
            tree.check_integrity()


def _add_source(match: Match, resident: Resident, num_tokens: int) -> None:
    if num_tokens > match.num_tokens:
        match.num_tokens, match.sources = num_tokens, [resident]
    elif num_tokens and num_tokens == match.num_tokens:
        match.sources.append(resident)


def ids_of(sequence: Sequence) -> Int32s:
    """All ids so far: a sequence that is resumed finds its output again."""
    if not sequence.generated_ids:
        return sequence.prompt_ids
    return np.concatenate([sequence.prompt_ids, sequence.output_ids()])
