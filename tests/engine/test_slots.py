"""Slots stay dense, and what it costs when they are not is weighed."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from tests.engine.simulation import prompt_of
from tgi_llamacpp.engine import planner
from tgi_llamacpp.engine.cost_model import CostModel, StepShape, WidthCurve
from tgi_llamacpp.engine.planner import MIN_CHUNK_TOKENS, Batch
from tgi_llamacpp.engine.runner import NO_TARGET, UNREAD
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


def table_of(
    layout: str,
    *,
    is_unified: bool = False,
    can_trim: bool = True,
    max_new: int = 100,
    max_pool_tokens: int = 10_000,
) -> SlotTable:
    """One character a slot: "d" decoding, "p" prefilling, "." empty. The last came first."""
    table = SlotTable(
        len(layout), is_unified=is_unified, can_trim=can_trim, max_pool_tokens=max_pool_tokens
    )
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


def costs_of(**milliseconds: float) -> CostModel:
    """With a curve of these rows, r7=39.0 is a pass of seven, and no margin for errors."""
    costs = CostModel(WidthCurve({int(name[1:]): ms / 1e3 for name, ms in milliseconds.items()}))
    costs.error_share = 0.0
    return costs


def plan_step(
    table: SlotTable, max_step_tokens: int, costs: CostModel | None = None, target_s: float = 0.0
) -> Batch | None:
    return planner.plan_step(table, max_step_tokens, 64, costs or costs_of(), target_s)


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


def table_with_long_prompt(layout: str, num_computed: int = 0) -> SlotTable:
    """Its one prompt, the last slot, has 3000 tokens."""
    table = table_of(layout)
    prompt = table[len(layout) - 1]
    assert prompt is not None
    table.release(prompt)
    prompt = sequence_of(1, num_prompt=3000, decoding=False)
    table.place(prompt)
    prompt.num_computed = num_computed
    return table


def test_chunks_are_bounded_by_the_target_beside_decode_rows_alone() -> None:
    costs = costs_of(r1=10.0, r2=12.0)  # 10 ms for a pass and 2 for a row
    batch = plan_step(table_with_long_prompt("dp"), 1000, costs, 0.1)
    assert batch is not None
    assert costs.predict_s(batch.shape) == pytest.approx(0.1)
    assert chunks_of(batch)[1] == 40
    assert chunks_of(plan_step(table_with_long_prompt("dp"), 1000, costs, 0.25))[1] == 114
    assert chunks_of(plan_step(table_with_long_prompt("p"), 1000, costs, 0.25))[0] == 1000
    assert chunks_of(plan_step(table_with_long_prompt("dp"), 1000, costs, 0.0))[1] == 999


def test_with_much_before_it_a_chunk_fills_the_groups_of_attention() -> None:
    costs = costs_of(r1=10.0, r2=12.0)
    for target_s, expected in ((0.1, 40), (0.25, 65), (0.3, 129)):  # of 40, 114 and 140
        batch = plan_step(table_with_long_prompt("dp", 512), 1000, costs, target_s)
        assert chunks_of(batch)[1] == expected
    assert chunks_of(plan_step(table_with_long_prompt("dp", 2900), 1000, costs, 0.25))[1] == 99


def test_what_predictions_are_off_by_is_kept_from_prompts() -> None:
    costs = costs_of(r1=10.0, r2=12.0)
    costs.error_share = 0.1
    assert chunks_of(plan_step(table_with_long_prompt("dp"), 1000, costs, 0.1))[1] == 35
    costs.error_share = 9.0
    assert chunks_of(plan_step(table_with_long_prompt("dp"), 1000, costs, 0.1))[1] == 30


def test_a_prompt_comes_forward_where_decoding_alone_misses_the_target() -> None:
    costs = costs_of(r1=400.0, r2=401.0)
    batch = plan_step(table_with_long_prompt("dp"), 1000, costs, 0.25)
    assert chunks_of(batch)[1] == MIN_CHUNK_TOKENS
    costs.learn(StepShape(0, ((0, 1000),)), 0.2)
    for _ in range(20):
        costs.learn(StepShape(0, ((0, 1000),)), 0.2)
    batch = plan_step(table_with_long_prompt("dp"), 1000, costs, 0.25)
    assert batch is not None
    assert costs.predict_s(batch.shape) == pytest.approx(1.25 * 0.4, rel=0.02)


def test_a_cut_chunk_fills_groups_of_rows_beside_the_row_that_joins_the_others() -> None:
    costs = costs_of(r1=10.0, r3=22.0, r4=20.0, r7=40.0, r8=30.0)
    assert costs.curve.row_group == 4
    for target_s in (0.1, 0.12, 0.14, 0.15):
        assert chunks_of(plan_step(table_with_long_prompt("dp"), 1000, costs, target_s))[1] % 4 == 1
    assert chunks_of(plan_step(table_of("dp"), 1000, costs, 1.0))[1] == 19  # and no tail is left


def test_the_oldest_prompt_comes_forward_however_many_others_sit_between_decode_rows() -> None:
    layout = "d" + "p" * 12 + "dp"  # the last slot came first
    batch = plan_step(table_of(layout), 1000, costs_of(r1=400.0, r2=401.0), 0.25)
    expected = dict.fromkeys(range(14), 1) | {14: MIN_CHUNK_TOKENS}
    assert chunks_of(batch) == expected


# Dummies that fill up a width


SAWTOOTH = {"r3": 21.7, "r4": 20.5, "r7": 39.0, "r8": 30.8}


def test_a_seventh_row_gets_an_eighth_where_that_is_quicker() -> None:
    batch = plan_step(table_of("ddddddd.."), 16, costs_of(**SAWTOOTH))
    assert batch is not None
    assert batch.dummy_slots == [7]
    assert batch.plan.slots.tolist() == list(range(8))
    assert batch.plan.samples.tolist() == [1] * 7 + [UNREAD]
    assert (batch.num_decode, batch.num_prefill, batch.shape.width) == (7, 0, 8)


def test_a_pad_may_come_before_the_others_and_keeps_their_order() -> None:
    batch = plan_step(table_of(".ddddddd"), 16, costs_of(**SAWTOOTH))
    assert batch is not None
    assert batch.plan.slots.tolist() == list(range(8))
    assert batch.plan.positions.tolist() == [0] + [19] * 7


@pytest.mark.parametrize(
    ("layout", "max_rows"),
    [("ddddddd", 16), ("dddddddp", 16), ("ddddddd.", 7), ("dddddd..", 16), ("dddd...ddd", 16)],
)
def test_no_pad_without_an_empty_neighbour_or_beside_a_prompt_or_beyond_the_step(
    layout: str, max_rows: int
) -> None:
    batch = plan_step(table_of(layout), max_rows, costs_of(**SAWTOOTH))
    assert batch is not None
    assert UNREAD not in batch.plan.samples


@pytest.mark.parametrize(
    ("num_parked", "can_trim", "positions"),
    [(100, True, [100]), (100, False, []), (255, True, [255]), (256, True, [])],
)
def test_a_pad_goes_behind_parked_cells_that_can_be_restored_and_are_few(
    num_parked: int, can_trim: bool, positions: list[int]
) -> None:
    table = table_of("ddddddd.", can_trim=can_trim)
    table.park(7, num_parked)
    batch = plan_step(table, 16, costs_of(**SAWTOOTH))
    assert batch is not None
    assert batch.plan.positions.tolist() == [19] * 7 + positions


@pytest.mark.parametrize(
    ("layout", "num_parked", "can_trim", "slots"),
    [
        ("dd.dddd.d", {}, True, [2]),
        ("dd.dddd.d", {2: 30}, True, [7]),
        ("dd.ddddd", {2: 30}, True, [2]),
        ("dd.ddddd", {2: 30}, False, []),
    ],
)
def test_in_one_pool_a_pad_goes_into_any_free_slot_an_empty_one_first(
    layout: str, num_parked: dict[int, int], can_trim: bool, slots: list[int]
) -> None:
    table = table_of(layout, is_unified=True, can_trim=can_trim)
    for slot, num_cells in num_parked.items():
        table.park(slot, num_cells)
    batch = plan_step(table, 16, costs_of(**SAWTOOTH))
    assert batch is not None
    assert batch.dummy_slots == slots
    positions = batch.plan.positions[batch.plan.samples == UNREAD].tolist()
    assert positions == [num_parked.get(slot, 0) for slot in slots]


@pytest.mark.parametrize(("max_pool_tokens", "num_pads"), [(7 * 20 + 1, 1), (7 * 20, 0)])
def test_a_pad_never_takes_the_pools_last_cell(max_pool_tokens: int, num_pads: int) -> None:
    table = table_of("ddddddd.", is_unified=True, max_pool_tokens=max_pool_tokens)
    batch = plan_step(table, 16, costs_of(**SAWTOOTH))
    assert batch is not None
    assert len(batch.dummy_slots) == num_pads


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


# What is scored


def test_a_scored_prompt_takes_no_more_rows_than_the_context_gives_outputs() -> None:
    table = table_of("pp")
    for slot in (0, 1):
        one = table[slot]
        assert one is not None
        one.wants_prompt_logprobs = True
    batch = planner.plan_step(table, 1000, 24, costs_of())
    assert batch is not None
    assert batch.plan.targets is not None
    assert np.count_nonzero(batch.plan.targets != NO_TARGET) + batch.num_decode == 24
    assert chunks_of(batch)[1] == 20  # it came first: 19 are scored and the last is sampled
    assert chunks_of(batch)[0] == 4


def test_scored_rows_cost_what_decode_rows_cost_beside_a_stream() -> None:
    costs = costs_of(r1=10.0, r2=12.0)  # 2 ms for a row
    assert planner.score_share(costs, 10.0, 1, 64) == 64
    assert planner.score_share(costs, 0.0401, 1, 64) == 15
    assert planner.score_share(costs, 0.001, 1, 64) == MIN_CHUNK_TOKENS
    assert planner.score_share(costs, 0.001, 1, 3) == 3


def test_where_nothing_is_scored_there_are_no_targets() -> None:
    for layout in ("dp", "pp", "dd"):
        batch = plan_step(table_of(layout), 64)
        assert batch is not None
        assert batch.plan.targets is None
