"""What the routes answer, as JSON Schema: every object of the wire, named and closed.

The objects are written by router/render_*.py and by the handlers. Read by router/openapi.py.
"""

from __future__ import annotations

from tgi_llamacpp.router.shapes import Definitions, Schema, reference


def array(items: Schema) -> Schema:
    """A list of these."""
    return {"type": "array", "items": items}


def either(*schemas: Schema) -> Schema:
    """One of several forms."""
    return {"anyOf": list(schemas)}


def _closed(**members: Schema) -> Schema:
    """An object of these members and no others; all are always there, see `_maybe`."""
    return {
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


def _maybe(*names: str, of: Schema) -> Schema:
    """The object, where these members may be missing."""
    required = of["required"]
    assert isinstance(required, list)
    return {**of, "required": [name for name in required if name not in names]}


def _nullable(schema: Schema) -> Schema:
    return either(schema, {"type": "null"})


def _constant(value: str) -> Schema:
    return {"const": value}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_TOKEN_ID: Schema = {"type": "integer", "minimum": 0}
_LOGPROB: Schema = {
    "type": ["number", "null"],
    "format": "float",
    "description": "Of the model's own distribution; null where it is not a finite number.",
}
_FINISH: Schema = {"enum": ["length", "eos_token", "stop_sequence"]}
_OPENAI_FINISH: Schema = {"enum": ["stop", "length", None]}
_LIMITS = (
    "max_concurrent_requests",
    "max_best_of",
    "max_stop_sequences",
    "max_input_tokens",
    "max_total_tokens",
    "validation_workers",
    "max_client_batch_size",
)
_SEED: Schema = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**64 - 1}


def answers() -> Definitions:
    """All of them, by name."""
    return {**_errors(), **_generate(), **_server(), **_openai(), **_chat(), **_completion()}


def _errors() -> Definitions:
    details = _closed(message=_TEXT, type=_TEXT, param=_nullable(_TEXT), code=_TEXT)
    return {
        "ErrorResponse": _closed(error=_TEXT, error_type=_TEXT),
        "OpenAIErrorResponse": _closed(error=details, error_type=_TEXT),
    }


def _generate() -> Definitions:
    token = reference("Token")
    outcome = {"finish_reason": _FINISH, "generated_tokens": _COUNT, "seed": _SEED}
    tops = array(array(token))
    whole = {**outcome, "prefill": array(reference("PrefillToken")), "tokens": array(token)}
    best_of = array(reference("BestOfSequence"))
    event = _closed(
        index={"type": "integer", "minimum": 1},
        token=token,
        top_tokens=array(token),
        generated_text=_nullable(_TEXT),
        details=_nullable(reference("StreamDetails")),
    )
    return {
        "Token": _closed(id=_TOKEN_ID, text=_TEXT, logprob=_LOGPROB, special=_FLAG),
        "PrefillToken": _closed(id=_TOKEN_ID, text=_TEXT, logprob=_LOGPROB),
        "BestOfSequence": _maybe(
            "top_tokens", of=_closed(generated_text=_TEXT, **whole, top_tokens=tops)
        ),
        "Details": _maybe(
            "best_of_sequences",
            "top_tokens",
            of=_closed(**whole, best_of_sequences=best_of, top_tokens=tops),
        ),
        "GenerateResponse": _maybe(
            "details", of=_closed(generated_text=_TEXT, details=reference("Details"))
        ),
        "StreamDetails": _closed(**outcome, input_length=_COUNT),
        "StreamResponse": _maybe("top_tokens", of=event),
        "SimpleToken": _closed(id=_TOKEN_ID, text=_TEXT, start=_COUNT, stop=_COUNT),
        "ChatTokenizeResponse": _closed(
            tokenize_response=array(reference("SimpleToken")), templated_text=_TEXT
        ),
        "VertexResponse": _closed(predictions=array(_TEXT)),
    }


def _server() -> Definitions:
    limits = dict.fromkeys(_LIMITS, _COUNT)
    maybe = _nullable(_TEXT)
    metadata = _closed(name=_TEXT, version=_TEXT, extensions=array(_TEXT))
    data = array({"type": "integer", "minimum": 0, "maximum": 255})
    output = _closed(name=_TEXT, shape=array(_COUNT), datatype=_constant("BYTES"), data=data)
    return {
        "Info": _closed(
            model_id=_TEXT,
            model_sha=maybe,
            model_pipeline_tag=maybe,
            **limits,
            router=_TEXT,
            version=_TEXT,
            sha=maybe,
            docker_label=maybe,
        ),
        "Live": _closed(live=_FLAG),
        "Metadata": metadata,
        "InferenceOutput": output,
        "InferenceResponse": _closed(id=_TEXT, outputs=array(reference("InferenceOutput"))),
    }


def _openai() -> Definitions:
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {
        "Model": _closed(
            id=_TEXT, object=_constant("model"), created={"type": "integer"}, owned_by=_TEXT
        ),
        "ModelList": _closed(object=_constant("list"), data=array(reference("Model"))),
        "Usage": _closed(
            **dict.fromkeys(counts, _COUNT), prompt_tokens_details=_closed(cached_tokens=_COUNT)
        ),
    }


def _answer(kind: str, choice: Schema, usage: Schema) -> Schema:
    return _closed(
        object=_constant(kind),
        id=_TEXT,
        created={"type": "integer", "description": "Seconds since 1970."},
        model=_TEXT,
        system_fingerprint=_TEXT,
        choices=array(choice),
        usage=usage,
    )


def _chat() -> Definitions:
    data = _nullable(array({"type": "integer", "minimum": 0, "maximum": 255}))
    token: Definitions = {"token": _TEXT, "logprob": _LOGPROB, "bytes": data}
    logprobs = _closed(content=array(reference("ChatLogprob")), refusal={"type": "null"})
    rest = {"logprobs": _nullable(reference("ChatLogprobs")), "finish_reason": _OPENAI_FINISH}
    message = _closed(role=_constant("assistant"), content=_TEXT)
    delta = _maybe("role", of=message)
    choice = _closed(index=_COUNT, message=message, **rest)
    chunk = _closed(index=_COUNT, delta=delta, **rest)
    usage = reference("Usage")
    return {
        "ChatLogprob": _closed(**token, top_logprobs=array(_closed(**token))),
        "ChatLogprobs": logprobs,
        "ChatCompletion": _answer("chat.completion", choice, usage),
        "ChatCompletionChunk": _answer("chat.completion.chunk", chunk, _nullable(usage)),
    }


def _completion() -> Definitions:
    tops: Schema = {"type": "object", "additionalProperties": _LOGPROB}
    choice = _closed(
        index=_COUNT,
        text=_TEXT,
        logprobs=_nullable(reference("CompletionLogprobs")),
        finish_reason=_OPENAI_FINISH,
    )
    usage = reference("Usage")
    return {
        "CompletionLogprobs": _closed(
            tokens=array(_TEXT),
            token_logprobs=array(_LOGPROB),
            top_logprobs=array(_nullable(tops)),  # null for the first token of a prompt
            text_offset=array(_COUNT),
        ),
        "Completion": _answer("text_completion", choice, usage),
        "CompletionChunk": _answer("text_completion", choice, _nullable(usage)),
    }
