"""What becomes of control tokens that clients write inside messages: refused, or kept plain.

By default nothing here runs, and they are parsed, as TGI does. Contents are told from what the
template writes by rendering twice, with the contents and with private names in their places; where
the two do not add up, the request is refused. Called by the chat routes, in a validation worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tgi_llamacpp.errors import ValidationError
from tgi_llamacpp.router.chat_messages import Message
from tgi_llamacpp.router.chat_skeleton import Range, Render, Skeleton, with_texts
from tgi_llamacpp.router.control_tokens import ControlTokens, Found, SelectiveTokenizer
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, TokenSpan


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
        self._check(messages, others)
        text = render(messages)
        places = self._places(text, render, messages)
        if places == self._find(text, [(0, len(text))]):
            return GuardedPrompt(text)
        if self._tokenizer is None:
            raise self._refusal("text that makes a control token with what is around it")
        if with_spans:
            return GuardedPrompt(text, spans=self._tokenizer.encode_with_offsets(text, places))
        return GuardedPrompt(text, self._tokenizer.encode(text, places))

    def _check(self, messages: list[Message], others: Mapping[str, object]) -> None:
        """Refuse control tokens in what a client wrote, or outside contents."""
        texts = _contents(messages) if self._tokenizer is None else []
        for number, message in enumerate(messages):
            texts += _walk(f"messages[{number}]", with_texts(message, lambda text: ""))
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

    def _places(self, text: str, render: Render, messages: list[Message]) -> list[Found]:
        """Where in `text` are the template's own control tokens."""
        hostile = [
            bool(self._tokens([content])) for _, content in _contents(messages)
        ]  # by message, for a template may join chunks
        skeleton = Skeleton.of(render, messages, [True] * len(messages))
        ranges = None if skeleton is None else skeleton.align(text)
        if skeleton is not None and ranges is None:
            # The template looks into contents. Leave it those that hold no control token; then it
            # must write the same control tokens as it does by itself.
            partial = Skeleton.of(render, messages, hostile)
            ranges = None if partial is None else partial.align(text)
            if partial is None or self._tokens(partial.literals) != self._tokens(skeleton.literals):
                ranges = None
        if ranges is None:
            raise self._refusal("a control token" if any(hostile) else "text")
        return self._find(text, ranges)

    def _refusal(self, what: str) -> ValidationError:
        return ValidationError(
            f"`messages` hold {what} that cannot be told from the chat template's own, because of"
            f" what the template does to contents: take it out (the server runs with {self._flag})"
        )

    def _find(self, text: str, ranges: list[Range]) -> list[Found]:
        founds = self._control.find([text[start:stop] for start, stop in ranges])
        return [
            Found(start + found.start, start + found.stop, found.token)
            for (start, _), of_range in zip(ranges, founds, strict=True)
            for found in of_range
        ]

    def _tokens(self, texts: Sequence[str]) -> list[str]:
        """The control tokens of all texts, in order."""
        return [found.token for of_text in self._control.find(texts) for found in of_text]


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


def _contents(messages: list[Message]) -> list[tuple[str, str]]:
    """All contents with their places, each as the template may put it together."""
    joined: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        texts = _Collector()
        with_texts(message, texts)
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
