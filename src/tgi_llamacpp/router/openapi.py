"""The OpenAPI 3.1 document of this server, as configured: what it takes and what it answers.

Turns router/openapi_paths.py's table of operations into the document. Request schemas come from the
shapes that check requests, so that the document cannot say something else. Called by router/app.py.
"""

from __future__ import annotations

from tgi_llamacpp import __version__
from tgi_llamacpp.config import RouterConfig
from tgi_llamacpp.router.deadline import HEADER, MAX_TIMEOUT_S
from tgi_llamacpp.router.forecast import MAX_RETRY_AFTER_S
from tgi_llamacpp.router.openapi_answers import answers, either
from tgi_llamacpp.router.openapi_notes import annotate
from tgi_llamacpp.router.openapi_paths import Errors, Operation, Stream, operations
from tgi_llamacpp.router.shapes import Definitions, Schema, reference

_KEY = "apiKey"
_PLAIN: Schema = {"text/plain": {"schema": {"type": "string"}}}
_BODY_STATUSES = (400, 413, 415)
_WORK_STATUSES = (424, 429, 500, 503)
_REASONS = {
    400: "The body is no JSON, or X-Request-Timeout no such number.",
    401: "The API key is missing or wrong.",
    404: "There is no such thing.",
    413: "The body is larger than the payload limit.",
    415: "The content type is not JSON, or the body has a content encoding.",
    422: "The body is no such request, or a rule is broken; the message says which.",
    424: "The engine gave up on the request.",
    429: "The server is full.",
    500: "The generation broke off, or the server has a bug.",
    503: "There is no engine, the server stops, or X-Request-Timeout passed before a token.",
}
_TIMEOUT: Schema = {
    "name": HEADER,
    "in": "header",
    "description": "Seconds from the request's arrival to the end of its answer, as far as it is.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S},
}
_RETRY_AFTER: Schema = {
    "retry-after": {
        "description": "Seconds until room is expected.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_RETRY_AFTER_S},
    }
}
_TIMES = ("total", "validation", "queue", "inference")


def document(config: RouterConfig) -> Schema:
    """The whole document, as plain values."""
    definitions = answers()
    paths: dict[str, Schema] = {}
    for path, methods in operations(config).items():
        paths[path] = {
            method.lower(): _operation(method, path, operation, config, definitions)
            for method, operation in methods.items()
        }
    annotate(definitions, config.limits)
    components: Schema = {"schemas": definitions}
    if config.needs_key:
        components["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tgi-llamacpp",
            "version": __version__,
            "description": "The HTTP APIs of text-generation-inference and OpenAI, on llama.cpp.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": components,
    }


def _operation(
    method: str, path: str, operation: Operation, config: RouterConfig, definitions: Definitions
) -> Schema:
    asks_key = config.needs_key and method == "POST"
    result: Schema = {
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(operation, asks_key),
    }
    if asks_key:
        result["security"] = [{_KEY: []}]
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [_path_parameter(name, operation) for name in names]
    if operation.body is not None and operation.is_work:
        parameters.append(_TIMEOUT)
    if parameters:
        result["parameters"] = parameters
    if operation.body is not None:
        schema = operation.body.schema(definitions)
        result["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return result


def _path_parameter(name: str, operation: Operation) -> Schema:
    # OpenAI's model ids have slashes; an SDK sends them encoded.
    pattern = "^[^\\n]+$" if operation.errors is Errors.OPENAI else "^[^/]+$"
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _responses(operation: Operation, asks_key: bool) -> Schema:
    result: Schema = {"200": _success(operation)}
    errors = operation.errors
    json: Schema = {"application/json": {"schema": _error_schema(errors)}}
    statuses = dict.fromkeys(operation.statuses, json)
    if operation.body is not None:
        of_body = json if errors is Errors.OPENAI else _PLAIN
        statuses |= dict.fromkeys(_BODY_STATUSES, of_body)
        has_both = operation.answer is not None
        statuses[422] = {**of_body, **json} if has_both else of_body
    if operation.answer is not None and operation.is_work:
        statuses |= dict.fromkeys(_WORK_STATUSES, json)
    elif operation.body is not None:
        statuses |= dict.fromkeys((429, 500), json)
    for status, content in sorted(statuses.items()):
        said: Schema = {"description": _REASONS[status], "content": content}
        result[str(status)] = {**said, "headers": _RETRY_AFTER} if status == 429 else said
    if asks_key:
        result["401"] = {"description": _REASONS[401]}
        if errors is not Errors.FLAT:
            result["401"] = {"description": _REASONS[401], "content": json}
    return result


def _error_schema(errors: Errors) -> Schema:
    flat, nested = reference("ErrorResponse"), reference("OpenAIErrorResponse")
    if errors is Errors.EITHER:
        return either(flat, nested)
    return nested if errors is Errors.OPENAI else flat


def _success(operation: Operation) -> Schema:
    content: Schema = {}
    if operation.answer is not None:
        content[operation.answer_type] = {"schema": operation.answer}
    if operation.stream is not None:
        content["text/event-stream"] = _event_stream(operation.stream)
    response: Schema = {"description": operation.says}
    if content:
        response["content"] = content
    if operation.has_headers:
        response["headers"] = _headers()
    return response


def _event_stream(stream: Stream) -> Schema:
    """OpenAPI 3.1 has no words for events: the schema is of one event, as 3.2 will have it."""
    data: Schema = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": stream.event,
    }
    if stream.ends_with_done:
        data = either({"const": "[DONE]", "description": "The last event."}, data)
    return {
        "schema": {
            "type": "object",
            "description": "One of the server-sent events. An idle stream has comments, `:`.",
            "properties": {"data": data},
            "required": ["data"],
        }
    }


def _headers() -> Schema:
    """Of whole answers; a stream has the first two alone."""
    number: Schema = {"schema": {"type": "integer", "minimum": 0}}
    texts: Schema = {
        "x-compute-type": {"schema": {"type": "string"}},
        "x-compute-characters": {**number, "description": "Characters of the prompt."},
    }
    texts["x-compute-time"] = {"schema": {"type": "number"}, "description": "Seconds."}
    for name in _TIMES:
        texts[f"x-{name}-time"] = {**number, "description": "Milliseconds."}
    texts["x-time-per-token"] = {**number, "description": "Milliseconds."}
    for name in ("prompt", "generated"):
        texts[f"x-{name}-tokens"] = number
    return texts
