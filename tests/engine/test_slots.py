"""Slots stay dense, and what it costs when they are not is weighed."""

from __future__ import annotations

from array import array

import pytest

from tests.engine.simulation import prompt_of
from tgi_llamacpp.engine.planner import MAX_CHUNK_TOKENS, Batch, plan_step
from tgi_llamacpp.engine.sequence import Sequence, Status
from tgi_llamacpp.engine.slots import SlotTable
from tgi_llamacpp.messages import SamplingParams


def sequence_of(
    arrival: int, *, num_prompt: int = 20, decoding: bool = True, max_new: int = 100
) -> Sequence:
    one = Sequence(
        seq_id=arrival,
        prompt_ids=prompt_of(arrival, num_prompt),
        generated_ids=array("i"),
        max_new_tokens=max_new,
        params=SamplingParams(),
        ignore_eog=False,
        num_arrival=arrival,
        submitted_s=0.0,
    )
    one.num_computed = num_prompt - 1 if decoding else 0
    return one


def table_of(layout: str, *, is_unified: bool = False, max_new: int = 100) -> SlotTable:
    """One character a slot: "d" decoding, "p" prefilling, "." empty. The last came first."""
    table = SlotTable(len(layout), is_unified=is_unified)
    placed = [
        sequence_of(len(layout) - slot, decoding=kind == "d", max_new=max_new)
        for slot, kind in enumerate(layout)
    ]
    for one in placed:
        table.place(one)
    for one, kind in zip(placed, layout, strict=True):
        if kind == ".":
            table.release(one)
    table.check_integrity(table.running())
    return table


def chunks_of(batch: Batch | None) -> dict[int, int]:
    assert batch is not None
    return {one.slot: rows for one, rows in batch.segments if one.slot is not None}


# Placement


@pytest.mark.parametrize(
    ("layout", "slot"),
    [
        ("....", 0),
        ("d...", 1),
        ("d.d.", 1),
        ("d..d", 1),
        (".dd.", 0),
        ("..dd", 1),
        ("ddd.", 3),
    ],
)
def test_a_newcomer_gets_the_free_slot_that_keeps_all_densest(layout: str, slot: int) -> None:
    assert table_of(layout).place(sequence_of(50)) == slot


def test_a_released_slot_is_free_again() -> None:
    table = table_of("dd")
    first = table.running()[0]
    assert (table.num_free, first.status) == (0, Status.DECODING)
    assert table.release(first) == 0
    assert (table.num_free, first.status) == (1, Status.WAITING)


# Moves


def test_the_last_moves_into_a_hole_that_would_cost_more() -> None:
    assert table_of("d.dd").find_move() == (3, 1)


def test_a_sequence_about_to_end_is_not_moved() -> None:
    assert table_of("d.dd", max_new=3).find_move() is None


def test_dense_slots_and_single_sequences_move_nowhere() -> None:
    assert table_of("dddd....").find_move() is None
    assert table_of("...d").find_move() is None
    assert table_of("..dd").find_move() is None


def test_several_strays_are_moved_one_a_step_until_all_is_dense() -> None:
    table = table_of("dd......dd")
    moves = []
    while move := table.find_move():
        moves.append(move)
        table.move(*move)
    assert moves == [(9, 2), (8, 3)]
    table.check_integrity(table.running())


def test_one_pool_needs_no_moves() -> None:
    assert table_of("d..d", is_unified=True).find_move() is None


# Rows between decode rows


def test_a_small_hole_gets_a_dummy_row() -> None:
    batch = plan_step(table_of("d.d"), 16)
    assert batch is not None
    assert batch.dummy_slots == [1]
    plan = batch.plan
    assert plan.slots.tolist() == [0, 1, 2]
    assert plan.positions.tolist() == [19, 0, 19]
    assert plan.token_ids[1] == 0
    assert plan.samples.tolist() == [1, 0, 1]


def test_a_large_hole_is_left() -> None:
    batch = plan_step(table_of("d....d"), 16)
    assert batch is not None
    assert batch.dummy_slots == []


def test_a_prefilling_sequence_in_a_hole_gets_a_row_of_its_prompt() -> None:
    batch = plan_step(table_of("dpdp"), 16)  # the last slot came first, and takes the chunk
    assert chunks_of(batch) == {0: 1, 1: 1, 2: 1, 3: 13}


def test_rows_that_do_not_fit_the_step_are_no_dummies() -> None:
    batch = plan_step(table_of("d.dp"), 3)
    assert batch is not None
    assert batch.dummy_slots == []
    assert chunks_of(batch) == {0: 1, 2: 1, 3: 1}


def test_one_pool_needs_no_dummies() -> None:
    batch = plan_step(table_of("d.d", is_unified=True), 16)
    assert batch is not None
    assert batch.dummy_slots == []


# Chunks


def test_the_last_id_of_a_prompt_waits_for_the_decode_rows() -> None:
    batch = plan_step(table_of("dp"), 64)
    assert batch is not None
    assert chunks_of(batch) == {0: 1, 1: 19}
    assert batch.plan.samples.sum() == 1


def test_the_last_id_of_a_prompt_ends_the_chunk_where_nobody_decodes() -> None:
    batch = plan_step(table_of("pp"), 64)
    assert batch is not None
    assert chunks_of(batch) == {0: 20, 1: 20}
    assert (batch.num_decode, batch.num_prefill) == (2, 38)


def test_a_chunk_that_just_ends_before_the_last_id_samples_nothing() -> None:
    batch = plan_step(table_of("p"), 19)
    assert batch is not None
    assert (batch.num_decode, batch.num_prefill) == (0, 19)


def test_chunks_are_capped_beside_decode_rows_alone() -> None:
    for layout, expected in (("dp", MAX_CHUNK_TOKENS), (".p", 1000)):
        table = table_of(layout)
        prompt = table[1]
        assert prompt is not None
        table.release(prompt)
        table.place(sequence_of(1, num_prompt=2000, decoding=False))
        assert max(chunks_of(plan_step(table, 1000)).values()) == expected


def test_nothing_running_is_no_step() -> None:
    assert plan_step(table_of("..."), 16) is None


# Integrity


def test_integrity_finds_a_sequence_that_is_nowhere() -> None:
    table = table_of("d.")
    with pytest.raises(AssertionError):
        table.check_integrity([sequence_of(7)])


def test_integrity_finds_a_wrong_label() -> None:
    table = table_of("dd")
    first = table[0]
    assert first is not None
    first.slot = 1
    with pytest.raises(AssertionError):
        table.check_integrity(table.running())
