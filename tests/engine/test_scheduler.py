"""What the scheduler does, case by case; test_scheduler_properties.py claims it for all cases."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tests.engine.runner_contract import ids_of
from tests.engine.simulation import (
    NUM_VOCAB,
    SPLIT,
    UNIFIED,
    WIDE,
    Simulation,
    UnrulyRunner,
    engine_limits,
    prompt_of,
    submit_of,
    text_alone,
)
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.runner import Int32s, RunnerLimits
from tgi_llamacpp.messages import Finish, SamplingParams, StepOut, Submit


def simulate(limits: RunnerLimits = SPLIT, **changes: int | frozenset[int] | None) -> Simulation:
    return Simulation(FakeRunner(limits), engine_limits(limits, **changes))


def seq_ids_of(out: StepOut | None) -> list[int]:
    assert out is not None
    ids: list[int] = np.frombuffer(out.seq_ids, np.int64).tolist()
    return ids


# Joining and leaving


def test_a_sequence_alone_has_its_first_token_after_one_step() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 10, 4))
    assert seq_ids_of(simulation.turn()) == [1]
    assert simulation.batches[0].num_prefill == 9


def test_a_newcomer_joins_while_others_decode() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 3, 20))
    simulation.turn()
    simulation.submit(submit_of(2, 5, 4))
    assert seq_ids_of(simulation.turn()) == [1]  # and 4 of the prompt beside it
    assert simulation.batches[-1].num_prefill == 4
    assert seq_ids_of(simulation.turn()) == [1, 2]
    simulation.run()
    assert simulation.finished_at[2] < simulation.finished_at[1]


def test_a_newcomer_to_decoding_sequences_asks_for_no_logits_in_its_chunk() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 3, 20))
    simulation.turn()
    simulation.submit(submit_of(2, 5, 4))
    simulation.turn()
    plan = simulation.batches[-1].plan
    assert plan.samples[plan.slots == 1].tolist() == [0, 0, 0, 0]


def test_a_long_prompt_never_stops_a_stream() -> None:
    simulation = simulate(WIDE)
    simulation.submit(submit_of(1, 3, 50), submit_of(2, 3, 50))
    simulation.turn()
    simulation.submit(submit_of(3, 1000, 5))
    for _ in range(2):  # 999 rows, in as few steps as they fit in, since there is no target
        assert seq_ids_of(simulation.turn()) == [1, 2]
    assert seq_ids_of(simulation.turn()) == [1, 2, 3]


def test_prompts_take_whole_steps_while_nobody_decodes() -> None:
    simulation = simulate(WIDE)
    simulation.submit(submit_of(1, 1000, 5))
    simulation.turn()
    assert simulation.batches[-1].num_prefill == 512
    assert seq_ids_of(simulation.turn()) == [1]


def test_prompts_are_prefilled_first_come_first_served() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 30, 2), submit_of(2, 30, 2))
    simulation.turn()
    assert set(simulation.batches[-1].plan.slots.tolist()) == {0}
    simulation.turn()
    slots, counts = np.unique(simulation.batches[-1].plan.slots, return_counts=True)
    assert dict(zip(slots.tolist(), counts.tolist(), strict=True)) == {0: 14, 1: 2}


def test_sixteen_sequences_share_their_steps_and_get_their_text_alone() -> None:
    limits = replace(SPLIT, num_slots=16, max_pool_tokens=16 * 64, max_step_tokens=64)
    simulation = simulate(limits)
    submits = [submit_of(i, 3 + 2 * i, 10 + i) for i in range(16)]
    simulation.submit(*submits)
    simulation.run()
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}
    assert max(len(batch.segments) for batch in simulation.batches) == 16
    counters = simulation.scheduler.counters
    assert counters.num_shared_steps > counters.num_steps / 2
    assert counters.num_decode_tokens == sum(one.max_new_tokens for one in submits)


def test_a_step_with_fewer_rows_than_slots_serves_all_in_turn() -> None:
    limits = replace(SPLIT, max_step_tokens=2)
    simulation = simulate(limits)
    submits = [submit_of(i, 5, 5) for i in range(4)]
    simulation.submit(*submits)
    simulation.run()
    assert simulation.texts == {one.seq_id: text_alone(one) for one in submits}


# Admission


def test_admission_counts_the_most_that_a_sequence_can_come_to() -> None:
    simulation = simulate(max_budget_tokens=50)
    simulation.submit(submit_of(1, 10, 20), submit_of(2, 10, 20))
    simulation.turn()
    assert simulation.scheduler.num_reserved_tokens == 30
    assert simulation.scheduler.num_waiting == 1


def test_tokens_ahead_are_those_of_all_who_run_or_wait_and_fall_with_every_step() -> None:
    simulation = simulate(max_budget_tokens=50)
    simulation.submit(submit_of(1, 10, 20), submit_of(2, 10, 20))
    assert simulation.scheduler.num_tokens_ahead == 60
    simulation.turn()
    assert simulation.scheduler.num_tokens_ahead == 50
    simulation.turn()
    assert simulation.scheduler.num_tokens_ahead == 49
    simulation.run()
    assert simulation.scheduler.num_tokens_ahead == 0


def test_nothing_overtakes_the_head_of_the_queue() -> None:
    simulation = simulate(max_budget_tokens=50)
    simulation.submit(submit_of(1, 10, 20), submit_of(2, 10, 20), submit_of(3, 2, 2))
    simulation.turn()
    assert simulation.scheduler.num_running == 1  # though the third would fit
    simulation.run()
    assert simulation.admitted == [1, 2, 3]


def test_no_more_run_than_allowed() -> None:
    simulation = simulate(max_running=2)
    simulation.submit(*(submit_of(i, 2, 5) for i in range(4)))
    simulation.turn()
    assert simulation.scheduler.num_running == 2


def test_admission_can_be_paused_without_stopping_who_runs() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 3, 5))
    simulation.turn()
    simulation.submit(submit_of(2, 3, 5))
    simulation.turn(may_admit=False)
    assert simulation.scheduler.num_waiting == 1
    assert len(simulation.texts[1]) == 2


def test_an_admission_is_told_once_and_with_the_step_it_first_ran_in() -> None:
    runner = UnrulyRunner(UNIFIED)
    runner.refuses = frozenset({1})
    simulation = Simulation(runner)
    simulation.submit(submit_of(1, 3, 5), submit_of(2, 3, 5))
    out = simulation.turn()
    assert out is not None
    assert np.frombuffer(out.admitted, np.int64).tolist() == [1, 2]
    simulation.run()
    assert simulation.scheduler.counters.num_preempted == 1
    assert simulation.admitted == [1, 2]


# Finish


def test_length_ends_a_sequence_and_frees_its_slot_at_once() -> None:
    simulation = simulate(min_prefix_tokens=None)
    simulation.submit(submit_of(1, 3, 2))
    simulation.turn()
    simulation.turn()
    assert simulation.finishes == {1: Finish.LENGTH}
    assert simulation.runner.num_cells(0) == 0
    assert simulation.scheduler.num_reserved_tokens == 0


def first_id_of(seq_id: int) -> int:
    return text_alone(submit_of(seq_id, 3, 1))[0]


def test_end_of_generation_ends_a_sequence_and_is_part_of_its_output() -> None:
    simulation = simulate(eog_ids=frozenset({first_id_of(1)}))
    simulation.submit(submit_of(1, 3, 5))
    simulation.run()
    assert simulation.finishes == {1: Finish.EOG}
    assert simulation.texts[1] == [first_id_of(1)]


def test_end_of_generation_goes_before_length() -> None:
    simulation = simulate(eog_ids=frozenset({first_id_of(1)}))
    simulation.submit(submit_of(1, 3, 1))
    simulation.run()
    assert simulation.finishes == {1: Finish.EOG}


def test_end_of_generation_can_be_ignored() -> None:
    simulation = simulate(eog_ids=frozenset({first_id_of(1)}))
    simulation.submit(submit_of(1, 3, 5, ignore_eog=True))
    simulation.run()
    assert simulation.finishes == {1: Finish.LENGTH}
    assert len(simulation.texts[1]) == 5


def test_a_resumed_sequence_goes_on_and_counts_what_it_has() -> None:
    params = SamplingParams(temperature=1.0, seed=3)
    whole = submit_of(1, 7, 9, params=params)
    expected = text_alone(whole)
    simulation = simulate()
    simulation.submit(submit_of(1, 7, 9, generated=expected[:4], params=params))
    simulation.run()
    assert simulation.texts[1] == expected[4:]
    assert simulation.finishes == {1: Finish.LENGTH}


class OpenedRunner(FakeRunner):
    """Remembers with which tokens banned a slot was opened, and after how many of output."""

    def __init__(self, limits: RunnerLimits) -> None:
        super().__init__(limits)
        self.opened: list[tuple[int, list[int]]] = []

    def open(
        self, slot: int, params: SamplingParams, prompt_ids: Int32s, generated_ids: Int32s
    ) -> None:
        super().open(slot, params, prompt_ids, generated_ids)
        values = np.frombuffer(params.bias_values, np.float32)
        banned = np.frombuffer(params.bias_ids, np.int32)[np.isneginf(values)]
        self.opened.append((len(generated_ids), banned.tolist()))


@pytest.mark.parametrize("num_generated", [0, 2])
def test_ends_are_banned_until_there_are_the_least_tokens(num_generated: int) -> None:
    params = SamplingParams(min_new_tokens=4, bias_ids=ids_of(7).tobytes(), bias_values=b"\0" * 4)
    whole = submit_of(1, 3, 6, params=params)
    expected = text_alone(whole)
    runner = OpenedRunner(SPLIT)
    simulation = Simulation(runner, engine_limits(SPLIT, eog_ids=frozenset({9, 8})))
    given = expected[:num_generated]
    simulation.submit(submit_of(1, 3, 6, generated=given, params=params))
    simulation.run()
    assert runner.opened == [(num_generated, [8, 9]), (4, [])]
    assert simulation.texts[1] == expected[num_generated:]


def test_one_that_is_resumed_with_the_least_tokens_may_end() -> None:
    runner = OpenedRunner(SPLIT)
    simulation = Simulation(runner)
    params = SamplingParams(min_new_tokens=2)
    simulation.submit(submit_of(1, 3, 6, generated=[1, 2], params=params))
    simulation.run()
    assert runner.opened == [(2, [])]


# Refusals: one sentence, and nobody else is touched


@pytest.mark.parametrize(
    ("submit", "words"),
    [
        (submit_of(1, 0, 5), "0 tokens"),
        (submit_of(1, 3, -1), "max_new_tokens is -1"),
        (submit_of(1, 3, 0, generated=[5]), "max_new_tokens is 0"),
        (msgspec.structs.replace(submit_of(1, 3, 5), num_scored=3), "num_scored is 3"),
        (submit_of(1, 3, 2, generated=[5, 6]), "2 tokens are generated"),
        (submit_of(1, 60, 5), "needs 65 tokens"),
        (submit_of(1, ids_of(1, NUM_VOCAB), 5), "token id 256"),
        (submit_of(1, ids_of(-1, 3), 5), "token id -1"),
        (submit_of(1, 3, 5, generated=[999]), "token id 999"),
        (Submit(1, b"\x01\x00\x00", b"", 5, SamplingParams()), "whole 32-bit"),
        (submit_of(1, 3, 5, params=SamplingParams(temperature=float("nan"))), "temperature is nan"),
        (submit_of(1, 3, 5, params=SamplingParams(top_p=0.0)), "top_p is 0.0"),
        (submit_of(1, 3, 5, params=SamplingParams(num_top_tokens=65)), "num_top_tokens is 65"),
        (submit_of(1, 3, 5, params=SamplingParams(seed=-1)), "seed is -1"),
        (
            submit_of(1, 3, 5, params=SamplingParams(penalty_last_n=2**31)),
            "penalty_last_n is 21474",
        ),
        (submit_of(1, 3, 5, params=SamplingParams(dry_last_n=-2)), "dry_last_n is -2"),
        (submit_of(1, 3, 5, params=SamplingParams(dry_allowed_length=2**31)), "dry_allowed_length"),
        (submit_of(1, 3, 5, params=SamplingParams(mirostat=3)), "mirostat is 3"),
    ],
)
def test_what_cannot_be_run_fails_with_one_sentence(submit: Submit, words: str) -> None:
    simulation = simulate()
    other = submit_of(2, 3, 5)
    simulation.submit(submit, other)
    simulation.run()
    assert list(simulation.failures) == [1]
    assert words in simulation.failures[1]
    assert "\n" not in simulation.failures[1]
    assert simulation.texts[2] == text_alone(other)


def test_more_than_the_whole_budget_is_refused_with_the_flag_that_helps() -> None:
    simulation = simulate(max_budget_tokens=20)
    simulation.submit(submit_of(1, 10, 11))
    assert "budget of all is 20" in simulation.failures[1]
    assert "--max-batch-total-tokens" in simulation.failures[1]


def test_an_id_that_is_open_is_refused_and_the_first_goes_on() -> None:
    simulation = simulate()
    first = submit_of(1, 3, 5)
    simulation.submit(first, submit_of(1, 9, 2))
    assert "open already" in simulation.failures[1]
    simulation.run()
    assert simulation.texts[1] == text_alone(first)


# Abort


def test_an_abort_frees_a_running_sequence_before_the_next_step() -> None:
    simulation = simulate(min_prefix_tokens=None)
    other = submit_of(2, 3, 8)
    simulation.submit(submit_of(1, 30, 30), other)
    simulation.turn()
    simulation.scheduler.abort([1])
    assert simulation.runner.num_cells(0) == 0
    assert simulation.scheduler.num_reserved_tokens == 11
    simulation.run()
    assert simulation.texts[1] == []
    assert simulation.texts[2] == text_alone(other)


def test_an_abort_forgets_a_waiting_sequence() -> None:
    simulation = simulate(max_running=1)
    simulation.submit(submit_of(1, 3, 3), submit_of(2, 3, 3))
    simulation.turn()
    simulation.scheduler.abort([2])
    simulation.run()
    assert simulation.finishes == {1: Finish.LENGTH}


def test_aborting_the_unknown_and_the_finished_is_no_error() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 3, 1))
    simulation.run()
    simulation.scheduler.abort([1, 77])
    simulation.scheduler.check_integrity()


# What is told


def test_alternatives_are_told_per_row_as_many_as_were_asked_for() -> None:
    simulation = simulate()
    for seq_id, num_top in ((1, 2), (2, 0), (3, 3)):
        params = SamplingParams(num_top_tokens=num_top)
        simulation.submit(submit_of(seq_id, 2, 3, params=params))
    out = simulation.turn()
    assert out is not None
    assert list(out.top_counts) == [2, 0, 3]
    token_ids = np.frombuffer(out.token_ids, np.int32).tolist()
    top_ids = np.frombuffer(out.top_ids, np.int32).tolist()
    assert len(top_ids) == len(np.frombuffer(out.top_logprobs, np.float32)) == 5
    assert [top_ids[0], top_ids[2]] == [token_ids[0], token_ids[2]]


def test_steps_without_alternatives_carry_no_columns_for_them() -> None:
    simulation = simulate()
    simulation.submit(submit_of(1, 2, 3))
    out = simulation.turn()
    assert out is not None
    assert (out.top_counts, out.top_ids, out.top_logprobs) == (b"", b"", b"")


def test_a_prompt_of_one_token_needs_no_prefill() -> None:
    simulation = simulate()
    one = submit_of(1, prompt_of(1, 1), 3)
    simulation.submit(one)
    simulation.run()
    assert simulation.scheduler.counters.num_prefill_tokens == 0
    assert simulation.texts[1] == text_alone(one)
