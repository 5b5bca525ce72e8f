"""The cost model: monotone whatever it is told, and right where costs follow its form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_llamacpp.engine.cost_model import LONG_CHUNK, CostModel, StepShape, WidthCurve

# Milliseconds by rows, of a 135M model with repacked weights on two cores.
SAWTOOTH = {1: 11.2, 2: 17.7, 3: 21.7, 4: 20.5, 5: 27.8, 6: 31.6, 7: 39.0, 8: 30.8}
SAWTOOTH |= {9: 40.4, 12: 42.6, 16: 52.9, 20: 60.7}


def curve_of(milliseconds: dict[int, float]) -> WidthCurve:
    return WidthCurve({width: cost / 1e3 for width, cost in milliseconds.items()})


# The curve


def test_a_curve_says_what_was_measured_and_interpolates_between() -> None:
    curve = curve_of(SAWTOOTH)
    assert curve.pass_s(0) == 0
    assert curve.pass_s(7) == pytest.approx(0.039)
    assert curve.pass_s(14) == pytest.approx((0.0426 + 0.0529) / 2)
    assert curve.pass_s(40) > curve.pass_s(20)


def test_seven_rows_are_padded_to_eight_and_others_are_not() -> None:
    curve = curve_of(SAWTOOTH)
    assert {width: curve.num_pads(width) for width in SAWTOOTH if curve.num_pads(width)} == {
        3: 1,
        7: 1,
    }
    assert curve.num_pads(11) == 0  # which nobody measured


def test_a_gain_within_the_noise_is_no_reason_to_pad() -> None:
    assert curve_of({7: 30.0, 8: 29.0}).num_pads(7) == 0
    assert curve_of({7: 0.2, 8: 0.1}).num_pads(7) == 0


def test_the_group_of_rows_is_read_from_the_curve() -> None:
    assert curve_of(SAWTOOTH).row_group == 4
    assert curve_of(SAWTOOTH | {3: 20.0}).row_group == 8
    assert curve_of({width: 10.0 + width for width in range(1, 9)}).row_group == 1
    assert WidthCurve({}).row_group == 1


# The fit


def synthetic_s(shape: StepShape, pass_s: float, token_s: float, product_s: float) -> float:
    prompt_s = sum(n * token_s + n * (start + n / 2) * product_s for start, n in shape.chunks)
    return (pass_s if shape.width else 0.0) + pass_s * bool(shape.chunks) + prompt_s


@pytest.mark.parametrize("token_ms", [0.02, 2.0, 40.0])
def test_a_prompt_teaches_what_the_next_chunk_costs(token_ms: float) -> None:
    model = CostModel(curve_of(SAWTOOTH))
    start = 0
    for _ in range(12):
        shape = StepShape(4, ((start, 100),))
        model.learn(shape, synthetic_s(shape, 0.0205, token_ms / 1e3, 2e-7))
        start += 100
    shape = StepShape(4, ((start, 100),))
    expected_s = synthetic_s(shape, 0.0205, token_ms / 1e3, 2e-7)
    assert model.predict_s(shape) == pytest.approx(expected_s, rel=0.1)


def test_decode_steps_teach_what_the_machine_is_at_now() -> None:
    model = CostModel(curve_of(SAWTOOTH))
    for _ in range(20):
        model.learn(StepShape(8, ()), 2 * 0.0308)
    assert model.pass_s(4) == pytest.approx(2 * 0.0205, rel=0.05)


def test_one_hiccup_changes_little() -> None:
    model = CostModel(curve_of(SAWTOOTH))
    shape = StepShape(4, ((1000, 100),))
    for _ in range(20):
        model.learn(shape, 0.25)
    model.learn(shape, 5.0)
    assert model.predict_s(shape) == pytest.approx(0.25, rel=0.1)


def test_what_fits_in_a_time_is_predicted_to_take_it() -> None:
    model = CostModel(curve_of(SAWTOOTH))
    for start in range(0, 3000, 150):
        shape = StepShape(4, ((start, 150),))
        model.learn(shape, synthetic_s(shape, 0.0205, 2e-3, 5e-7))
    num_tokens = model.num_tokens_within(0.4, [(2000, 1000)])
    assert 65 < num_tokens < 200
    assert model.prompt_s([(2000, num_tokens)]) <= 0.4
    assert model.prompt_s([(2000, num_tokens + 1)]) > 0.4


def attention_s(shape: StepShape) -> float:
    """Where attention costs thrice as much a token with fewer than 65 of them."""
    is_long = max(n for _, n in shape.chunks) >= LONG_CHUNK
    return synthetic_s(shape, 0.02, 2e-3, 5e-7 if is_long else 1.5e-6)


def taught_by_a_prompt_of_1500() -> CostModel:
    model = CostModel(curve_of(SAWTOOTH))
    for start in range(0, 1500, 100):
        shape = StepShape(4, ((start, 100),))
        model.learn(shape, attention_s(shape))
    return model


def test_a_long_chunk_may_take_a_little_more_than_the_time_where_short_ones_cost_far_more() -> None:
    model = taught_by_a_prompt_of_1500()
    long_s = model.prompt_s([(4000, LONG_CHUNK)])
    assert model.num_tokens_within(long_s, [(4000, 1000)]) >= LONG_CHUNK - 1
    assert model.num_tokens_within(long_s / 1.15, [(4000, 1000)]) == LONG_CHUNK
    assert model.num_tokens_within(long_s / 1.3, [(4000, 1000)]) < LONG_CHUNK / 2


def test_long_chunks_are_tried_again_after_they_seemed_too_long() -> None:
    model = taught_by_a_prompt_of_1500()
    for _ in range(5):  # somebody else kept the machine busy
        shape = StepShape(4, ((1500, 65),))
        model.learn(shape, 4 * attention_s(shape))
    num_short_steps = 0
    while (num_tokens := model.num_tokens_within(0.25, [(1500, 1000)])) < LONG_CHUNK:
        shape = StepShape(4, ((1500, num_tokens),))
        model.learn(shape, attention_s(shape))
        num_short_steps += 1
        assert num_short_steps < 100
    assert num_short_steps > 5


observations = st.tuples(
    st.integers(0, 64),
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 4096)), max_size=4),
    st.floats(0, 1e4),
)


@given(
    curve=st.dictionaries(st.integers(1, 64), st.floats(1e-7, 100), max_size=12),
    told=st.lists(observations, max_size=30),
    prompts=st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 4096)), max_size=4),
    limit_s=st.floats(-1, 100),
)
def test_whatever_it_is_told_predictions_are_finite_and_grow_with_the_work(
    curve: dict[int, float],
    told: list[tuple[int, list[tuple[int, int]], float]],
    prompts: list[tuple[int, int]],
    limit_s: float,
) -> None:
    model = CostModel(WidthCurve(curve))
    for width, chunks, step_s in told:
        model.learn(StepShape(width, tuple(chunks)), step_s)
    for start, num_tokens in prompts:
        less = model.prompt_s([(start, num_tokens)])
        assert less >= 0
        if num_tokens + 1 != LONG_CHUNK:  # which may be cheaper than one token less
            assert less <= model.prompt_s([(start, num_tokens + 1)])
        assert less <= model.prompt_s([(start + 1, num_tokens)]) * (1 + 1e-9)
        assert math.isfinite(less)
    num_tokens = model.num_tokens_within(limit_s, prompts)
    assert 0 <= num_tokens <= sum(left for _, left in prompts)
    for prompt in prompts:
        more = model.num_tokens_within(limit_s + 1, [prompt])
        assert model.num_tokens_within(limit_s, [prompt]) <= more
