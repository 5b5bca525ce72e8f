"""What every Runner must do with saved states, as tests: inherit it beside RunnerContract."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.runner_contract import (
    GREEDY,
    NOTHING,
    OTHER,
    PROMPT,
    generate,
    ids_of,
    plan_of,
    rows_of,
    start,
)
from tgi_llamacpp.engine.runner import Runner
from tgi_llamacpp.errors import RunnerError


def saved(runner: Runner, slot: int) -> bytearray:
    buffer = bytearray(runner.state_bytes(slot))
    runner.save(slot, buffer)
    return buffer


def is_late(runner: Runner) -> bool:
    """Whether copies are done by the next step."""
    return not runner.limits.is_unified or not runner.limits.can_trim


class StateContract:
    def same(self, left: list[Any], right: list[Any]) -> bool:
        return left == right

    def test_a_saved_sequence_goes_on_in_another_slot(self, runner: Runner) -> None:
        first = start(runner, 0, PROMPT)
        state = saved(runner, 0)
        expected = generate(runner, 0, first, 5)
        runner.drop(0)
        start(runner, 1, OTHER)  # so that cells lie elsewhere in a pool
        assert runner.load(2, state, len(PROMPT))
        assert runner.num_cells(2) == len(PROMPT)
        runner.open(2, GREEDY, PROMPT, ids_of(first))
        assert self.same(generate(runner, 2, first, 5), expected)

    def test_a_state_serves_several_slots(self, runner: Runner) -> None:
        first = start(runner, 0, PROMPT)
        state = saved(runner, 0)
        texts = []
        for slot in (1, 3):
            assert runner.load(slot, state, len(PROMPT))
            runner.open(slot, GREEDY, PROMPT, ids_of(first))
            texts.append(generate(runner, slot, first, 4))
        assert self.same(texts[0], texts[1])
        assert self.same(generate(runner, 0, first, 4), texts[0])

    def test_a_loaded_state_is_cut_or_stays_whole(self, runner: Runner) -> None:
        expected = [start(runner, 0, PROMPT)]
        expected += generate(runner, 0, expected[0], 3)
        runner.drop(0)
        longer = ids_of(*PROMPT.tolist()[:4], 99, 98)
        start(runner, 0, longer)
        state = saved(runner, 0)
        runner.drop(0)
        assert runner.load(1, state, len(longer))
        if not runner.limits.can_trim:
            assert not runner.trim(1, 4)
            assert runner.num_cells(1) == len(longer)
            return
        if not runner.trim(1, 4):
            assert not runner.limits.can_cut_states
            return
        runner.open(1, GREEDY, PROMPT, NOTHING)
        result = runner.step(plan_of(rows_of(1, 4, PROMPT.tolist()[4:])))
        ids = [int(result.token_ids[0])]
        assert self.same([*ids, *generate(runner, 1, ids[0], 3)], expected)

    def test_a_dummy_row_behind_a_loaded_state_is_taken_back(self, runner: Runner) -> None:
        if not runner.limits.can_trim or runner.limits.is_unified:
            pytest.skip("what cannot be trimmed gets no dummy row, nor does a pool")
        first = start(runner, 0, PROMPT)
        state = saved(runner, 0)
        expected = generate(runner, 0, first, 4)
        runner.drop(0)
        assert runner.load(0, state, len(PROMPT))
        runner.step(plan_of([(0, len(PROMPT), 0, 0)]))
        assert runner.trim(0, len(PROMPT))
        runner.open(0, GREEDY, PROMPT, ids_of(first))
        assert self.same(generate(runner, 0, first, 4), expected)

    def test_what_a_copy_will_bring_is_saved_after_the_next_step(self, runner: Runner) -> None:
        start(runner, 0, PROMPT)
        assert runner.copy(0, 1, len(PROMPT))
        assert (runner.state_bytes(1) == 0) is is_late(runner)
        start(runner, 2, OTHER)
        assert runner.state_bytes(1) > 0
        assert len(saved(runner, 1)) == len(saved(runner, 0))

    def test_a_slot_that_a_copy_still_reads_is_loaded_after_the_next_step(
        self, runner: Runner
    ) -> None:
        first = start(runner, 0, PROMPT)
        expected = generate(runner, 0, first, 3)
        runner.drop(0)
        start(runner, 2, OTHER)
        state = saved(runner, 2)
        runner.drop(2)
        assert start(runner, 0, PROMPT) == first
        assert runner.copy(0, 1, len(PROMPT))
        runner.drop(0)
        assert runner.load(0, state, len(OTHER)) is not is_late(runner)
        runner.open(1, GREEDY, PROMPT, ids_of(first))
        assert self.same(generate(runner, 1, first, 3), expected)
        if is_late(runner):
            assert runner.num_cells(0) == 0
            assert runner.load(0, state, len(OTHER))

    def test_misuse_is_refused_and_changes_nothing(self, runner: Runner) -> None:
        first = start(runner, 0, PROMPT)
        state = saved(runner, 0)
        with pytest.raises(RunnerError):
            runner.load(0, state, len(PROMPT))
        with pytest.raises(RunnerError):
            runner.load(1, bytearray(), len(PROMPT))
        with pytest.raises(RunnerError):
            runner.save(0, bytearray(len(state) - 1))
        with pytest.raises(RunnerError):
            runner.save(3, bytearray(8))
        with pytest.raises(RunnerError):
            runner.load(99, state, len(PROMPT))
        assert runner.state_bytes(3) == 0
        assert [runner.num_cells(slot) for slot in range(4)] == [len(PROMPT), 0, 0, 0]
        assert 0 <= generate(runner, 0, first, 1)[0] < runner.limits.num_vocab

    def test_what_does_not_fit_a_pool_is_not_loaded(self, runner: Runner) -> None:
        if not runner.limits.is_unified or not runner.limits.can_trim:
            pytest.skip("every slot has cells of its own")
        ids = ids_of(*(i % 50 for i in range(16)))
        start(runner, 0, ids)
        state = saved(runner, 0)
        slot = 1
        num_pool = runner.limits.max_pool_tokens
        while (slot + 1) * len(ids) <= num_pool and slot < runner.limits.num_slots:
            assert runner.load(slot, state, len(ids))
            slot += 1
        if slot < runner.limits.num_slots:
            assert not runner.load(slot, state, len(ids))
            assert runner.num_cells(slot) == 0
