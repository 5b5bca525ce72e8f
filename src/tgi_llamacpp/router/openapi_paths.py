"""The operations of the OpenAPI document: every path and method, its body and its answer.

A table in the order of the document. router/app.py has the handlers of the same paths, and a test
holds the two together; router/openapi.py turns the table into the document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from tgi_llamacpp.config import RouterConfig
from tgi_llamacpp.router.kserve import INFERENCE
from tgi_llamacpp.router.openapi_answers import array, either
from tgi_llamacpp.router.platforms import SAGEMAKER, VERTEX
from tgi_llamacpp.router.schemas_openai import CHAT, COMPLETION
from tgi_llamacpp.router.schemas_tgi import COMPAT, GENERATE
from tgi_llamacpp.router.shapes import Schema, Shape, reference


class Errors(Enum):
    """The form that a route's errors have."""

    FLAT = auto()
    OPENAI = auto()
    EITHER = auto()


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events, of one schema."""

    event: Schema
    ends_with_done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. Statuses are those beside what a body and its work can lead to."""

    summary: str
    tag: str
    says: str = "The answer."
    body: Shape[object] | None = None
    answer: Schema | None = None
    answer_type: str = "application/json"
    stream: Stream | None = None
    errors: Errors = Errors.FLAT
    statuses: tuple[int, ...] = ()
    is_work: bool = True  # it generates
    has_headers: bool = False


Operations = Mapping[str, Mapping[str, Operation]]

_ONE = reference("GenerateResponse")
_CHAT = reference("ChatCompletion")
_COMPLETION = reference("Completion")
_GENERATE_STREAM = Stream(either(reference("StreamResponse"), reference("ErrorResponse")))
_CHAT_STREAM = Stream(
    either(reference("ChatCompletionChunk"), reference("OpenAIErrorResponse")),
    ends_with_done=True,
)
_COMPLETION_STREAM = Stream(
    either(reference("CompletionChunk"), reference("OpenAIErrorResponse")), ends_with_done=True
)
_ANY_STREAM = Stream(
    either(_GENERATE_STREAM.event, _CHAT_STREAM.event, _COMPLETION_STREAM.event),
    ends_with_done=True,
)
_HEALTH = Operation(
    summary="Whether the server can generate",
    tag="Server",
    says="It can. The body is empty.",
    statuses=(503,),
)
_VERTEX = Operation(
    summary="Vertex AI: several requests, their texts in order",
    tag="Platforms",
    body=VERTEX,
    answer=reference("VertexResponse"),
)


def operations(config: RouterConfig) -> Operations:
    """All of them, with the paths that Vertex AI asked for."""
    table = {path: dict(methods) for path, methods in _fixed().items()}
    if config.aip_predict_route is not None:
        table.setdefault(config.aip_predict_route, {}).setdefault("POST", _VERTEX)
    if config.aip_health_route is not None:
        table.setdefault(config.aip_health_route, {}).setdefault("GET", _HEALTH)
    return table


def _fixed() -> Operations:
    return {**_tgi(), **_openai(), **_server(), **_platforms(), **_kserve()}


def _tgi() -> Operations:
    return {
        "/generate": {
            "POST": Operation(
                summary="Generate, and answer when all is there",
                tag="TGI",
                body=GENERATE,
                answer=_ONE,
                has_headers=True,
            )
        },
        "/generate_stream": {
            "POST": Operation(
                summary="Generate, with one event a token",
                tag="TGI",
                says="Events. An error after the body was read is an event too, and the last one.",
                body=GENERATE,
                stream=_GENERATE_STREAM,
            )
        },
        "/": {
            "POST": Operation(
                summary="Generate, whole or as a stream, with the prompt before the text",
                tag="TGI",
                body=COMPAT,
                answer=array(_ONE),
                stream=_GENERATE_STREAM,
                has_headers=True,
            ),
            "GET": _HEALTH,
        },
        "/tokenize": {
            "POST": Operation(
                summary="The tokens of a prompt, with byte offsets",
                tag="TGI",
                body=GENERATE,
                answer=array(reference("SimpleToken")),
                is_work=False,
            )
        },
        "/chat_tokenize": {
            "POST": Operation(
                summary="The prompt that a chat becomes, and its tokens",
                tag="TGI",
                body=CHAT,
                answer=reference("ChatTokenizeResponse"),
                is_work=False,
            )
        },
    }


def _openai() -> Operations:
    models = Operation(
        summary="The model",
        tag="OpenAI",
        answer=reference("ModelList"),
        errors=Errors.OPENAI,
        statuses=(503,),
        is_work=False,
    )
    model = Operation(
        summary="The model, by its name",
        tag="OpenAI",
        answer=reference("Model"),
        errors=Errors.OPENAI,
        statuses=(404, 503),
        is_work=False,
    )
    return {
        "/v1/chat/completions": {
            "POST": Operation(
                summary="Answer a chat",
                tag="OpenAI",
                body=CHAT,
                answer=_CHAT,
                stream=_CHAT_STREAM,
                errors=Errors.OPENAI,
                has_headers=True,
            )
        },
        "/v1/completions": {
            "POST": Operation(
                summary="Complete prompts",
                tag="OpenAI",
                body=COMPLETION,
                answer=_COMPLETION,
                stream=_COMPLETION_STREAM,
                errors=Errors.OPENAI,
                has_headers=True,
            )
        },
        "/v1/models": {"GET": models},
        "/v1/models/{model_id}": {"GET": model},
    }


def _server() -> Operations:
    metrics = Operation(
        summary="Metrics, for Prometheus",
        tag="Server",
        answer={"type": "string"},
        answer_type="text/plain",
        is_work=False,
    )
    return {
        "/health": {"GET": _HEALTH},
        "/ping": {"GET": _HEALTH},
        "/info": {"GET": _read("The model and the limits", reference("Info"))},
        "/metrics": {"GET": metrics},
        "/api-doc/openapi.json": {"GET": _read("This document", {"type": "object"})},
    }


def _read(summary: str, answer: Schema, *statuses: int, tag: str = "Server") -> Operation:
    return Operation(summary=summary, tag=tag, answer=answer, statuses=statuses, is_work=False)


def _platforms() -> Operations:
    invocations = Operation(
        summary="SageMaker: the body decides which of /, chat and completions answers",
        tag="Platforms",
        body=SAGEMAKER,
        answer=either(array(_ONE), _CHAT, _COMPLETION),
        stream=_ANY_STREAM,
        errors=Errors.EITHER,
        has_headers=True,
    )
    return {"/invocations": {"POST": invocations}, "/vertex": {"POST": _VERTEX}}


def _kserve() -> Operations:
    model = "/v2/models/{name}/versions/{version}"
    live, metadata = reference("Live"), reference("Metadata")
    infer = Operation(
        summary="KServe: generate for every input, outputs in order",
        tag="KServe",
        body=INFERENCE,
        answer=reference("InferenceResponse"),
    )
    return {
        "/v2": {"GET": _read("The server", metadata, tag="KServe")},
        "/v2/health/live": {"GET": _read("Whether this process answers", live, tag="KServe")},
        "/v2/health/ready": {"GET": _read("Whether it can generate", live, 503, tag="KServe")},
        model: {"GET": _read("The model", metadata, tag="KServe")},
        f"{model}/ready": {"GET": _read("Whether it can generate", live, 503, tag="KServe")},
        f"{model}/infer": {"POST": infer},
    }
