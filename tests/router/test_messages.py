"""What of a chat's messages is taken, and how a client is told of the rest, on every route."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

CHAT, TOKENIZE = "/v1/chat/completions", "/chat_tokenize"
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OLD_CALL = {"name": "f", "arguments": "{}"}


def post(http: httpx.Client, route: str, messages: list[dict[str, Any]]) -> httpx.Response:
    body: dict[str, Any] = {"messages": messages}
    return http.post(route, json={"instances": [body]} if route == "/vertex" else body)


def message_of(response: httpx.Response) -> str:
    """The sentence, wherever the route has it."""
    body = response.json()
    error = body["error"]
    if isinstance(error, dict):
        assert error["param"] == "messages"
        error = error["message"]
    assert body["error_type"] == "validation"
    return str(error)


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


PARTS: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    {"type": "image_url", "image_url": "https://host/picture.png"},
    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    {"type": "file", "file": {"file_id": "f"}},
    {"type": "video_url", "video_url": {"url": "u"}},
    {"type": "input_text", "text": "hi"},
]


@pytest.mark.parametrize("route", [CHAT, TOKENIZE, "/invocations", "/vertex"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part["type"])
def test_a_part_that_is_no_text_is_refused_by_its_type(
    http: httpx.Client, route: str, part: dict[str, Any]
) -> None:
    words = {"type": "text", "text": "What is this?"}
    response = post(http, route, [user("hi"), user([words, part])])
    assert response.status_code == 422
    assert message_of(response) == (
        "Input validation error: `messages[1].content[1]` must be of type `text`, for this model"
        f' takes text alone. Given: string "{part["type"]}"'
    )


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "`messages` must have at least one message. Given: an empty list"),
        (
            [user(None)],
            "`messages[0].content` must be a string or a list of parts of type `text`. Given: null",
        ),
        (
            [{"role": "assistant"}],
            "`messages[0].content` must be a string or a list of parts of type `text`. Given: none",
        ),
        (
            [user({"text": "hi"})],
            "`messages[0].content` must be a string or a list of parts of type `text`."
            " Given: an object",
        ),
        (
            [user(["hi"])],
            "`messages[0].content[0]` must be an object with a `type`. Given: a string",
        ),
        (
            [user([{"type": "text"}])],
            "`messages[0].content[0].text` must be a string. Given: null",
        ),
        (
            [user([{"text": "hi"}])],
            "`messages[0].content[0]` must be of type `text`, for this model takes text alone."
            " Given: null",
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": []}],
            "`messages[0].content` must be a string or a list of parts of type `text`. Given: null",
        ),
        (
            [user("a"), {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}],
            "`messages[1].tool_calls[0].function` must be an object with a `name` and `arguments`",
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": {}}],
            "`messages[0].tool_calls` must be a list. Given: an object",
        ),
        (
            [{"role": "assistant", "function_call": {"arguments": "{}"}}],
            "`messages[0].function_call` must be an object with a `name` and `arguments`",
        ),
    ],
)
@pytest.mark.parametrize("route", [CHAT, TOKENIZE])
def test_a_message_that_cannot_be_taken_is_told_in_a_sentence(
    http: httpx.Client, route: str, messages: list[dict[str, Any]], told: str
) -> None:
    response = post(http, route, messages)
    assert response.status_code == 422
    assert message_of(response) == f"Input validation error: {told}"


@pytest.mark.parametrize(
    "messages",
    [
        [user("hi")],
        [user([])],
        [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])],
        [{"role": "assistant", "content": None, "tool_calls": [CALL]}, user("a")],
        [{"role": "assistant", "content": "b", "tool_calls": None, "function_call": None}],
        [{"role": "assistant", "content": None, "function_call": OLD_CALL}, user("a")],
        [{"role": "developer", "content": "a"}, user("a")],
        [user("a"), {"role": "function", "name": "f", "content": "a"}],
    ],
)
def test_what_clients_send_is_taken(http: httpx.Client, messages: list[dict[str, Any]]) -> None:
    for route in (CHAT, TOKENIZE, "/invocations", "/vertex"):
        assert post(http, route, messages).status_code == 200, route
