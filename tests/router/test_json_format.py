import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_llamacpp.router.json_format import dumps, float32, float64, plain_float, quote


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (-1.0, "-1.0"),
        (-0.34, "-0.34"),
        (-0.5078125, "-0.5078125"),
        (0.00001, "0.00001"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (-2.3841858e-7, "-2.3841858e-7"),
        (123456790.0, "123456790.0"),
        (1e12, "1000000000000.0"),
        (1e13, "1e13"),
        (1e16, "1e16"),
        (1e-45, "1e-45"),
        (math.nan, "null"),
        (math.inf, "null"),
        (-math.inf, "null"),
    ],
)
def test_float32_prints_as_tgi_does(value: float, text: str) -> None:
    assert float32(value) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_round_trips_with_no_digit_to_spare(value: float) -> None:
    text = float32(value)
    assert struct.pack("<f", float(text)) == struct.pack("<f", value)
    digits = text.lstrip("-").split("e")[0].replace(".", "").strip("0")
    shortest = np.format_float_scientific(np.float32(value), unique=True, trim="-")
    assert len(digits) == len(shortest.lstrip("-").split("e")[0].replace(".", "").strip("0"))


def test_float32_is_right_at_every_power_of_two() -> None:
    for exponent in range(-149, 128):
        value = 2.0**exponent
        assert struct.pack("<f", float(float32(value))) == struct.pack("<f", value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(10.0, "10.0"), (1e-6, "1e-6"), (1e-5, "0.00001"), (1e16, "1e16"), (1.5, "1.5")],
)
def test_float64_prints_as_tgi_does(value: float, text: str) -> None:
    assert float64(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234567, "1.234567"),
        (5.0, "5"),
        (1e-9, "0.000000001"),
        (1.5000000000000001e-4, "0.00015000000000000001"),
    ],
)
def test_floats_in_headers_have_no_exponent_and_no_zero_fraction(value: float, text: str) -> None:
    assert plain_float(value) == text


@given(st.text())
def test_strings_escape_only_what_json_must(text: str) -> None:
    quoted = quote(text)
    assert json.loads(quoted) == text
    assert quoted == json.dumps(text, ensure_ascii=False)


def test_objects_are_compact_raw_utf8_in_order() -> None:
    assert dumps({"b": "é/\x7f\x1f", "a": [1, None]}) == '{"b":"é/\x7f\\u001f","a":[1,null]}'
