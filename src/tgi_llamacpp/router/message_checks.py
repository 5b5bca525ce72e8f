"""Whether a chat's messages can be put before a text model, told in plain words.

Owns the rules for contents, their parts and calls. The types of roles and names are
router/fields_openai.py's; what templates make of messages is router/chat_messages.py's.
"""

from __future__ import annotations

from tgi_llamacpp.errors import ValidationError
from tgi_llamacpp.router.fields_openai import Message
from tgi_llamacpp.router.json_format import dumps

_MAX_QUOTED_CHARS = 40


def check_messages(messages: list[Message]) -> None:
    """Raises ValidationError for the first message that cannot be taken; all blame `messages`."""
    if not messages:
        raise _refusal("`messages` must have at least one message. Given: an empty list")
    for number, message in enumerate(messages):
        _check_message(f"messages[{number}]", message)


def _check_message(place: str, message: Message) -> None:
    has_calls = _has_calls(place, message)
    content = message.get("content")
    if isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(f"{place}.content[{number}]", part)
    elif not isinstance(content, str) and not (content is None and has_calls):
        given = _kind(content) if "content" in message else "none"
        raise _refusal(
            f"`{place}.content` must be a string or a list of parts of type `text`. Given: {given}"
        )


def _check_part(place: str, part: object) -> None:
    if not isinstance(part, dict):
        raise _refusal(f"`{place}` must be an object with a `type`. Given: {_kind(part)}")
    kind = part.get("type")
    if kind != "text":
        raise _refusal(
            f"`{place}` must be of type `text`, for this model takes text alone."
            f" Given: {_quoted(kind)}"
        )
    if not isinstance(part.get("text"), str):
        raise _refusal(f"`{place}.text` must be a string. Given: {_kind(part.get('text'))}")


def _has_calls(place: str, message: Message) -> bool:
    """Whether there are calls, which may stand for a content."""
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise _refusal(f"`{place}.tool_calls` must be a list. Given: {_kind(calls)}")
    for number, call in enumerate(calls or []):
        function = call.get("function") if isinstance(call, dict) else None
        _check_function(f"{place}.tool_calls[{number}].function", function)
    old_call = message.get("function_call")
    if old_call is not None:
        _check_function(f"{place}.function_call", old_call)
    return bool(calls) or old_call is not None


def _check_function(place: str, function: object) -> None:
    if (
        not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
        or not ("arguments" in function or "parameters" in function)
    ):
        raise _refusal(f"`{place}` must be an object with a `name` and `arguments`")


def _refusal(reason: str) -> ValidationError:
    return ValidationError(reason, "messages")


def _quoted(value: object) -> str:
    """A string as the client wrote it, in the words that router/exchange.py keeps out of logs."""
    if isinstance(value, str):
        return f"string {dumps(value[:_MAX_QUOTED_CHARS])}"
    return _kind(value)


def _kind(value: object) -> str:
    """What a JSON value is; its text may be long, or private."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")
