"""Messages as clients send them, made into what chat templates expect.

OpenAI's clients send content as chunks, tool calls with arguments as JSON text and no content;
templates want text, or chunks, and arguments as objects. Called by chat.py alone.
"""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import Any

from tgi_llamacpp.errors import TemplateError

Message = dict[str, Any]


class ContentForm(Enum):
    """What a template takes as a message's content."""

    TEXT = auto()
    CHUNKS = auto()
    EITHER = auto()


def variants(
    messages: list[Message], form: ContentForm, *, keeps_none: bool
) -> list[list[Message]]:
    """The conversation as the template wants it; more than one way where tool calls leave a doubt.

    A template that tests content for none (`keeps_none`) gets None for a call without text, others
    "", which prints as nothing; some templates want arguments as the text they came as.
    """
    chat = [_with_content(message, form) for message in messages]
    if not any(message.get("tool_calls") for message in chat):
        return [[_without_none(message, "") for message in chat]]
    absent = (None, "") if keeps_none else ("", None)
    return [
        [_without_none(_with_arguments(message, parsed), content) for message in chat]
        for content in absent
        for parsed in (True, False)
    ]


def with_known_roles(messages: list[Message], template: str) -> list[Message]:
    """The messages with OpenAI's newer and older roles as those that templates know.

    `developer` becomes `system`, and `function` becomes `tool`, with calls in the form of today,
    unless the template names the role itself.
    """
    stands_for = {
        role: other
        for role, other in (("developer", "system"), ("function", "tool"))
        if re.search(rf"""(['"]){role}\1""", template) is None
    }
    if "function" in stands_for:
        messages = _with_tool_calls(messages)
    return [
        {**message, "role": stands_for.get(message["role"], message["role"])}
        for message in messages
    ]


def _with_tool_calls(messages: list[Message]) -> list[Message]:
    """Old calls of functions, and what those answered, as calls of tools with ids."""
    chat: list[Message] = []
    call_id = ""
    for number, message in enumerate(messages):
        call = message.get("function_call")
        if call is not None and not message.get("tool_calls"):
            call_id = f"call{number:05}"  # nine letters and digits, which Mistral's insist on
            old = {key: value for key, value in message.items() if key != "function_call"}
            tool_call = {"id": call_id, "type": "function", "function": call}
            chat.append({**old, "tool_calls": [tool_call]})
        elif message["role"] == "function" and call_id:
            chat.append({"tool_call_id": call_id, **message})
        else:
            chat.append(message)
    return chat


def _with_content(message: Message, form: ContentForm) -> Message:
    content = message.get("content")
    if isinstance(content, list):
        chunks = [_text_chunk(chunk) for chunk in content]
        if form is ContentForm.TEXT:
            return {**message, "content": "".join(chunk["text"] for chunk in chunks)}
        return {**message, "content": chunks}
    if isinstance(content, str) and form is ContentForm.CHUNKS:
        return {**message, "content": [{"type": "text", "text": content}]}
    return message


def _text_chunk(chunk: object) -> dict[str, Any]:
    """A chunk as text."""
    if isinstance(chunk, str):
        return {"type": "text", "text": chunk}
    if isinstance(chunk, dict):
        if isinstance(chunk.get("text"), str):
            return {**chunk, "type": "text"}
        raise TemplateError(f"content of type {chunk.get('type')!r} is not supported, only text")
    raise TemplateError("a chunk of content is neither an object nor a string")


def _without_none(message: Message, absent: str | None) -> Message:
    """Content that is null or missing becomes `absent`: only a tool call may do without text."""
    if message.get("content") is not None:
        return message
    return {**message, "content": absent if message.get("tool_calls") else ""}


def _with_arguments(message: Message, parsed: bool) -> Message:
    """Tool calls with arguments as objects (`parsed`) or as JSON text."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_call(call, parsed) for call in calls]}


def _call(call: Any, parsed: bool) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if parsed and isinstance(arguments, str):
        arguments = _parsed(arguments)
    elif not parsed and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _parsed(arguments: str) -> Any:
    """The object in the text; what a model made up and is no object stays text."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
