"""How the OpenAI routes sample beyond TGI: logit_bias, llama.cpp's samplers, and min_tokens.

Owns the ranges of all numbers there, which router/openapi_notes.py reads too, and the translation
of what TGI does not know to the engine's parameters. Called by router/openai.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from tgi_llamacpp.errors import EngineUnavailable, ValidationError
from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.router.aliases import number_text, repetition_penalty
from tgi_llamacpp.router.schemas_openai import SamplingFields
from tgi_llamacpp.router.services import Services

MAX_BIASES = 300  # OpenAI's
MAX_BIAS = 100.0  # of OpenAI too; its opposite bans the token
MAX_BREAKERS = 32
DEFAULT_BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be; None for a maximum is that of the type.

    `hint` says which value turns the sampler off, or is the default.
    """

    minimum: float
    maximum: float | None
    hint: str
    excludes_minimum: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is in it; infinity never is."""
        if not math.isfinite(value) or (self.excludes_minimum and value == self.minimum):
            return False
        return self.minimum <= value and (self.maximum is None or value <= self.maximum)

    def __str__(self) -> str:
        lowest = f"{'>' if self.excludes_minimum else '>='} {self.minimum:g}"
        highest = ""
        if self.maximum is not None:
            highest = " and finite" if self.maximum == math.inf else f" and <= {self.maximum:g}"
        return f"{lowest}{highest} ({self.hint})"


RANGES: Mapping[str, Range] = {
    "temperature": Range(0.0, math.inf, "0 takes the likeliest token"),
    "top_p": Range(0.0, 1.0, "1 is off, 0 takes the likeliest token"),
    "top_k": Range(-1, None, "0 and -1 are off"),
    "typical_p": Range(0.0, 1.0, "1 is off", excludes_minimum=True),
    "repetition_penalty": Range(0.0, math.inf, "1 is off", excludes_minimum=True),
    "frequency_penalty": Range(-2.0, 2.0, "0 is off"),
    "presence_penalty": Range(-2.0, 2.0, "0 is off"),
    "min_p": Range(0.0, 1.0, "0 is off"),
    "repeat_penalty": Range(0.0, math.inf, "1 is off", excludes_minimum=True),
    "repeat_last_n": Range(-1, None, "-1 is all tokens, 0 none"),
    "dry_multiplier": Range(0.0, math.inf, "0 is off"),
    "dry_base": Range(1.0, math.inf, "1.75 is the default"),
    "dry_allowed_length": Range(0, None, "2 is the default"),
    "dry_penalty_last_n": Range(-1, None, "-1 is all tokens, 0 none"),
    "xtc_probability": Range(0.0, 1.0, "0 is off"),
    "xtc_threshold": Range(0.0, 1.0, "0.1 is the default"),
    "mirostat": Range(0, 2, "0 is off"),
    "mirostat_tau": Range(0.0, math.inf, "5 is the default"),
    "mirostat_eta": Range(0.0, math.inf, "0.1 is the default"),
}
# The fields of a request that the engine has under the same or another name.
_ENGINE_NAMES = {
    "min_p": "min_p",
    "repeat_last_n": "penalty_last_n",
    "dry_multiplier": "dry_multiplier",
    "dry_base": "dry_base",
    "dry_allowed_length": "dry_allowed_length",
    "dry_penalty_last_n": "dry_last_n",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}


async def to_samplers(fields: SamplingFields, services: Services) -> SamplingParams:
    """The engine's parameters with these samplers set, and TGI's still at their defaults.

    Raises:
        ValidationError: a field is out of its range, or would have no effect beside another.
    """
    _check_ranges(fields)
    _check_together(fields)
    given = {
        engine_name: getattr(fields, name)
        for name, engine_name in _ENGINE_NAMES.items()
        if getattr(fields, name) is not None
    }
    params = msgspec.structs.replace(
        SamplingParams(), min_new_tokens=0 if fields.ignore_eos else fields.min_tokens, **given
    )
    if fields.logit_bias:
        params = _with_bias(params, fields, services)
    if params.dry_multiplier > 0:
        params = await _with_breakers(params, fields.dry_sequence_breakers, services)
    return params


def _check_ranges(fields: SamplingFields) -> None:
    for name, allowed in RANGES.items():
        value = getattr(fields, name)
        if value is not None and not allowed.holds(value):
            raise ValidationError(f"`{name}` must be {allowed}. Given: {number_text(value)}")
    breakers = fields.dry_sequence_breakers or []
    if len(breakers) > MAX_BREAKERS:
        raise ValidationError(
            f"`dry_sequence_breakers` must be at most {MAX_BREAKERS}. Given: {len(breakers)}"
        )
    if not all(breakers):
        raise ValidationError("`dry_sequence_breakers` must not be empty texts: leave them out")


def _check_together(fields: SamplingFields) -> None:
    repetition_penalty(fields)
    if fields.temperature != 0:
        return
    for name in ("mirostat", "xtc_probability"):
        if value := getattr(fields, name):
            raise ValidationError(
                f"`{name}` needs a `temperature` > 0, for at 0 the likeliest token is taken."
                f" Given: {number_text(value)}: raise `temperature`, or send 0"
            )


def _with_bias(
    params: SamplingParams, fields: SamplingFields, services: Services
) -> SamplingParams:
    biases = fields.logit_bias or {}
    if len(biases) > MAX_BIASES:
        raise ValidationError(
            f"`logit_bias` must name at most {MAX_BIASES} tokens. Given: {len(biases)}"
        )
    ready = services.engine.ready
    if ready is None:
        raise EngineUnavailable("The engine is not running; try again later")
    ids = [_token_id(key, ready.num_vocab) for key in biases]
    for key, value in biases.items():
        if not -MAX_BIAS <= value <= MAX_BIAS:
            raise ValidationError(
                f"`logit_bias` values must be >= -100 (bans the token) and <= 100."
                f" Given: {number_text(value)} for token {key}"
            )
    banned = {
        token_id for token_id, bias in zip(ids, biases.values(), strict=True) if bias == -MAX_BIAS
    }
    if fields.ignore_eos or fields.min_tokens:
        banned.update(ready.eog_ids)
    if len(banned) >= ready.num_vocab:
        raise ValidationError("`logit_bias` bans every token: leave one that may be generated")
    values = [-math.inf if value == -MAX_BIAS else value for value in biases.values()]
    return msgspec.structs.replace(
        params,
        bias_ids=np.array(ids, np.int32).tobytes(),
        bias_values=np.array(values, np.float32).tobytes(),
    )


def _token_id(key: str, num_vocab: int) -> int:
    if _TOKEN_ID.fullmatch(key) is None or int(key) >= num_vocab:
        raise ValidationError(
            f"`logit_bias` must have token ids >= 0 and < {num_vocab} as keys. Given: {key!r}"
        )
    return int(key)


async def _with_breakers(
    params: SamplingParams, breakers: list[str] | None, services: Services
) -> SamplingParams:
    ids = await services.text.pool.run(
        services.breakers.ids,
        DEFAULT_BREAKERS if breakers is None else breakers,
        may_miss=breakers is None,
    )
    return msgspec.structs.replace(params, dry_breaker_ids=ids.tobytes())
