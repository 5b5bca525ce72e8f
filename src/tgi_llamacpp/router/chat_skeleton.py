"""A rendered chat in which contents are left open, and the places of what is around them.

Knows templates as functions and no tokens. Called by router/content_guard.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tgi_llamacpp.errors import TemplateError
from tgi_llamacpp.router.chat_messages import Message
from tgi_llamacpp.router.control_tokens import PrivateNames

Render = Callable[[list[Message]], str]
Range = tuple[int, int]  # half-open
_MAX_WAYS = 32


class Skeleton:
    """A rendered chat in which contents are left open: literals, and the contents between them."""

    def __init__(self, literals: list[str], contents: list[str]) -> None:
        self.literals = literals
        self._contents = contents

    @classmethod
    def of(
        cls, render: Render, messages: list[Message], is_open: Sequence[bool]
    ) -> Skeleton | None:
        """With the contents left open of the messages that `is_open` says.

        White space stays, for templates pass over messages without a text. None where the template
        complains of the names.
        """
        names = PrivateNames()
        contents: list[str] = []

        def name(content: str) -> str:
            if not content.strip():
                return content
            contents.append(content)
            return names.name(len(contents) - 1)

        try:
            opened = [
                with_texts(message, name) if opens else message
                for message, opens in zip(messages, is_open, strict=True)
            ]
            literals, numbers = names.split(render(opened))
            return cls(literals, [contents[number] for number in numbers])
        except (TemplateError, IndexError):
            return None

    def align(self, text: str) -> list[Range] | None:
        """Where the literals are in `text`; None unless it is they and the contents, and no more.

        Contents may be trimmed, or written as JSON.
        """
        first, *others = self.literals
        if not text.startswith(first):
            return None
        ends: dict[int, _Way] = {len(first): _Way(0, len(first), None)}
        for content, literal in zip(self._contents, others, strict=True):
            forms = _forms(content)
            following: dict[int, _Way] = {}
            for end, way in ends.items():
                for form in forms:
                    start = end + len(form)
                    if text.startswith(form, end) and text.startswith(literal, start):
                        stop = start + len(literal)
                        following.setdefault(stop, _Way(start, stop, way))
            if len(following) > _MAX_WAYS:
                return None
            ends = following
        return _ranges(ends.get(len(text)))


class _Way(NamedTuple):
    """A literal at [start, stop), and how it was come to."""

    start: int
    stop: int
    before: _Way | None


def _ranges(way: _Way | None) -> list[Range] | None:
    if way is None:
        return None
    ranges: list[Range] = []
    while way is not None:
        ranges.append((way.start, way.stop))
        way = way.before
    return ranges[::-1]


def _forms(content: str) -> list[str]:
    """How templates write a content."""
    as_json = json.dumps(content, ensure_ascii=False)[1:-1]
    trimmed = (content.strip(), content.lstrip(), content.rstrip())
    of_lines = (content.strip("\n"), content.lstrip("\n"), content.rstrip("\n"))
    return list(dict.fromkeys((content, *trimmed, *of_lines, as_json)))


def with_texts(message: Message, change: Callable[[str], str]) -> Message:
    """The message with every text of its content changed."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": change(content)}
    if isinstance(content, list):
        return {**message, "content": [_with_text(chunk, change) for chunk in content]}
    return message


def _with_text(chunk: Any, change: Callable[[str], str]) -> Any:
    if isinstance(chunk, str):
        return change(chunk)
    if isinstance(chunk, dict) and isinstance(chunk.get("text"), str):
        return {**chunk, "text": change(chunk["text"])}
    return chunk
