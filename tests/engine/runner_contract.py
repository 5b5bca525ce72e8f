"""What every Runner must do, as tests: a class to inherit, with a fixture `runner` of one's own.

The fixture gives an empty Runner with at least 4 slots of 64 tokens, 16 rows a step and 256 ids.
Greedy ids are compared, so the runner must give equal logits whatever shares a step; where a model
does not, its tests override `same`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tgi_llamacpp.engine.runner import (
    NO_TARGET,
    UNREAD,
    Float32s,
    Int32s,
    Plan,
    Runner,
    StepResult,
    StepStatus,
)
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import SamplingParams

Row = tuple[int, int, int, int]  # slot, position, token id, sampled

GREEDY = SamplingParams()
NOTHING = np.empty(0, np.int32)


def plan_of(rows: Iterable[Row]) -> Plan:
    columns = np.array(list(rows), np.int32).reshape(-1, 4).T.copy()
    return Plan(columns[0], columns[1], columns[2], columns[3].astype(np.int8))


def ids_of(*ids: int) -> Int32s:
    return np.array(ids, np.int32)


def rows_of(slot: int, start: int, ids: Iterable[int], *, sample: bool = True) -> list[Row]:
    """Consecutive rows of one slot, of which the last is sampled."""
    rows = [(slot, start + i, token_id, 0) for i, token_id in enumerate(ids)]
    if sample:
        rows[-1] = (*rows[-1][:3], 1)
    return rows


def scored_plan_of(rows: Iterable[Row], targets: Iterable[int]) -> Plan:
    return replace(plan_of(rows), targets=np.array(list(targets), np.int32))


def score(runner: Runner, slot: int, ids: Int32s, chunk: int) -> tuple[Float32s, Int32s]:
    """Log-probabilities and best alternatives of ids[1:], in an open slot, chunk by chunk."""
    logprobs: list[Float32s] = []
    best: list[Int32s] = []
    for first in range(0, len(ids) - 1, chunk):
        rows = ids[first : min(first + chunk, len(ids) - 1)]
        plan = scored_plan_of(
            rows_of(slot, first, rows.tolist(), sample=False), ids[first + 1 :][: len(rows)]
        )
        scores = runner.step(plan).scores
        assert scores is not None
        assert len(scores.logprobs) == len(rows)
        logprobs.append(scores.logprobs.copy())
        best.append(scores.top_ids[:, :1].copy())
    return np.concatenate(logprobs), np.concatenate(best)


def start(runner: Runner, slot: int, ids: Int32s, params: SamplingParams = GREEDY) -> int:
    """Open a slot, run the prompt in one step, and return the first id."""
    runner.open(slot, params, ids, NOTHING)
    result = runner.step(plan_of(rows_of(slot, 0, ids.tolist())))
    assert result.status is StepStatus.OK
    return int(result.token_ids[0])


def generate(runner: Runner, slot: int, last_id: int, num_tokens: int) -> list[int]:
    """Decode on in a slot whose last id is not in its cells yet."""
    ids = []
    for _ in range(num_tokens):
        result = runner.step(plan_of([(slot, runner.num_cells(slot), last_id, 1)]))
        last_id = int(result.token_ids[0])
        ids.append(last_id)
    return ids


PROMPT = ids_of(5, 9, 3, 7, 11, 2)
OTHER = ids_of(8, 8, 1, 4)


class RunnerContract:
    """Inherit it as `class TestX(RunnerContract)` beside a fixture `runner`."""

    def same(self, left: list[Any], right: list[Any]) -> bool:
        return left == right

    def alone(self, runner: Runner, prompt: Int32s, num_tokens: int) -> list[int]:
        first = start(runner, 0, prompt)
        ids = [first, *generate(runner, 0, first, num_tokens - 1)]
        runner.drop(0)
        return ids

    # What a step gives

    def test_a_sampled_row_gives_one_token_of_the_vocabulary(self, runner: Runner) -> None:
        runner.open(0, GREEDY, PROMPT, NOTHING)
        result = runner.step(plan_of(rows_of(0, 0, PROMPT.tolist())))
        assert result.slots.tolist() == [0]
        assert 0 <= result.token_ids[0] < runner.limits.num_vocab
        assert result.logprobs[0] <= 0
        assert result.token_ids.dtype == np.int32
        assert result.logprobs.dtype == np.float32

    def test_rows_that_are_not_sampled_fill_cells_and_give_nothing(self, runner: Runner) -> None:
        runner.open(0, GREEDY, PROMPT, NOTHING)
        result = runner.step(plan_of(rows_of(0, 0, PROMPT.tolist(), sample=False)))
        assert result.status is StepStatus.OK
        assert len(result.slots) == len(result.token_ids) == len(result.logprobs) == 0
        assert runner.num_cells(0) == len(PROMPT)

    def test_results_come_in_the_order_of_the_plan(self, runner: Runner) -> None:
        for slot in (0, 1, 2):
            runner.open(slot, GREEDY, PROMPT, NOTHING)
        rows = [row for slot in (0, 1, 2) for row in rows_of(slot, 0, PROMPT.tolist()[:3])]
        assert runner.step(plan_of(rows)).slots.tolist() == [0, 1, 2]

    def test_a_prompt_in_pieces_gives_what_it_gives_in_one(self, runner: Runner) -> None:
        expected = self.alone(runner, PROMPT, 4)
        runner.open(0, GREEDY, PROMPT, NOTHING)
        runner.step(plan_of(rows_of(0, 0, PROMPT.tolist()[:2], sample=False)))
        runner.step(plan_of(rows_of(0, 2, PROMPT.tolist()[2:5], sample=False)))
        ids = generate(runner, 0, int(PROMPT[5]), 4)
        assert self.same(ids, expected)

    def test_sequences_that_share_steps_get_what_they_get_alone(self, runner: Runner) -> None:
        expected = [self.alone(runner, PROMPT, 5), self.alone(runner, OTHER, 5)]
        last = [start(runner, 0, PROMPT), start(runner, 1, OTHER)]
        ids = [[last[0]], [last[1]]]
        for _ in range(4):
            rows = [(slot, runner.num_cells(slot), last[slot], 1) for slot in (0, 1)]
            last = runner.step(plan_of(rows)).token_ids.tolist()
            ids[0].append(last[0])
            ids[1].append(last[1])
        assert self.same(ids[0], expected[0])
        assert self.same(ids[1], expected[1])

    def test_a_resumed_sequence_gets_what_it_would_have_got(self, runner: Runner) -> None:
        params = SamplingParams(temperature=1.0, seed=42, repetition_penalty=1.2)
        first = start(runner, 0, PROMPT, params)
        expected = [first, *generate(runner, 0, first, 5)]
        runner.drop(0)
        runner.open(1, params, PROMPT, ids_of(*expected[:3]))
        runner.step(plan_of(rows_of(1, 0, [*PROMPT.tolist(), *expected[:2]], sample=False)))
        assert self.same(generate(runner, 1, expected[2], 3), expected[3:])

    def test_alternatives_come_best_first(self, runner: Runner) -> None:
        runner.open(0, SamplingParams(num_top_tokens=3), PROMPT, NOTHING)
        result: StepResult = runner.step(plan_of(rows_of(0, 0, PROMPT.tolist())))
        logprobs = result.top_logprobs[0, :3].tolist()
        assert result.top_ids[0, 0] == result.token_ids[0]  # greedy
        assert logprobs == sorted(logprobs, reverse=True)
        assert logprobs[0] == pytest.approx(float(result.logprobs[0]))

    # What is scored

    def test_chunks_of_a_prompt_score_what_it_scores_in_one(self, runner: Runner) -> None:
        params = SamplingParams(num_top_tokens=1)
        runner.open(0, params, PROMPT, NOTHING)
        expected, expected_best = score(runner, 0, PROMPT, len(PROMPT))
        assert expected.dtype == np.float32
        assert np.all(expected <= 0)
        for slot, chunk in ((1, 1), (2, 2), (3, 4)):
            runner.open(slot, params, PROMPT, NOTHING)
            logprobs, best = score(runner, slot, PROMPT, chunk)
            assert self.same(logprobs.tolist(), expected.tolist())
            assert self.same(best.tolist(), expected_best.tolist())

    def test_a_generated_text_scores_what_generation_reported(self, runner: Runner) -> None:
        runner.open(0, GREEDY, PROMPT, NOTHING)
        ids, reported = PROMPT.tolist(), []
        rows = rows_of(0, 0, ids)
        for _ in range(20):
            result = runner.step(plan_of(rows))
            ids.append(int(result.token_ids[0]))
            reported.append(float(result.logprobs[0]))
            rows = [(0, len(ids) - 1, ids[-1], 1)]
        runner.open(1, GREEDY, ids_of(*ids), NOTHING)
        logprobs, _ = score(runner, 1, ids_of(*ids), 7)
        assert self.same(logprobs[len(PROMPT) - 1 :].tolist(), reported)

    def test_a_scored_prompt_goes_on_as_one_that_is_not(self, runner: Runner) -> None:
        expected = self.alone(runner, PROMPT, 4)
        runner.open(0, GREEDY, PROMPT, NOTHING)
        score(runner, 0, PROMPT, 3)
        assert self.same(generate(runner, 0, int(PROMPT[-1]), 4), expected)

    def test_rows_are_scored_beside_others_that_are_sampled(self, runner: Runner) -> None:
        expected = self.alone(runner, OTHER, 2)
        runner.open(2, GREEDY, PROMPT, NOTHING)
        alone, _ = score(runner, 2, PROMPT, len(PROMPT))
        runner.drop(2)
        runner.open(2, GREEDY, PROMPT, NOTHING)
        first = start(runner, 1, OTHER)
        rows = [(1, 4, first, 1), *rows_of(2, 0, PROMPT.tolist()[:5], sample=False)]
        result = runner.step(scored_plan_of(rows, [NO_TARGET, *PROMPT[1:].tolist()]))
        assert self.same([first, *result.token_ids.tolist()], expected)
        assert result.slots.tolist() == [1]
        assert result.scores is not None
        assert self.same(result.scores.logprobs.tolist(), alone.tolist())

    def test_slots_may_come_in_any_order(self, runner: Runner) -> None:
        prompts = [OTHER, PROMPT, OTHER[::-1].copy()]
        expected = [self.alone(runner, ids, 2) for ids in prompts]
        runner.open(3, GREEDY, PROMPT, NOTHING)
        scores, _ = score(runner, 3, PROMPT, len(PROMPT))
        runner.drop(3)
        first = start(runner, 0, OTHER)
        for slot, ids in ((1, prompts[1]), (2, prompts[2]), (3, PROMPT)):
            runner.open(slot, GREEDY, ids, NOTHING)
        rows = [
            *rows_of(3, 0, PROMPT.tolist()[:5], sample=False),
            *rows_of(1, 0, prompts[1].tolist()),
            (0, 4, first, 1),
            *rows_of(2, 0, prompts[2].tolist()),
        ]
        targets = [*PROMPT[1:].tolist(), *[NO_TARGET] * (len(rows) - 5)]
        result = runner.step(scored_plan_of(rows, targets))
        assert result.slots.tolist() == [1, 0, 2]
        second = [expected[1][0], expected[0][1], expected[2][0]]
        assert self.same(result.token_ids.tolist(), second)
        assert result.scores is not None
        assert self.same(result.scores.logprobs.tolist(), scores.tolist())
        assert self.same(generate(runner, 2, expected[2][0], 1), expected[2][1:])

    def test_without_targets_there_are_no_scores(self, runner: Runner) -> None:
        runner.open(0, GREEDY, PROMPT, NOTHING)
        assert runner.step(plan_of(rows_of(0, 0, PROMPT.tolist()))).scores is None

    @pytest.mark.parametrize(
        ("rows", "targets"),
        [
            pytest.param([(0, 6, 1, 0)], [-2], id="negative target"),
            pytest.param([(0, 6, 1, 0)], [1 << 30], id="target outside the vocabulary"),
            pytest.param([(0, 6, 1, 1)], [5], id="sampled and scored"),
            pytest.param([(1, 0, 1, 0)], [5], id="scored without open"),
            pytest.param([(0, 6, 1, 0)], [5, 5], id="more targets than rows"),
            pytest.param([(0, 6, 1, 0)], [], id="no targets"),
        ],
    )
    def test_a_malformed_score_is_refused_and_changes_nothing(
        self, runner: Runner, rows: list[Row], targets: list[int]
    ) -> None:
        first = start(runner, 0, PROMPT)
        with pytest.raises(RunnerError):
            runner.step(scored_plan_of(rows, targets))
        assert [runner.num_cells(slot) for slot in range(2)] == [len(PROMPT), 0]
        assert 0 <= generate(runner, 0, first, 1)[0] < runner.limits.num_vocab

    # What slots hold

    def test_a_dummy_row_in_an_empty_slot_disturbs_nobody(self, runner: Runner) -> None:
        expected = self.alone(runner, PROMPT, 3)
        first = start(runner, 0, PROMPT)
        other = start(runner, 2, PROMPT)
        rows = [(0, 6, first, 1), (1, 0, 0, 0), (2, 6, other, 1)]
        result = runner.step(plan_of(rows))
        second = result.token_ids.tolist()
        runner.drop(1)
        assert runner.num_cells(1) == 0
        assert self.same([first, second[0], *generate(runner, 0, second[0], 1)], expected)
        assert self.same([other, second[1]], expected[:2])

    def test_a_dropped_slot_is_as_new(self, runner: Runner) -> None:
        expected = self.alone(runner, PROMPT, 4)
        start(runner, 0, OTHER)
        runner.drop(0)
        assert runner.num_cells(0) == 0
        assert self.same(self.alone(runner, PROMPT, 4), expected)

    def test_dropping_an_empty_slot_is_no_error(self, runner: Runner) -> None:
        runner.drop(3)
        assert runner.num_cells(3) == 0

    def test_a_moved_sequence_goes_on_where_it_was(self, runner: Runner) -> None:
        params = SamplingParams(temperature=1.0, seed=7, frequency_penalty=0.5)
        first = start(runner, 0, PROMPT, params)
        expected = generate(runner, 0, first, 4)
        runner.drop(0)
        assert start(runner, 3, PROMPT, params) == first
        runner.move(3, 1)
        assert runner.num_cells(3) == 0
        assert runner.num_cells(1) == len(PROMPT)
        assert self.same(generate(runner, 1, first, 4), expected)

    def test_the_slot_that_was_moved_from_can_be_opened(self, runner: Runner) -> None:
        start(runner, 2, PROMPT)
        runner.move(2, 0)
        start(runner, 2, OTHER)
        assert runner.num_cells(2) == len(OTHER)

    def test_trimming_forgets_the_tail_or_says_that_it_cannot(self, runner: Runner) -> None:
        first = start(runner, 0, PROMPT)
        generate(runner, 0, first, 1)
        assert runner.trim(0, len(PROMPT)) is runner.limits.can_trim
        assert runner.num_cells(0) == len(PROMPT) + (not runner.limits.can_trim)
        assert 0 <= generate(runner, 0, first, 1)[0] < runner.limits.num_vocab

    # Cells that serve another sequence

    def test_a_copied_prefix_goes_on_as_if_it_had_been_computed(self, runner: Runner) -> None:
        expected = self.alone(runner, PROMPT, 4)
        start(runner, 0, ids_of(*PROMPT.tolist()[:4], 99, 98))
        num_shared = 4 if runner.limits.can_trim else 6
        assert runner.copy(0, 2, num_shared)
        assert [runner.num_cells(0), runner.num_cells(2)] == [6, num_shared]
        if not runner.limits.can_trim:
            return
        runner.open(2, GREEDY, PROMPT, NOTHING)
        result = runner.step(plan_of(rows_of(2, 4, PROMPT.tolist()[4:])))
        first = int(result.token_ids[0])
        assert self.same([first, *generate(runner, 2, first, 3)], expected)

    def test_whole_cells_can_be_copied_and_both_go_their_own_way(self, runner: Runner) -> None:
        long = ids_of(*PROMPT.tolist(), *OTHER.tolist())
        expected = [self.alone(runner, PROMPT, 5), self.alone(runner, long, 3)]
        first = start(runner, 0, PROMPT)
        assert runner.copy(0, 1, len(PROMPT))
        runner.open(1, GREEDY, long, NOTHING)
        rows = [(0, 6, first, 1), *rows_of(1, 6, OTHER.tolist())]
        second, other = runner.step(plan_of(rows)).token_ids.tolist()
        ids = [[first, second], [other]]
        for _ in range(2):
            rows = [(slot, runner.num_cells(slot), ids[slot][-1], 1) for slot in (0, 1)]
            for slot, token_id in enumerate(runner.step(plan_of(rows)).token_ids.tolist()):
                ids[slot].append(token_id)
        assert self.same(ids[0], expected[0][:4])
        assert self.same(ids[1], expected[1])

    def test_a_copy_outlives_its_source(self, runner: Runner) -> None:
        expected = self.alone(runner, PROMPT, 4)
        first = start(runner, 0, PROMPT)
        assert runner.copy(0, 3, len(PROMPT))
        runner.drop(0)
        start(runner, 0, OTHER)
        runner.open(3, GREEDY, PROMPT, ids_of(first))
        assert self.same([first, *generate(runner, 3, first, 3)], expected)

    def test_a_chain_of_copies_before_one_step_is_as_good_as_one(self, runner: Runner) -> None:
        expected = self.alone(runner, PROMPT, 4)
        first = start(runner, 0, PROMPT)
        start(runner, 1, OTHER)
        runner.move(0, 2)
        runner.move(1, 0)
        assert runner.copy(2, 1, len(PROMPT))
        runner.drop(2)
        runner.open(1, GREEDY, PROMPT, ids_of(first))
        assert self.same([first, *generate(runner, 1, first, 3)], expected)

    def test_a_part_is_copied_or_refused_and_leaves_nothing_behind(self, runner: Runner) -> None:
        start(runner, 0, PROMPT)
        is_done = runner.copy(0, 1, 3)
        assert is_done is runner.limits.can_trim
        assert runner.num_cells(1) == (3 if is_done else 0)
        assert runner.num_cells(0) == len(PROMPT)

    def test_a_parked_slot_keeps_its_cells_and_can_be_opened_again(self, runner: Runner) -> None:
        first = start(runner, 0, PROMPT)
        expected = generate(runner, 0, first, 3)
        runner.drop(0)
        start(runner, 0, PROMPT)
        runner.park(0)
        assert runner.num_cells(0) == len(PROMPT)
        runner.open(0, GREEDY, PROMPT, ids_of(first))
        assert self.same(generate(runner, 0, first, 3), expected)

    def test_a_dummy_row_after_parked_cells_is_taken_back(self, runner: Runner) -> None:
        if not runner.limits.can_trim:
            pytest.skip("what cannot be trimmed gets no dummy row")
        first = start(runner, 1, PROMPT)
        expected = generate(runner, 1, first, 2)
        runner.drop(1)
        start(runner, 1, PROMPT)
        runner.park(1)
        beside = start(runner, 0, OTHER)
        runner.step(plan_of([(0, 4, beside, 1), (1, 6, 0, 0)]))
        assert runner.trim(1, len(PROMPT))
        runner.open(1, GREEDY, PROMPT, ids_of(first))
        assert self.same(generate(runner, 1, first, 2), expected)

    def test_a_dummy_row_whose_logits_nobody_reads_changes_nobody(self, runner: Runner) -> None:
        first = start(runner, 0, PROMPT)
        expected = generate(runner, 0, first, 3)
        runner.drop(0)
        start(runner, 0, PROMPT)
        ids = [first]
        for position in range(len(PROMPT), len(PROMPT) + 3):
            rows = [(0, position, ids[-1], 1), (1, 0, 0, UNREAD)]
            result = runner.step(plan_of(rows))
            assert result.slots.tolist() == [0]
            ids += result.token_ids.tolist()
            assert runner.trim(1, 0)
        assert self.same(ids[1:], expected)
        assert runner.num_cells(1) == 0

    # A prompt that is computed aside

    def test_a_prompt_computed_aside_goes_on_as_in_its_slot(self, runner: Runner) -> None:
        if not runner.limits.has_aside:
            pytest.skip("nothing is computed aside")
        prompt = ids_of(*(PROMPT.tolist() * 3)[:16])
        expected = self.alone(runner, PROMPT, 3)
        beside, rest = start(runner, 0, PROMPT), []
        runner.open(2, GREEDY, prompt, NOTHING)
        runner.begin_aside(prompt[:-1].copy())
        while not runner.advance_aside(0.0, 4):
            rest += generate(runner, 0, [beside, *rest][-1], 1)[-1:]
        assert runner.end_aside(2)
        assert runner.num_cells(2) == len(prompt) - 1
        assert self.same([beside, *rest][:3], expected[: len(rest) + 1])
        ids = generate(runner, 2, int(prompt[-1]), 3)
        runner.drop(2)
        first = start(runner, 2, prompt)
        assert self.same(ids, [first, *generate(runner, 2, first, 2)])

    def test_a_shorter_prompt_aside_after_a_longer_one_is_as_good(self, runner: Runner) -> None:
        if not runner.limits.has_aside:
            pytest.skip("nothing is computed aside")
        for slot, prompt in enumerate((ids_of(*PROMPT.tolist() * 5), OTHER, PROMPT)):
            expected = self.alone(runner, prompt[:16], 3)
            runner.open(slot + 1, GREEDY, prompt[:16], NOTHING)
            runner.begin_aside(prompt[: min(len(prompt), 16) - 1].copy())
            while not runner.advance_aside(1.0, 16):
                pass
            assert runner.end_aside(slot + 1)
            ids = generate(runner, slot + 1, int(prompt[:16][-1]), 3)
            assert self.same(ids, expected)

    def test_what_is_cancelled_aside_leaves_nothing_behind(self, runner: Runner) -> None:
        if not runner.limits.has_aside:
            pytest.skip("nothing is computed aside")
        expected = self.alone(runner, OTHER, 3)
        runner.cancel_aside()
        runner.begin_aside(PROMPT)
        runner.advance_aside(0.0, 1)
        with pytest.raises(RunnerError):
            runner.begin_aside(OTHER)
        runner.cancel_aside()
        runner.begin_aside(OTHER[:-1].copy())
        while not runner.advance_aside(1.0, 16):
            pass
        runner.open(1, GREEDY, OTHER, NOTHING)
        assert runner.end_aside(1)
        assert self.same(generate(runner, 1, int(OTHER[-1]), 3), expected)
        with pytest.raises(RunnerError):  # it has cells already
            runner.end_aside(1)

    # What is refused, and changes nothing

    def test_copying_what_is_not_there_or_onto_cells_is_refused(self, runner: Runner) -> None:
        start(runner, 0, PROMPT)
        start(runner, 1, OTHER)
        for src, dst, num_tokens in ((0, 1, 2), (0, 2, 7), (0, 2, 0), (0, 0, 6), (3, 2, 1)):
            with pytest.raises(RunnerError):
                runner.copy(src, dst, num_tokens)
        assert [runner.num_cells(slot) for slot in range(3)] == [len(PROMPT), len(OTHER), 0]

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param([], id="no rows"),
            pytest.param([(0, 7, 1, 1)], id="gap"),
            pytest.param([(0, 5, 1, 1)], id="overlap"),
            pytest.param([(0, 6, 1, 0), (0, 8, 1, 1)], id="gap within"),
            pytest.param([(0, 6, 1, 1), (0, 7, 1, 1)], id="sampled before its last"),
            pytest.param([(1, 0, 1, 1)], id="sampled without open"),
            pytest.param([(0, 6, -1, 1)], id="negative id"),
            pytest.param([(0, 6, 1 << 30, 1)], id="id outside the vocabulary"),
            pytest.param([(-1, 0, 1, 0)], id="negative slot"),
            pytest.param([(1 << 20, 0, 1, 0)], id="no such slot"),
            pytest.param([(0, 6, 1, 0), (1, 0, 1, 0), (0, 7, 1, 1)], id="rows apart"),
        ],
    )
    def test_a_malformed_plan_is_refused_and_changes_nothing(
        self, runner: Runner, rows: list[Row]
    ) -> None:
        first = start(runner, 0, PROMPT)
        with pytest.raises(RunnerError):
            runner.step(plan_of(rows))
        assert [runner.num_cells(slot) for slot in range(3)] == [len(PROMPT), 0, 0]
        assert 0 <= generate(runner, 0, first, 1)[0] < runner.limits.num_vocab

    def test_more_rows_than_a_step_takes_are_refused(self, runner: Runner) -> None:
        ids = [1] * (runner.limits.max_step_tokens + 1)
        with pytest.raises(RunnerError):
            runner.step(plan_of(rows_of(0, 0, ids, sample=False)))
        assert runner.num_cells(0) == 0

    def test_moving_onto_a_slot_in_use_is_refused(self, runner: Runner) -> None:
        start(runner, 0, PROMPT)
        start(runner, 1, OTHER)
        with pytest.raises(RunnerError):
            runner.move(0, 1)
        assert [runner.num_cells(0), runner.num_cells(1)] == [len(PROMPT), len(OTHER)]

    def test_opening_a_slot_in_use_is_refused(self, runner: Runner) -> None:
        start(runner, 0, PROMPT)
        with pytest.raises(RunnerError):
            runner.open(0, GREEDY, OTHER, NOTHING)

    def test_closing_twice_is_no_error(self, runner: Runner) -> None:
        runner.close()
        runner.close()
