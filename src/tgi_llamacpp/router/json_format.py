"""JSON text the way TGI's serializer writes it: compact, raw UTF-8, shortest floats.

Owns the three rules that Python's own json does not follow: float32 log-probabilities, floats in
headers and metrics, and the absence of spaces. Called by the wire modules; knows no message.
"""

from __future__ import annotations

import json
from decimal import Decimal
from json.encoder import encode_basestring

import numpy as np

quote = encode_basestring
"""A string as JSON: escapes only the quote, the backslash and what is below 0x20."""

_float32 = np.float32
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: object) -> str:
    """Compact JSON of plain values, keys in insertion order. Holds no float32: see `float32`."""
    return _dumps(value)


def float32(value: float) -> str:
    """The fewest digits that round-trip as float32; NaN and infinities are null.

    Plain notation for points in (-6, 13], else `1e-7`, without a plus or a padded exponent.
    """
    text = str(_float32(value))
    if "e" in text:
        return _lay_out(text, smallest_point=-5, largest_point=13)
    return text if "n" not in text else "null"


def float64(value: float) -> str:
    """The same for a finite float64: plain for points in (-5, 16]."""
    return _lay_out(repr(value), smallest_point=-4, largest_point=16)


def _lay_out(text: str, *, smallest_point: int, largest_point: int) -> str:
    """Shortest digits in any notation, laid out by the position of the decimal point."""
    unsigned = text.lstrip("-")
    mantissa, _, exponent = unsigned.partition("e")
    whole, _, fraction = mantissa.partition(".")
    body = (whole + fraction).lstrip("0")
    digits = body.rstrip("0")
    power = int(exponent or 0) - len(fraction) + len(body) - len(digits)
    sign = text[: len(text) - len(unsigned)]
    return sign + _place(digits, power, smallest_point, largest_point)


def _place(digits: str, exponent: int, smallest_point: int, largest_point: int) -> str:
    """`digits` times ten to the `exponent`."""
    if not digits:
        return "0.0"
    point = len(digits) + exponent  # digits before the decimal point
    if exponent >= 0 and point <= largest_point:
        return digits + "0" * exponent + ".0"
    if 0 < point <= largest_point:
        return digits[:point] + "." + digits[point:]
    if smallest_point <= point <= 0:
        return "0." + "0" * -point + digits
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{mantissa}e{point - 1}"


def plain_float(value: float) -> str:
    """Shortest float64 digits without exponent or trailing `.0`, as in headers and metrics."""
    if value.is_integer():
        return str(int(value))
    return format(Decimal(repr(value)), "f")
