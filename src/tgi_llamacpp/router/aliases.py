"""Settings of the OpenAI routes that clients know by several names.

Owns that names of one setting may come together only with one value, and under which name it came.
"""

from __future__ import annotations

import math

from tgi_llamacpp.errors import ValidationError
from tgi_llamacpp.router.json_format import float32
from tgi_llamacpp.router.schemas_openai import SamplingFields

LENGTHS = ("max_tokens", "max_completion_tokens", "n_predict")
CHOICES = ("n", "n_cmpl")
REPETITION = ("repetition_penalty", "repeat_penalty")
_ALL_THE_ROOM = -1


def number_text(value: float | None) -> str:
    """As the client wrote it, as far as a float32 knows."""
    if isinstance(value, float) and math.isfinite(value):
        return float32(value)
    return str(value)


def one_value(fields: SamplingFields, names: tuple[str, ...]) -> tuple[str, float | None]:
    """The name that a setting was given by, and its value; the first name where it was not.

    Raises:
        ValidationError: two names have two values.
    """
    given = [(name, value) for name in names if (value := getattr(fields, name)) is not None]
    if not given:
        return names[0], None
    name, value = given[0]
    for other, its_value in given[1:]:
        if its_value != value:
            raise ValidationError(
                f"`{name}` and `{other}` are two names of one setting and must not differ."
                f" Given: {number_text(value)} and {number_text(its_value)}: send one of them"
            )
    return name, value


def repetition_penalty(fields: SamplingFields) -> float | None:
    """The value that either name has. Raises ValidationError where both have one."""
    return one_value(fields, REPETITION)[1]


def num_choices(fields: SamplingFields, limit: int) -> int:
    """Answers to each prompt. Raises ValidationError."""
    name, value = one_value(fields, CHOICES)
    if value is None:
        return 1
    if not 0 < value <= limit:
        raise ValidationError(f"`{name}` must be > 0 and <= {limit}. Given: {value}")
    return int(value)


def wanted_length(fields: SamplingFields, *, may_be_0: bool = False) -> tuple[str, int | None]:
    """The name and value of the most tokens to generate; None is all the room there is.

    Raises:
        ValidationError: it is 0 where something has to be generated, or its names differ.
    """
    name, value = one_value(fields, LENGTHS)
    if value is None or value == _ALL_THE_ROOM:
        return name, None
    if not value and not may_be_0:
        raise ValidationError(f"`{name}` must be > 0, or -1 for all the room there is. Given: 0")
    return name, int(value)
