"""What TGI's own routes take: the generate request, its parameters, and the platforms' wrappers.

Field names, types and nullability are TGI's; the rules between fields are router/validation.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tgi_llamacpp.router.json_reader import JsonReader, ReadError
from tgi_llamacpp.router.shapes import (
    I32,
    U32,
    U64,
    USIZE,
    Anything,
    Boolean,
    Definitions,
    Doubt,
    Float32,
    ListOf,
    Nullable,
    Object,
    Schema,
    Text,
)


@dataclass(slots=True)
class Grammar:
    """What the output must match: a JSON schema or a regular expression."""

    type: str
    value: object


@dataclass(slots=True)
class GenerateParameters:
    """TGI's parameters as sent; None is "not given". Floats are already float32."""

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: list[str] = field(default_factory=list)
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None


def _default_parameters() -> GenerateParameters:
    # TGI samples when `parameters` is absent, and does not when it is there without `do_sample`.
    return GenerateParameters(do_sample=True)


@dataclass(slots=True)
class GenerateRequest:
    """`/generate`, `/generate_stream`, `/tokenize`, and with `stream` the compat route `/`."""

    inputs: str
    parameters: GenerateParameters = field(default_factory=_default_parameters)
    stream: bool = False


class Variant:
    """One of a few strings."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._expected = ", ".join(f"`{name}`" for name in names)

    def convert(self, value: object) -> str:
        if type(value) is not str or value not in self._names:
            raise Doubt
        return value

    def read(self, reader: JsonReader) -> str:
        if reader.peek_value() != ord('"'):
            raise reader.wrong_type("variant identifier")
        name = reader.read_string()
        if name not in self._names:
            message = f"unknown variant `{name}`, expected one of {self._expected}"
            raise ReadError(message, reader.index)
        return name

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "string", "enum": list(self._names)}


GRAMMAR = Object(
    "GrammarType",
    Grammar,
    {"type": Variant("json", "json_object", "regex", "json_schema"), "value": Anything()},
    required=("type", "value"),
)

PARAMETERS = Object(
    "GenerateParameters",
    GenerateParameters,
    {
        "best_of": Nullable(USIZE),
        "temperature": Nullable(Float32()),
        "repetition_penalty": Nullable(Float32()),
        "frequency_penalty": Nullable(Float32()),
        "top_k": Nullable(I32),
        "top_p": Nullable(Float32()),
        "typical_p": Nullable(Float32()),
        "do_sample": Boolean(),
        "max_new_tokens": Nullable(U32),
        "return_full_text": Nullable(Boolean()),
        "stop": ListOf(Text()),
        "truncate": Nullable(USIZE),
        "watermark": Boolean(),
        "details": Boolean(),
        "decoder_input_details": Boolean(),
        "seed": Nullable(U64),
        "top_n_tokens": Nullable(U32),
        "grammar": Nullable(GRAMMAR),
        "adapter_id": Nullable(Text()),
    },
)

GENERATE = Object(
    "GenerateRequest",
    GenerateRequest,
    {"inputs": Text(), "parameters": PARAMETERS},
    required=("inputs",),
)

COMPAT = Object(
    "CompatGenerateRequest",
    GenerateRequest,
    {"inputs": Text(), "parameters": PARAMETERS, "stream": Boolean()},
    required=("inputs",),
)
