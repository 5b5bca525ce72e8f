"""The radix tree against the plain definition: every holder's ids in a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.engine.runner_contract import ids_of
from tgi_llamacpp.engine.prefix_tree import PrefixTree

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=10)  # few, so that prefixes are common


def num_common(left: list[int], right: list[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


class TreeMachine(RuleBasedStateMachine):
    """Inserts, extends and removes at random; `held` is what the tree should know."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: PrefixTree[int] = PrefixTree()
        self.held: dict[int, list[int]] = {}
        self.num_inserted = 0

    @rule(ids=IDS)
    def insert(self, ids: list[int]) -> None:
        self.num_inserted += 1
        self.tree.insert(self.num_inserted, ids_of(*ids))
        self.held[self.num_inserted] = ids

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ids=IDS)
    def extend(self, data: st.DataObject, ids: list[int]) -> None:
        holder = data.draw(st.sampled_from(sorted(self.held)))
        self.tree.extend(holder, ids_of(*ids))
        self.held[holder] = self.held[holder] + ids

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.held)))
        self.tree.remove(holder)
        del self.held[holder]

    @rule(ids=IDS)
    def match(self, ids: list[int]) -> None:
        shared = {holder: num_common(own, ids) for holder, own in self.held.items()}
        steps = self.tree.match(ids_of(*ids))
        assert [step.num_tokens for step in steps] == sorted({step.num_tokens for step in steps})
        assert max(shared.values(), default=0) == (steps[-1].num_tokens if steps else 0)
        for step in steps:
            assert set(step.holders) == {
                holder for holder, num in shared.items() if num >= step.num_tokens
            }

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def compare(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.held)))
        own, others = self.held[holder], self.held.keys() - {holder}
        assert set(self.tree.supersets(holder)) == {
            one for one in others if self.held[one][: len(own)] == own
        }
        assert set(self.tree.subsets(holder)) == {
            one for one in others if own[: len(self.held[one])] == self.held[one]
        }

    @invariant()
    def is_whole(self) -> None:
        self.tree.check_integrity()
        assert len(self.tree) == len(self.held)
        assert all(holder in self.tree for holder in self.held)


TreeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestTree = TreeMachine.TestCase


def test_an_empty_tree_knows_nobody() -> None:
    tree: PrefixTree[str] = PrefixTree()
    assert tree.match(ids_of(1, 2, 3)) == []
    assert tree.match(ids_of()) == []


@given(ids=IDS)
def test_who_was_removed_leaves_nothing_behind(ids: list[int]) -> None:
    tree: PrefixTree[str] = PrefixTree()
    tree.insert("a", ids_of(*ids))
    tree.remove("a")
    assert tree.match(ids_of(*ids)) == []


def test_ids_of_a_caller_are_compared_by_value_and_not_by_type() -> None:
    tree: PrefixTree[str] = PrefixTree()
    tree.insert("a", np.array([7, 8, 9], np.int32))
    (step,) = tree.match(np.array([7, 8, 1], np.int64))
    assert (step.num_tokens, list(step.holders)) == (2, ["a"])
