"""States of sequences that have left their slots, in host memory, within a bound on its bytes.

A state is what the runner wrote of a slot's cells, and the ids that they stand for. Knows no slot,
no runner and no clock, and decides what goes when there is no room: what a slot has got back, or
else the least recently used. Called by host_tier.py.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass

from tgi_llamacpp.engine.host_buffers import HostBuffers, whole_pages
from tgi_llamacpp.engine.prefix_tree import PrefixTree
from tgi_llamacpp.engine.runner import Int32s

# What Python and numpy take, at most, and with some to spare: a test compares it to what they do.
STATE_BYTES = 1024  # of a state besides its buffer: the objects, and the places where they are held
NODE_BYTES = 1024  # of a node of a tree, with its tables and one entry in each
ENTRY_BYTES = 160  # of a further entry of a holder in a node
TREE_BYTES = 2048  # of an empty tree, and its place
_ID_BYTES = 4


@dataclass(slots=True, eq=False)
class HostState:
    """The cells of ids [0, num_tokens), as the runner wrote them."""

    scope: int
    num_tokens: int
    num_prompt: int  # of them; the others are an answer
    buffer: mmap.mmap

    @property
    def num_bytes(self) -> int:
        """Of the buffer: whole pages."""
        return whole_pages(len(self.buffer))


def _nobody_has(scope: int, ids: Int32s) -> bool:
    return False


class HostCache:
    """States by age, and a tree of their ids for each scope. Holds max_bytes at most, all told."""

    def __init__(
        self,
        max_bytes: int,
        min_tokens: int,
        *,
        can_cut: bool,
        buffers: HostBuffers | None = None,
        is_resident: Callable[[int, Int32s], bool] = _nobody_has,
    ) -> None:
        """Without can_cut a state serves only those who begin with all of its ids.

        is_resident: whether a slot has cells of these ids, of a scope.
        """
        self.max_bytes = max_bytes
        self.min_tokens = min_tokens
        self._can_cut = can_cut
        self._trees: dict[int, PrefixTree[HostState]] = {}
        self._states: dict[HostState, None] = {}  # least recently used first
        self._lent: dict[HostState, int] = {}  # of these, what was loaded; and how many ids
        self._is_resident = is_resident
        self._buffers = buffers or HostBuffers()
        self._num_buffer_bytes = 0  # of states
        self.num_evictions = 0

    def __len__(self) -> int:
        return len(self._states)

    @property
    def num_bytes(self) -> int:
        """All that is held: states, and buffers for the next ones."""
        return self._num_state_bytes + self._buffers.num_bytes

    @property
    def _num_state_bytes(self) -> int:
        """Of states: buffers, ids and what keeps them in order."""
        trees = self._trees.values()
        return (
            self._num_buffer_bytes
            + STATE_BYTES * len(self._states)
            + TREE_BYTES * len(trees)
            + sum(NODE_BYTES * tree.num_nodes for tree in trees)
            + sum(ENTRY_BYTES * tree.num_entries for tree in trees)
            + sum(_ID_BYTES * tree.num_ids for tree in trees)
        )

    def find(self, scope: int, ids: Int32s) -> tuple[HostState, int] | None:
        """The state that has most of the first ids, and how many; of several the smallest."""
        tree = self._trees.get(scope)
        steps = tree.match(ids) if tree is not None else []
        for step in reversed(steps):
            if step.num_tokens < self.min_tokens:
                break
            able = [
                one for one in step.holders if self._can_cut or one.num_tokens <= step.num_tokens
            ]
            if able:
                state = min(able, key=lambda one: one.num_tokens)
                return state, min(state.num_tokens, step.num_tokens)
        return None

    def ids(self, state: HostState) -> Int32s:
        """Those that its cells stand for."""
        return self._trees[state.scope].ids(state)

    def covers(self, scope: int, ids: Int32s) -> bool:
        """Whether there is a state of all these ids, which is touched then."""
        tree = self._trees.get(scope)
        steps = tree.match(ids) if tree is not None else []
        if not steps or steps[-1].num_tokens < len(ids):
            return False
        for state in steps[-1].holders:
            if self._can_cut or state.num_tokens == len(ids):
                self.touch(state)
                return True
        return False

    def touch(self, state: HostState) -> None:
        """A state was of use."""
        del self._states[state]
        self._states[state] = None

    def lend(self, state: HostState, num_tokens: int) -> None:
        """A slot got the first num_tokens ids, if that is all but an answer that nobody goes on
        with: as long as it has them the state is the first to go.

        Not what serves only whole, since the slot will have more of it.
        """
        if self._can_cut and state.num_prompt <= num_tokens + 1:  # whose last is computed again
            self._lent[state] = num_tokens

    def make_room(
        self, num_state_bytes: int, num_tokens: int, pinned: HostState | None = None
    ) -> mmap.mmap | None:
        """A buffer for a state of so many bytes and ids, in place of the least recently used.

        What is lent goes before, and also rather than that a buffer takes new pages. None where it
        does not fit beside the pinned one, and then nothing has gone; and where the system has no
        memory to give.
        """
        num_new = _most_bytes(num_state_bytes, num_tokens)
        num_pinned = 0 if pinned is None else _most_bytes(len(pinned.buffer), pinned.num_tokens)
        if num_new + num_pinned > self.max_bytes:
            return None
        while (num_spare := self._num_spare_bytes(num_new)) < 0:
            self.discard(
                self._next_lent(pinned) or next(one for one in self._states if one is not pinned)
            )
            self.num_evictions += 1
        if not self._buffers.largest and (lent := self._next_lent(pinned)) is not None:
            self.discard(lent)
        buffer = self._buffers.take(num_state_bytes)
        self._buffers.shrink(num_spare)
        return buffer

    def has_ready(
        self, num_state_bytes: int, num_tokens: int, pinned: HostState | None = None
    ) -> bool:
        """Whether make_room has a buffer most of whose pages are there."""
        if self._num_spare_bytes(_most_bytes(num_state_bytes, num_tokens)) < 0:
            return True  # those of what goes
        num_bytes = self._buffers.largest
        if not num_bytes and (lent := self._next_lent(pinned)) is not None:
            num_bytes = len(lent.buffer)
        return 2 * num_bytes >= num_state_bytes

    def _next_lent(self, pinned: HostState | None) -> HostState | None:
        """The one that was lent first; who lost the cells since then is lent no more."""
        for state, num_tokens in list(self._lent.items()):
            if not self._is_resident(state.scope, self.ids(state)[:num_tokens]):
                del self._lent[state]
            elif state is not pinned:
                return state
        return None

    def _num_spare_bytes(self, num_new: int) -> int:
        """What is left of the bound beside all states and a new one of so many bytes.

        That may get an entry in a node of every other, and split a node that has all of them.
        """
        return self.max_bytes - (
            self._num_state_bytes + num_new + 2 * ENTRY_BYTES * len(self._states)
        )

    def ready_one(self) -> bool:
        """Have one more buffer for later, its pages in place; False where there are enough."""
        return self._buffers.ready_one(self._num_spare_bytes(0))

    def add(self, scope: int, ids: Int32s, buffer: mmap.mmap, num_prompt: int) -> None:
        """Keep a state, in a buffer from make_room, and drop those that it makes needless.

        num_prompt: how many of the ids are a prompt; the others are the answer to it.
        """
        state = HostState(scope, len(ids), min(num_prompt, len(ids)), buffer)
        tree = self._trees.get(scope)
        if tree is None:
            tree = self._trees[scope] = PrefixTree()
        tree.insert(state, ids)
        self._states[state] = None
        self._num_buffer_bytes += state.num_bytes
        if self._can_cut:
            for other in tree.subsets(state):
                self.discard(other)

    def discard(self, state: HostState) -> None:
        """Drop a state; its buffer is for the next."""
        self._lent.pop(state, None)
        del self._states[state]
        tree = self._trees[state.scope]
        tree.remove(state)
        if not len(tree):
            del self._trees[state.scope]
        self._num_buffer_bytes -= state.num_bytes
        self._buffers.give(state.buffer)

    def check_integrity(self) -> None:
        """Raises AssertionError where states, trees and bytes disagree: a bug of ours."""
        assert self.num_bytes <= self.max_bytes, "the host cache is over its bound"
        assert self._num_buffer_bytes == sum(one.num_bytes for one in self._states)
        assert sum(map(len, self._trees.values())) == len(self._states), "the trees know others"
        assert self._lent.keys() <= self._states.keys(), "a state is lent that is not there"
        for state in self._states:
            assert state in self._trees[state.scope], "a tree lacks a state"
            assert len(self.ids(state)) == state.num_tokens
            assert not state.buffer.closed
        for tree in self._trees.values():
            tree.check_integrity()
        self._buffers.check_integrity()


def _most_bytes(num_state_bytes: int, num_tokens: int) -> int:
    """What a state may come to, with a tree of its own or beside one other."""
    overhead = STATE_BYTES + TREE_BYTES + 2 * NODE_BYTES + 4 * ENTRY_BYTES
    return whole_pages(num_state_bytes) + overhead + _ID_BYTES * num_tokens
