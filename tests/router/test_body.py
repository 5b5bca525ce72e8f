import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tgi_llamacpp.errors import BodyError
from tgi_llamacpp.router.body import decode_exactly, decode_quickly
from tgi_llamacpp.router.schemas_openai import CHAT, COMPLETION
from tgi_llamacpp.router.schemas_tgi import COMPAT, GENERATE, GenerateRequest
from tgi_llamacpp.router.shapes import Doubt

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "parameters", "stop", "messages", "role", "content", "prompt"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def _both(body: bytes, shape: Any) -> tuple[Any, Any]:
    """What the quick and the exact way make of a body; None is "no"."""
    try:
        quick = decode_quickly(body, shape)
    except Doubt:
        quick = None
    try:
        exact = decode_exactly(body, shape)
    except BodyError:
        exact = None
    return quick, exact


@given(_json, st.sampled_from([GENERATE, COMPAT, CHAT, COMPLETION]), st.booleans())
def test_what_the_quick_way_accepts_the_exact_way_reads_the_same(
    value: object, shape: Any, ascii_only: bool
) -> None:
    quick, exact = _both(json.dumps(value, ensure_ascii=ascii_only).encode(), shape)
    if quick is not None:
        assert quick == exact


@given(
    st.builds(
        lambda inputs, numbers, stop: {"inputs": inputs, "parameters": {**numbers, "stop": stop}},
        st.text(st.characters(exclude_categories=["Cs"])),
        st.dictionaries(
            st.sampled_from(["temperature", "top_p", "repetition_penalty"]),
            st.none() | st.integers(-9, 9) | st.floats(-1e30, 1e30),
        ),
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
    )
)
def test_valid_requests_take_the_quick_way(value: dict[str, object]) -> None:
    quick, exact = _both(json.dumps(value).encode(), GENERATE)
    assert quick is not None
    assert quick == exact
    assert quick.inputs == value["inputs"]


@given(st.binary(max_size=60))
@example(b"-")
@example(b'{"inputs":1e')
@example(b'{"inputs":1.')
@example(b'{"inputs":"\\u12')
@example(b'{"inputs":"\\ud800\\u0041"}')
@example(b'{"inputs":tru')
@example(b'{"inputs":"a"')
@example(b'["a"]')
def test_no_bytes_crash_the_decoder(body: bytes) -> None:
    _both(body, GENERATE)
    _both(b'{"inputs":' + body, GENERATE)
    _both(b'{"inputs":"' + body, GENERATE)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"inputs":"\xff"}', "inputs: invalid unicode code point at line 1 column 13"),
        (b'{"inputs":"\\ud800"}', "inputs: unexpected end of hex escape at line 1 column 18"),
        (b'{"inputs":01}', "inputs: invalid number at line 1 column 12"),
        (b'{"inputs":"a",}', "trailing comma at line 1 column 15"),
        (b'{"inputs":"a"\n,\n  "x" 1}', "expected `:` at line 3 column 7"),
    ],
)
def test_syntax_errors_say_where(body: bytes, detail: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode_exactly(body, GENERATE)
    assert caught.value.http_status == 400
    assert caught.value.message == f"Failed to parse the request body as JSON: {detail}"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("prefix", [b"", b'{"inputs":"a","x":', b'{"inputs":"a","parameters":'])
def test_a_depth_bomb_is_one_clear_error(prefix: bytes, opening: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        decode_exactly(prefix + opening * 100_000, GENERATE)
    assert caught.value.http_status in (400, 422)
    with pytest.raises(Doubt):
        decode_quickly(prefix + opening * 100_000, GENERATE)


def test_numbers_out_of_every_range_are_refused() -> None:
    for number in (b"1e999", b"-1e999"):
        with pytest.raises(BodyError, match="number out of range"):
            decode_exactly(b'{"inputs":"a","parameters":{"temperature":%s}}' % number, GENERATE)
    huge = b"9" * 5000
    with pytest.raises(BodyError, match="out of range"):
        decode_exactly(b'{"inputs":"a","parameters":{"seed":%s}}' % huge, GENERATE)
    with pytest.raises(BodyError, match="expected u64"):
        decode_exactly(b'{"inputs":"a","parameters":{"seed":18446744073709551616}}', GENERATE)


def test_bytes_after_the_request_are_ignored_as_tgi_does() -> None:
    request = decode_exactly(b'{"inputs":"a"} trailing', GENERATE)
    assert request.inputs == "a"


def test_absent_parameters_sample_and_empty_ones_do_not() -> None:
    assert decode_quickly(b'{"inputs":"a"}', GENERATE).parameters.do_sample is True
    assert decode_quickly(b'{"inputs":"a","parameters":{}}', GENERATE).parameters.do_sample is False


def test_floats_are_narrowed_before_anything_looks_at_them() -> None:
    body = b'{"inputs":"a","parameters":{"top_p":0.99999999999,"temperature":1e-50}}'
    request = decode_quickly(body, GENERATE)
    assert isinstance(request, GenerateRequest)
    assert request.parameters.top_p == 1.0
    assert request.parameters.temperature == 0.0


def test_a_seed_of_sixty_four_bits_is_kept_exactly() -> None:
    body = b'{"inputs":"a","parameters":{"seed":18446744073709551615}}'
    assert decode_quickly(body, GENERATE).parameters.seed == 2**64 - 1


def test_an_array_is_no_request() -> None:
    with pytest.raises(BodyError, match="invalid type: sequence, expected struct GenerateRequest"):
        decode_exactly(b'["a"]', GENERATE)
