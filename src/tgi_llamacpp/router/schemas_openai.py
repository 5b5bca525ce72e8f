"""What the OpenAI routes take: OpenAI's fields, TGI's extensions, and what is refused by name.

Owns names, types and nullability. Unknown keys are ignored, as TGI does; keys that are known and
not supported are collected, so that router/openai.py can refuse them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tgi_llamacpp.router.fields_openai import (
    Mapped,
    Message,
    MessageField,
    Prompt,
    PromptField,
    StopField,
    ToolChoiceField,
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

_REFUSED = (
    "grammar",
    "adapter_id",
    "watermark",
)
_REFUSED_IN_CHAT = (
    *_REFUSED,
    "functions",
    "function_call",
    "audio",
    "web_search_options",
    "chat_template",
    "best_of",
    "echo",
    "suffix",
)


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
    max_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    n: int | None = None
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
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[object] | None = None
    tool_choice: str | None = None  # the name, also of an object
    response_format: object = None
    modalities: list[str] | None = None
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
_NOT_SUPPORTED = Anything("Refused by name, unless it is null, false or empty.")
_STREAM_OPTIONS = Object(
    "StreamOptions",
    lambda include_usage=False: include_usage,
    {"include_usage": Nullable(Boolean())},
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
    "max_tokens": Nullable(U32),
    "stop": Nullable(StopField()),
    "seed": Nullable(_SEED),
    "n": Nullable(U32),
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


def _split(fields: dict[str, object], refused: tuple[str, ...]) -> dict[str, object]:
    """The fields of a request, with those that are refused gathered under one name."""
    given = [name for name in refused if fields.pop(name, None) not in (None, False, {}, [], "")]
    include_usage = bool(fields.pop("stream_options", False))
    known = {name: value for name, value in fields.items() if value is not None}
    return {**known, "include_usage": include_usage, "unsupported": given}


def _chat(**fields: object) -> ChatRequest:
    return ChatRequest(**_split(fields, _REFUSED_IN_CHAT))  # type: ignore[arg-type]


def _completion(**fields: object) -> CompletionRequest:
    return CompletionRequest(**_split(fields, _REFUSED))  # type: ignore[arg-type]


CHAT = Object(
    "ChatRequest",
    _chat,
    {
        **_SAMPLING,
        "messages": ListOf(MessageField()),
        "max_completion_tokens": Nullable(U32),
        "logprobs": Nullable(Boolean()),
        "top_logprobs": Nullable(U32),
        "tools": Nullable(ListOf(_ANYTHING)),
        "tool_choice": Nullable(ToolChoiceField()),
        "response_format": _ANYTHING,
        "modalities": Nullable(ListOf(_TEXT)),
        "documents": Nullable(ListOf(Mapped())),
        "add_generation_prompt": Nullable(Boolean()),
        "continue_final_message": Nullable(Boolean()),
        "chat_template_kwargs": Nullable(Mapped()),
        **dict.fromkeys(_REFUSED_IN_CHAT, _NOT_SUPPORTED),
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
        **dict.fromkeys(_REFUSED, _NOT_SUPPORTED),
    },
    required=("prompt",),
)
