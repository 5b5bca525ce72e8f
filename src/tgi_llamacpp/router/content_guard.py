"""What becomes of control tokens that clients write inside messages: refused, or kept plain.

By default nothing here runs, and they are parsed, as TGI does. Contents are told from what the
template writes by rendering twice, with the contents and with private names in their places; where
the two do not add up, the request is refused. Called by the chat routes, in a validation worker.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tgi_llamacpp.errors import TemplateError, ValidationError
from tgi_llamacpp.router.chat_messages import Message
from tgi_llamacpp.router.control_tokens import (
    ControlTokens,
    Found,
    PrivateNames,
    SelectiveTokenizer,
)
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, TokenSpan

Render = Callable[[list[Message]], str]
_MAX_WAYS = 32


@dataclass(frozen=True, slots=True)
class GuardedPrompt:
    """A rendered chat. `ids` and `spans` are None where the tokenizer may read the text freely."""

    text: str
    ids: list[int] | None = None
    spans: list[TokenSpan] | None = None


class ContentGuard:
    """Renders chats in which only the template's own control tokens are control tokens.

    With `tokenizer` those in contents are plain text, without it they are refused.
    """

    def __init__(self, control: ControlTokens, tokenizer: SelectiveTokenizer | None) -> None:
        self._control = control
        self._tokenizer = tokenizer
        self._flag = f"--special-tokens-in-content {'refuse' if tokenizer is None else 'plain'}"

    def render(
        self,
        render: Render,
        messages: list[Message],
        others: Mapping[str, object],
        *,
        with_spans: bool = False,
    ) -> GuardedPrompt:
        """The prompt of `messages`.

        render: messages to prompt, as the model's template has it. others: what else of the request
        the template sees. with_spans: give the tokens' places too, where there are ids.

        Raises:
            ValidationError: a control token is where it must not be, or may be.
            TemplateError: the template complains.
        """
        is_plain = self._tokenizer is not None
        self._check(messages, others, spares_contents=is_plain)
        text = render(messages)
        skeleton = _Skeleton.of(render, messages, lambda content: True)
        if self._tokenizer is None:
            self._check_added(text, skeleton)
            return GuardedPrompt(text)
        places = self._places(text, skeleton, render, messages)
        if places == self._find(text, [(0, len(text))]):
            return GuardedPrompt(text)
        if with_spans:
            return GuardedPrompt(text, spans=self._tokenizer.encode_with_offsets(text, places))
        return GuardedPrompt(text, self._tokenizer.encode(text, places))

    def _check(
        self, messages: list[Message], others: Mapping[str, object], *, spares_contents: bool
    ) -> None:
        """Refuse control tokens in what a client wrote; contents may be spared."""
        texts = [] if spares_contents else _contents(messages)
        for number, message in enumerate(messages):
            texts += _walk(f"messages[{number}]", _with_texts(message, lambda text: ""))
        for name, value in others.items():
            texts += _walk(name, value)
        found = self._control.find([text for _, text in texts])
        for (place, _), tokens in zip(texts, found, strict=True):
            if tokens:
                raise ValidationError(
                    f"`{place}` must not hold the control token {tokens[0].token}: take it out"
                    f" (the server runs with {self._flag})",
                    param=re.split(r"\W", place)[0],
                )

    def _check_added(self, text: str, skeleton: _Skeleton | None) -> None:
        """Refuse a control token that the template made of what clients wrote."""
        written = self._count(skeleton.literals if skeleton is not None else [])
        for token in self._count([text]) - written:
            raise ValidationError(
                f"`messages` lead to the control token {token}, which the chat template does not"
                f" write by itself: take out what forms it (the server runs with {self._flag})"
            )

    def _places(
        self, text: str, skeleton: _Skeleton | None, render: Render, messages: list[Message]
    ) -> list[Found]:
        """Where in `text` are the template's own control tokens."""
        if skeleton is not None:
            ranges = skeleton.align(text)
            if ranges is not None:
                return self._find(text, ranges)
            # The template looks into contents. Leave it those that hold no control token; then
            # what it writes may hold no other control tokens than it writes by itself.
            partial = _Skeleton.of(render, messages, self._holds_one)
            ranges = None if partial is None else partial.align(text)
            if partial is not None and ranges is not None:
                added = self._count(partial.literals) - self._count(skeleton.literals)
                if not added:
                    return self._find(text, ranges)
        token = next(iter(self._count([text for _, text in _contents(messages)])), "")
        raise ValidationError(
            f"`messages` hold {f'the control token {token}' if token else 'text'} that cannot be"
            " kept plain, because the model's chat template changes contents: take it out"
            f" (the server runs with {self._flag})"
        )

    def _holds_one(self, content: str) -> bool:
        return bool(self._count([content]))

    def _find(self, text: str, ranges: list[tuple[int, int]]) -> list[Found]:
        founds = self._control.find([text[start:stop] for start, stop in ranges])
        return [
            Found(start + found.start, start + found.stop, found.token)
            for (start, _), of_range in zip(ranges, founds, strict=True)
            for found in of_range
        ]

    def _count(self, texts: Sequence[str]) -> Counter[str]:
        return Counter(found.token for of_text in self._control.find(texts) for found in of_text)


