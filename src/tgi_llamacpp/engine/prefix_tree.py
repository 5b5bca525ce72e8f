"""A radix tree over token ids: who holds the longest prefix of these ids.

Each holder stands for the ids that it was inserted with. A node is a run of ids that the same
holders share, so a look-up compares runs and not single ids. Knows no slot, no cell and no policy;
called by prefix_cache.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, KeysView
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from tgi_llamacpp.engine.runner import Int32s

T = TypeVar("T", bound=Hashable)


class _Node(Generic[T]):
    """Ids that follow those of `parent`; its holders have all of them."""

    __slots__ = ("children", "holders", "ids", "parent")

    def __init__(self, ids: Int32s, parent: _Node[T] | None, holders: dict[T, None]) -> None:
        self.ids = ids
        self.parent = parent
        self.holders = holders
        self.children: dict[int, _Node[T]] = {}  # by their first id


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One node of a look-up: these holders share the first `num_tokens` ids with what was asked."""

    num_tokens: int
    holders: KeysView[T]


class PrefixTree(Generic[T]):
    """Holders, and the ids of each. Counts what it consists of, for those who bound its memory."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node(np.empty(0, np.int32), None, {})
        self._ends: dict[T, _Node[T]] = {}
        self.num_nodes = 0
        self.num_ids = 0  # of all nodes
        self.num_entries = 0  # of holders in nodes

    def __contains__(self, holder: T) -> bool:
        return holder in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def insert(self, holder: T, ids: Int32s) -> None:
        """Add a holder of at least one id."""
        assert holder not in self._ends
        assert len(ids)
        self._lead(holder, self._root, ids)

    def extend(self, holder: T, ids: Int32s) -> None:
        """The holder has these ids too, after those it had."""
        end = self._ends[holder]
        if len(end.holders) == 1:  # so there are no children either
            end.ids = np.concatenate([end.ids, ids])
            self.num_ids += len(ids)
        else:
            self._lead(holder, end, ids)
            self._join(end)

    def remove(self, holder: T) -> None:
        """Forget a holder."""
        node = self._ends.pop(holder)
        remaining = None  # the deepest node that others pass: where this holder's way parted
        while (parent := node.parent) is not None:
            del node.holders[holder]
            self.num_entries -= 1
            if not node.holders:
                del parent.children[int(node.ids[0])]
                self.num_nodes -= 1
                self.num_ids -= len(node.ids)
            elif remaining is None:
                remaining = node
            node = parent
        if remaining is not None:
            self._join(remaining)

    def match(self, ids: Int32s) -> list[Step[T]]:
        """The way of these ids through the tree, shortest prefix first; empty where nobody has it.

        The holders of a step are among those of the step before.
        """
        steps: list[Step[T]] = []
        node, at = self._root, 0
        while at < len(ids):
            child = node.children.get(int(ids[at]))
            if child is None:
                break
            num_common = _num_common(child.ids, ids[at:])
            at += num_common
            steps.append(Step(at, child.holders.keys()))
            if num_common < len(child.ids):
                break
            node = child
        return steps

    def ids(self, holder: T) -> Int32s:
        """All ids of a holder."""
        parts: list[Int32s] = []
        node: _Node[T] | None = self._ends[holder]
        while node is not None:
            parts.append(node.ids)
            node = node.parent
        return np.concatenate(parts[::-1])

    def supersets(self, holder: T) -> Iterator[T]:
        """Other holders that have all ids of this one."""
        return (other for other in self._ends[holder].holders if other is not holder)

    def subsets(self, holder: T) -> list[T]:
        """Other holders of which this one has all ids."""
        found: list[T] = []
        node: _Node[T] | None = self._ends[holder]
        while node is not None:
            found += (one for one in node.holders if one is not holder and self._ends[one] is node)
            node = node.parent
        return found

    def _lead(self, holder: T, node: _Node[T], ids: Int32s) -> None:
        """Take the holder from a node along these ids, making what is missing."""
        while len(ids):
            child = node.children.get(int(ids[0]))
            if child is None:
                child = _Node(ids.copy(), node, {})
                node.children[int(ids[0])] = child
                self.num_nodes += 1
                self.num_ids += len(ids)
            num_common = _num_common(child.ids, ids)
            if num_common < len(child.ids):
                child = self._split(child, num_common)
            child.holders[holder] = None
            self.num_entries += 1
            node, ids = child, ids[num_common:]
        self._ends[holder] = node

    def _join(self, node: _Node[T]) -> None:
        """Make a node and its only child one, where the same holders have both."""
        if len(node.children) != 1 or node.parent is None:
            return
        (child,) = node.children.values()
        if len(child.holders) == len(node.holders):
            child.ids = np.concatenate([node.ids, child.ids])
            child.parent = node.parent
            node.parent.children[int(node.ids[0])] = child
            self.num_nodes -= 1
            self.num_entries -= len(node.holders)

    def _split(self, node: _Node[T], num_ids: int) -> _Node[T]:
        """Cut a node in two, and return the upper one. Each has ids of its own, and not a view."""
        assert node.parent is not None
        upper = _Node(node.ids[:num_ids].copy(), node.parent, dict(node.holders))
        node.parent.children[int(node.ids[0])] = upper
        node.ids, node.parent = node.ids[num_ids:].copy(), upper
        upper.children[int(node.ids[0])] = node
        self.num_nodes += 1
        self.num_entries += len(node.holders)
        return upper

    def check_integrity(self) -> None:
        """Raises AssertionError where nodes and holders disagree: a bug of ours."""
        ended: set[T] = set()
        pending = list(self._root.children.values())
        num_nodes = num_ids = num_entries = 0
        while pending:
            node = pending.pop()
            num_nodes += 1
            num_ids += len(node.ids)
            num_entries += len(node.holders)
            below = [other for child in node.children.values() for other in child.holders]
            assert len(node.ids), "a node without ids"
            assert node.holders, "a node without holders"
            assert len(below) == len(set(below)), "a holder goes two ways"
            assert set(below) <= node.holders.keys(), "a holder is not in its parent"
            here = node.holders.keys() - set(below)
            assert here or len(node.children) > 1, "two nodes that should be one"
            assert all(self._ends[one] is node for one in here), "a holder ends elsewhere"
            ended |= here
            for first_id, child in node.children.items():
                assert child.parent is node
                assert first_id == child.ids[0]
            pending += node.children.values()
        assert ended == self._ends.keys(), "a holder is lost"
        counted = (self.num_nodes, self.num_ids, self.num_entries)
        assert counted == (num_nodes, num_ids, num_entries), "what a tree consists of is off"


def _num_common(left: Int32s, right: Int32s) -> int:
    """How many ids both begin with."""
    num_both = min(len(left), len(right))
    differs = left[:num_both] != right[:num_both]
    first = int(differs.argmax()) if num_both else 0
    return first if num_both and differs[first] else num_both
