"""What the OpenAI routes take: OpenAI's fields, TGI's extensions, and what is refused by name.

Owns names, types and nullability. Unknown keys are ignored, as TGI does; keys that are known and
not supported are collected, so that router/openai.py can refuse them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from tgi_llamacpp.router.fields_openai import (
    Mapped,
    Message,
    MessageField,
    Prompt,
    PromptField,
    StopField,
    ToolChoiceField,
)
from tgi_llamacpp.router.fields_refused import (
    OF_STREAM_OPTIONS,
    REFUSED_IN_CHAT,
    REFUSED_IN_COMPLETIONS,
    Refused,
)
from tgi_llamacpp.router.shapes import (
    I32,
    U32,
    USIZE,
    Anything,
    Boolean,
    Float32,
    Integer,
    ListOf,
    MapOf,
    Nullable,
    Object,
    Shape,
    Text,
)

_SEED = Integer("i64", -(2**63), 2**64 - 1)
_TEXT = Text()
_StreamOptions = tuple[bool, list[str]]  # include_usage, and the names of what is refused


@dataclass(slots=True, kw_only=True)
class SamplingFields:
    """What both routes say about sampling. None is "not given"; floats are already float32."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_tokens: int | None = None  # and its other names; -1 is all the room there is
    max_completion_tokens: int | None = None
    n_predict: int | None = None
    min_tokens: int = 0
    stop: list[str] | None = None
    seed: int | None = None
    n: int | None = None
    n_cmpl: int | None = None  # another name of n
    n_probs: int = 0
    cache_prompt: bool = True
    response_format: object = None
    modalities: list[str] | None = None
    stream: bool = False
    include_usage: bool = False
    ignore_eos: bool = False
    logit_bias: dict[str, float] | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    unsupported: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ChatRequest(SamplingFields):
    """`/v1/chat/completions` and `/chat_tokenize`."""

    messages: list[Message]
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[object] | None = None
    tool_choice: str | None = None  # the name, also of an object
    functions: object = None
    function_call: object = None
    reasoning_effort: str | None = None
    documents: list[dict[str, object]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, object] | None = None


@dataclass(slots=True, kw_only=True)
class CompletionRequest(SamplingFields):
    """`/v1/completions`."""

    prompt: list[Prompt]
    logprobs: int | None = None
    echo: bool = False
    best_of: int | None = None
    suffix: str | None = None


_ANYTHING = Anything()
_LENGTH = Integer("u32 or -1", -1, 2**32 - 1)


def _stream_options(include_usage: bool | None = None, **refused: object) -> _StreamOptions:
    given = [f"stream_options.{name}" for name, value in refused.items() if value is not None]
    return bool(include_usage), given


_STREAM_OPTIONS = Object(
    "StreamOptions",
    _stream_options,
    {"include_usage": Nullable(Boolean()), **OF_STREAM_OPTIONS},
)
_SAMPLING: Mapping[str, Shape[object]] = {
    "model": Nullable(_TEXT),
    "temperature": Nullable(Float32()),
    "top_p": Nullable(Float32()),
    "top_k": Nullable(I32),
    "typical_p": Nullable(Float32()),
    "repetition_penalty": Nullable(Float32()),
    "frequency_penalty": Nullable(Float32()),
    "presence_penalty": Nullable(Float32()),
    "max_tokens": Nullable(_LENGTH),
    "max_completion_tokens": Nullable(_LENGTH),
    "n_predict": Nullable(_LENGTH),
    "min_tokens": Nullable(U32),
    "stop": Nullable(StopField()),
    "seed": Nullable(_SEED),
    "n": Nullable(U32),
    "n_cmpl": Nullable(U32),
    "n_probs": Nullable(U32),
    "cache_prompt": Nullable(Boolean()),
    "response_format": _ANYTHING,
    "modalities": Nullable(ListOf(_TEXT)),
    "stream": Nullable(Boolean()),
    "stream_options": Nullable(_STREAM_OPTIONS),
    "ignore_eos": Nullable(Boolean()),
    "logit_bias": Nullable(MapOf(Float32())),
    "min_p": Nullable(Float32()),
    "repeat_penalty": Nullable(Float32()),
    "repeat_last_n": Nullable(I32),
    "dry_multiplier": Nullable(Float32()),
    "dry_base": Nullable(Float32()),
    "dry_allowed_length": Nullable(I32),
    "dry_penalty_last_n": Nullable(I32),
    "dry_sequence_breakers": Nullable(ListOf(_TEXT)),
    "xtc_probability": Nullable(Float32()),
    "xtc_threshold": Nullable(Float32()),
    "mirostat": Nullable(I32),
    "mirostat_tau": Nullable(Float32()),
    "mirostat_eta": Nullable(Float32()),
}


def _split(fields: dict[str, object], refused: Mapping[str, Refused]) -> dict[str, object]:
    """The fields of a request, with those that are refused gathered under one name."""
    known = {name: value for name, value in fields.items() if value is not None}
    given = [name for name in known if name in refused]
    for name in given:
        del known[name]
    options = known.pop("stream_options", (False, []))
    include_usage, of_stream = cast("_StreamOptions", options)
    return {**known, "include_usage": include_usage, "unsupported": [*given, *of_stream]}


def _chat(**fields: object) -> ChatRequest:
    if fields.get("best_of") == fields.get("n"):  # which chooses nothing
        fields.pop("best_of", None)
    num_top = fields.get("n_probs")
    if num_top and fields.get("logprobs") is None and fields.get("top_logprobs") is None:
        fields.update(logprobs=True, top_logprobs=num_top)
    return ChatRequest(**_split(fields, REFUSED_IN_CHAT))  # type: ignore[arg-type]


def _completion(**fields: object) -> CompletionRequest:
    if fields.get("n_probs") and fields.get("logprobs") is None:
        fields["logprobs"] = fields["n_probs"]
    return CompletionRequest(**_split(fields, REFUSED_IN_COMPLETIONS))  # type: ignore[arg-type]


CHAT = Object(
    "ChatRequest",
    _chat,
    {
        **_SAMPLING,
        "messages": ListOf(MessageField()),
        "logprobs": Nullable(Boolean()),
        "top_logprobs": Nullable(U32),
        "tools": Nullable(ListOf(_ANYTHING)),
        "tool_choice": Nullable(ToolChoiceField()),
        "functions": _ANYTHING,
        "function_call": _ANYTHING,
        "reasoning_effort": Nullable(_TEXT),
        "documents": Nullable(ListOf(Mapped())),
        "add_generation_prompt": Nullable(Boolean()),
        "continue_final_message": Nullable(Boolean()),
        "chat_template_kwargs": Nullable(Mapped()),
        **REFUSED_IN_CHAT,
    },
    required=("messages",),
)

COMPLETION = Object(
    "CompletionRequest",
    _completion,
    {
        **_SAMPLING,
        "prompt": PromptField(),
        "logprobs": Nullable(U32),
        "echo": Nullable(Boolean()),
        "best_of": Nullable(USIZE),
        "suffix": Nullable(_TEXT),
        **REFUSED_IN_COMPLETIONS,
    },
    required=("prompt",),
)