class _Skeleton:
    """A rendered chat in which contents are left open: literals, and the contents between them."""

    def __init__(self, literals: list[str], contents: list[str]) -> None:
        self.literals = literals
        self._contents = contents

    @classmethod
    def of(
        cls, render: Render, messages: list[Message], is_open: Callable[[str], bool]
    ) -> _Skeleton | None:
        """Of the contents for which `is_open`; None where the template complains of the names."""
        names = PrivateNames()
        contents: list[str] = []

        def name(content: str) -> str:
            if not content or not is_open(content):
                return content
            contents.append(content)
            return names.name(len(contents) - 1)

        try:
            literals, numbers = names.split(render([_with_texts(m, name) for m in messages]))
            return cls(literals, [contents[number] for number in numbers])
        except (TemplateError, IndexError):
            return None

    def align(self, text: str) -> list[tuple[int, int]] | None:
        """Where the literals are in `text`; None unless it is they and the contents, and no more.

        Contents may be trimmed, or written as JSON.
        """
        first, *others = self.literals
        if not text.startswith(first):
            return None
        ends: dict[int, _Way] = {len(first): _Way(0, len(first), None)}
        for content, literal in zip(self._contents, others, strict=True):
            following: dict[int, _Way] = {}
            for end, way in ends.items():
                for form in _forms(content):
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


def _ranges(way: _Way | None) -> list[tuple[int, int]] | None:
    if way is None:
        return None
    ranges: list[tuple[int, int]] = []
    while way is not None:
        ranges.append((way.start, way.stop))
        way = way.before
    return ranges[::-1]


def make_guard(
    policy: Literal["parse", "refuse", "plain"], tokenizer: LoadedTokenizer
) -> ContentGuard | None:
    """The guard of --special-tokens-in-content; None where contents are parsed.

    Raises:
        StartupError: contents of this tokenizer cannot be kept plain.
    """
    if policy == "parse":
        return None
    control = ControlTokens(tokenizer)
    if policy == "refuse":
        return ContentGuard(control, None)
    return ContentGuard(control, SelectiveTokenizer(tokenizer.tokenizer, control))


def _forms(content: str) -> list[str]:
    """How templates write a content."""
    as_json = json.dumps(content, ensure_ascii=False)[1:-1]
    trimmed = (content.strip(), content.lstrip(), content.rstrip())
    of_lines = (content.strip("\n"), content.lstrip("\n"), content.rstrip("\n"))
    return list(dict.fromkeys((content, *trimmed, *of_lines, as_json)))


def _with_texts(message: Message, change: Callable[[str], str]) -> Message:
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


def _contents(messages: list[Message]) -> list[tuple[str, str]]:
    """All contents with their places, each as the template may put it together."""
    joined: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        texts = _Collector()
        _with_texts(message, texts)
        joined.append((f"messages[{number}].content", "".join(texts.texts)))
    return joined


class _Collector:
    """Remembers the texts that it is called with, and gives them back."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> str:
        self.texts.append(text)
        return text


def _walk(place: str, value: object) -> list[tuple[str, str]]:
    """All texts in a value with their places, those of names too."""
    texts: list[tuple[str, str]] = []
    pending: list[tuple[str, object]] = [(place, value)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, str):
            texts.append((place, value))
            if place.endswith(".arguments"):  # JSON text, which templates see parsed
                pending.append((f"{place}, parsed", _parsed(value)))
        elif isinstance(value, dict):
            texts += [(place, key) for key in value]
            pending += [(f"{place}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            pending += [(f"{place}[{number}]", item) for number, item in enumerate(value)]
    return texts


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
