"""The OpenAPI document says what the server does, and a browser can read it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.conftest import MakeServer, RunningServer, sse_data

DIALECT = "https://json-schema.org/draft/2020-12/schema"
HI = [{"role": "user", "content": "hi"}]
WORDS = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
CALL = {"function": {"name": "f", "arguments": "{}"}, "id": "1", "type": "function"}
CALLS = [*HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
OF_THE_PAGE = {"/docs", "/docs/", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"}
FULL = {"details": True, "top_n_tokens": 2, "stop": ["x"]}
DRAWN = {"details": True, "best_of": 2, "do_sample": True}


@pytest.fixture(scope="module")
def document(shared_server: RunningServer) -> Any:
    return httpx.get(f"{shared_server.url}/api-doc/openapi.json").json()


def checker(document: Any, schema: Any) -> Any:
    """A validator of one schema among the document's components."""
    return jsonschema_rs.validator_for({**schema, "components": document["components"]})


def walk(value: object) -> Iterator[tuple[str, object]]:
    """Every member of every object in it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def described(document: Any) -> set[tuple[str, str]]:
    return {(method.upper(), p) for p, methods in document["paths"].items() for method in methods}


def served(server: RunningServer) -> set[tuple[str, str]]:
    return {
        (method, route.path.replace(":path}", "}"))
        for route in server.app.routes
        for method in route.endpoint._methods
        if route.path not in OF_THE_PAGE
    }


def test_every_route_is_described_and_every_described_one_is_there(
    document: Any, shared_server: RunningServer
) -> None:
    assert described(document) == served(shared_server)
    assert document["openapi"] == "3.1.0"


def test_every_name_is_defined_and_used(document: Any) -> None:
    names = {item for key, item in walk(document) if key == "$ref"}
    defined = document["components"]["schemas"]
    assert names == {f"#/components/schemas/{name}" for name in defined}
    for schema in defined.values():
        jsonschema_rs.meta.validate({**schema, "$schema": DIALECT})


BODIES = [
    ("/generate", {"inputs": "a"}),
    ("/generate", {"inputs": "a", "parameters": FULL}),
    ("/generate", {"inputs": "a", "parameters": DRAWN}),
    ("/", {"inputs": "a", "parameters": {"seed": 2**64 - 1, "temperature": None}}),
    ("/tokenize", {"inputs": "a b"}),
    ("/chat_tokenize", {"messages": WORDS}),
    ("/vertex", {"instances": [{"inputs": "a", "parameters": None}, {"messages": HI}]}),
    ("/invocations", {"inputs": "a"}),
    ("/invocations", {"messages": HI}),
    ("/invocations", {"prompt": "a"}),
    ("/v1/chat/completions", {"messages": HI, "n": 2, "stop": "x", "model": None}),
    ("/v1/chat/completions", {"messages": CALLS, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": HI, "tool_choice": "auto", "best_of": 1}),
    ("/v1/completions", {"prompt": ["a", [1, 2]], "logprobs": 2, "stop": ["x", "y"]}),
    ("/v1/completions", {"prompt": [1, 2], "echo": True}),
    ("/v1/completions", {"prompt": [1, 2], "echo": True, "logprobs": 2, "max_tokens": 0}),
    ("/generate", {"inputs": "a", "parameters": {"decoder_input_details": True}}),
    (
        "/v2/models/{name}/versions/{version}/infer",
        {
            "id": "1",
            "inputs": [{"name": "a", "shape": [1, 1], "datatype": "BYTES", "data": [72]}],
            "outputs": [{"name": "b"}],
        },
    ),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_bodies_and_answers_are_as_described(
    http: httpx.Client, document: Any, path: str, body: dict[str, Any]
) -> None:
    operation = document["paths"][path]["post"]
    checker(document, operation["requestBody"]["content"]["application/json"]["schema"]).validate(
        body
    )
    response = http.post(path, json=body)
    assert response.status_code == 200
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    checker(document, answer).validate(response.json())
    told = operation["responses"]["200"].get("headers", {})
    assert {name for name in response.headers if name.startswith("x-")} <= set(told)


STREAMS = [
    ("/generate_stream", {"inputs": "a", "parameters": {"details": True, "top_n_tokens": 1}}),
    ("/generate_stream", {"inputs": ""}),
    ("/", {"inputs": "a", "stream": True}),
    ("/v1/chat/completions", {"messages": HI, "stream": True, "logprobs": True}),
    (
        "/v1/completions",
        {"prompt": "a", "stream": True, "stream_options": {"include_usage": True}, "logprobs": 1},
    ),
]


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_events_are_as_described(
    http: httpx.Client, document: Any, path: str, body: dict[str, Any]
) -> None:
    responses = document["paths"][path]["post"]["responses"]
    schema = responses["200"]["content"]["text/event-stream"]["schema"]
    forms = schema["properties"]["data"].get("anyOf", [schema["properties"]["data"]])
    events = sse_data(http.post(path, json=body))
    for form in forms:
        if "const" in form:
            assert events.pop() == form["const"]
        else:
            event = checker(document, form["contentSchema"])
    for data in events:
        event.validate(json.loads(data))


WRONG = [
    ("/generate", b"{", "application/json", 400),
    ("/generate", b"{}", "application/json", 422),
    ("/generate", b'{"inputs":""}', "application/json", 422),
    ("/generate", b'{"inputs":"a"}', "text/plain", 415),
    ("/chat_tokenize", b'{"messages":[],"n":0}', "application/json", 422),
    ("/vertex", b'{"instances":[]}', "application/json", 422),
    ("/invocations", b'{"messages":[],"n":0}', "application/json", 422),
    ("/v1/completions", b"{", "application/json", 400),
    ("/v1/completions", b"{}", "application/json", 422),
    ("/v1/completions", b"{}", "text/plain", 415),
]


@pytest.mark.parametrize(("path", "body", "content_type", "status"), WRONG)
def test_errors_are_as_described(
    http: httpx.Client, document: Any, path: str, body: bytes, content_type: str, status: int
) -> None:
    response = http.post(path, content=body, headers={"content-type": content_type})
    assert response.status_code == status
    contents = document["paths"][path]["post"]["responses"][str(status)]["content"]
    kind = response.headers["content-type"].partition(";")[0]
    value = response.text if kind == "text/plain" else response.json()
    checker(document, contents[kind]["schema"]).validate(value)


def test_limits_are_those_of_this_server(make_server: MakeServer) -> None:
    server = make_server(limits={"max_best_of": 7}, api_key="k")
    document = httpx.get(f"{server.url}/api-doc/openapi.json").json()
    parameters = document["components"]["schemas"]["GenerateParameters"]["properties"]
    assert parameters["best_of"]["maximum"] == 7
    generate = document["paths"]["/generate"]["post"]
    assert generate["security"] == [{"apiKey": []}]
    assert "content" not in generate["responses"]["401"]
    assert "content" in document["paths"]["/v1/completions"]["post"]["responses"]["401"]
    assert "security" not in document["paths"]["/info"]["get"]


def test_a_browser_finds_the_document_without_leaving_this_server(http: httpx.Client) -> None:
    redirect = http.get("/docs")
    assert redirect.status_code == 303
    page = http.get("/docs", follow_redirects=True)
    assert page.url.path == "/docs/"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "http:" not in page.text
    assert "https:" not in page.text
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f'"{name}"' in page.text
        assert len(http.get(f"/docs/{name}").content) > 100_000
    assert b'PACKAGE_VERSION:"5.' in http.get("/docs/swagger-ui-bundle.js").content
    assert http.get("/docs/nothing").status_code == 404
