"""How a step is shared between streams and prompts within the latency target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.simulation import WIDE, Simulation, engine_limits, submit_of
from tgi_llamacpp.engine.cost_model import StepShape
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.planner import by_pass
from tgi_llamacpp.messages import StepOut


def time_of(shape: StepShape) -> float:
    """A 135M model on two cores: 20 ms a pass, 2 ms a token, and a little for what is before it."""
    products = sum(n * (start + n / 2) for start, n in shape.chunks)
    num_passes = bool(shape.width) + bool(shape.chunks)
    return 0.02 * num_passes + 2e-3 * shape.num_prompt_tokens + 4e-7 * products


def test_a_long_prompt_keeps_the_streams_within_the_latency_target() -> None:
    limits = engine_limits(WIDE, target_itl_s=0.25)
    simulation = Simulation(FakeRunner(WIDE), limits, time_of=time_of)
    simulation.submit(submit_of(1, 3, 200), submit_of(2, 3, 200))
    simulation.turn()
    simulation.submit(submit_of(3, 3000, 5))
    simulation.run()
    mixed = [one for one in simulation.batches if one.shape.width and one.num_prefill]
    assert 25 < len(mixed) < 50  # 6 s of prompt, 1.8 s of its attention
    for batch in mixed[1:]:  # the first is a guess
        assert time_of(batch.shape) < 1.02 * 0.25
    assert simulation.scheduler.counters.num_late_steps <= 2
    assert simulation.scheduler.counters.num_mixed_tokens == 2999


def test_prompts_come_forward_where_every_step_misses_the_target() -> None:
    limits = engine_limits(WIDE, target_itl_s=0.01)
    simulation = Simulation(FakeRunner(WIDE), limits, time_of=time_of)
    simulation.submit(submit_of(1, 3, 3000))
    simulation.turn()
    simulation.submit(submit_of(3, 900, 5), submit_of(4, 900, 5))
    simulation.run()
    assert simulation.finished_at[3] < simulation.finished_at[4] < simulation.finished_at[1]
    assert simulation.scheduler.counters.num_late_steps > 1000


def beside_a_stream(*prompts: int, target_s: float = 0.25) -> Simulation:
    """Prompts of these lengths that have come together while a sequence decodes."""
    limits = engine_limits(WIDE, target_itl_s=target_s)
    simulation = Simulation(FakeRunner(WIDE), limits, time_of=time_of)
    simulation.submit(submit_of(0, 300, 100))
    for _ in range(40):  # and its costs are known
        simulation.turn()
    simulation.submit(*(submit_of(i, length, 9) for i, length in enumerate(prompts, 1)))
    return simulation


def seq_ids_of(out: StepOut | None) -> list[int]:
    assert out is not None
    ids: list[int] = np.frombuffer(out.seq_ids, np.int64).tolist()
    return sorted(ids)


def test_a_prompt_has_its_first_token_in_its_last_step_if_the_next_one_has_prompts_too() -> None:
    simulation = beside_a_stream(70, 80, 90)
    told = [seq_ids_of(simulation.turn()) for _ in range(4)]
    assert told == [[0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]


def test_a_long_prompt_is_not_begun_behind_others_that_fill_more_than_half_of_the_step() -> None:
    simulation = beside_a_stream(75, 75, 75)
    simulation.run()
    chunks = [batch.shape.chunks for batch in simulation.batches if batch.shape.chunks]
    assert chunks[-3:] == [((0, 75),), ((0, 75),), ((0, 74),)]


def test_short_prompts_fill_the_step_whatever_is_before_them() -> None:
    simulation = beside_a_stream(*[30] * 3, target_s=0.2)
    simulation.turn()
    assert [start for start, _ in simulation.batches[-1].shape.chunks] == [0, 0, 0]


def test_the_end_of_a_short_prompt_asks_for_no_logits_beside_streams() -> None:
    simulation = beside_a_stream(30, 30, 30, target_s=0.2)
    assert seq_ids_of(simulation.turn()) == [0]
    assert seq_ids_of(simulation.turn()) == [0, 1, 2]


# Passes


def passes_of(slots: list[int], num_rows: dict[int, int]) -> list[tuple[list[int], int]]:
    """The slots of each pass that llama.cpp makes of these rows, and how many it has of each."""
    left = {slot: num_rows[slot] for slot in slots}
    passes = []
    while left:
        joined: list[int] = []
        for slot in left:
            if not joined or slot == joined[-1] + 1:
                joined.append(slot)
        taken = min(left[slot] for slot in joined)
        passes.append((joined, taken))
        left = {slot: n - taken * (slot in joined) for slot, n in left.items()}
        left = {slot: n for slot, n in left.items() if n}
    return passes


@pytest.mark.parametrize(
    ("joined", "num_rows", "passes"),
    [
        pytest.param([0, 1], {2: 128}, [([2], 128), ([0, 1], 1)], id="above"),
        pytest.param([1, 2], {0: 128}, [([1, 2], 1), ([0], 128)], id="below"),
        pytest.param([0, 2], {1: 128}, [([0, 1, 2], 1), ([1], 127)], id="between"),
        pytest.param([0, 1], {2: 40}, [([0, 1, 2], 1), ([2], 39)], id="short or cut"),
        pytest.param([0], {1: 40, 2: 70}, [([2], 70), ([0, 1], 1), ([1], 39)], id="behind one"),
        pytest.param([1], {0: 70, 2: 70}, [([2], 70), ([1], 1), ([0], 70)], id="on both sides"),
        pytest.param([0], {1: 70, 2: 70}, [([1, 2], 70), ([0], 1)], id="two"),
        pytest.param([0], {1: 70, 2: 40}, [([2], 40), ([1], 70), ([0], 1)], id="with one behind"),
        pytest.param([2], {0: 40, 1: 70}, [([2], 1), ([1], 70), ([0], 40)], id="below one"),
        pytest.param([], {0: 70, 1: 90, 2: 40}, [([0, 1, 2], 40), ([0, 1], 30), ([1], 20)]),
    ],
)
def test_whole_prompts_outside_of_the_decode_rows_have_passes_of_their_own(
    joined: list[int], num_rows: dict[int, int], passes: list[tuple[list[int], int]]
) -> None:
    whole = [slot for slot, n in num_rows.items() if n >= 64]
    slots = by_pass(joined, num_rows, whole)
    assert passes_of(slots, num_rows | dict.fromkeys(joined, 1)) == passes


@given(st.lists(st.sampled_from([0, 1, 40, 64, 128]), min_size=1, max_size=12), st.data())
def test_decode_rows_without_a_hole_are_one_pass(counts: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(counts) - 1))
    joined = list(range(first, data.draw(st.integers(first + 1, len(counts)))))
    prompts = {slot: n for slot, n in enumerate(counts) if n and slot not in joined}
    whole = [slot for slot, n in prompts.items() if n >= 64]
    slots = by_pass(joined, prompts, whole)
    assert sorted(slots) == sorted([*joined, *prompts])
    passes = [one for one, _ in passes_of(slots, prompts | dict.fromkeys(joined, 1))]
    decoding = [one for one in passes if set(one) & set(joined)]
    assert len(decoding) == 1
    assert set(joined) <= set(decoding[0])
    assert not set(decoding[0]) & set(whole)


def test_a_whole_prompt_is_read_from_its_first_row_in_a_pass_of_its_own() -> None:
    simulation = beside_a_stream(80)
    simulation.turn()
    assert simulation.batches[-1].plan.slots.tolist() == [1] * 79 + [0]


def test_a_prompt_that_is_cut_fills_the_pass_of_the_decode_rows() -> None:
    simulation = beside_a_stream(600)
    simulation.turn()
    assert simulation.batches[-1].plan.slots[:2].tolist() == [0, 1]
