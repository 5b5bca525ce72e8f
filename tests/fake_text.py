"""Text tools over a vocabulary that fits on a screen: known words, single characters, raw bytes.

For tests of the wire, where every id and every text must be foreseeable. The real tools have tests
of their own.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tgi_llamacpp.errors import TemplateError

T = TypeVar("T")
BOS, EOS = 1, 2
FIRST_BYTE = 300_000  # id of the byte 0; no character encodes to these
SPECIAL = {BOS: "<s>", EOS: "</s>"}
WORDS = {
    5360: " love",
    304: " to",
    775: " code",
    4321: "Hello",
    1526: " world",
    3000: " Paris",
}
_IDS = {text: token_id for token_id, text in WORDS.items()}


class TokenSpan(NamedTuple):
    id: int
    text: str
    start: int
    stop: int


def encode(text: str, *, add_special_tokens: bool) -> list[int]:
    ids = [BOS] if add_special_tokens else []
    while text:
        word = next((word for word in _IDS if text.startswith(word)), text[0])
        ids.append(_IDS[word] if word in _IDS else ord(word))
        text = text[len(word) :]
    return ids


def token_text(token_id: int) -> str:
    if token_id >= FIRST_BYTE:
        return bytes([token_id - FIRST_BYTE]).decode(errors="replace")
    return SPECIAL.get(token_id) or WORDS.get(token_id) or chr(token_id)


class FakePool:
    num_encoding = 0

    async def encode(self, text: str, *, add_special_tokens: bool) -> np.ndarray:
        return np.array(encode(text, add_special_tokens=add_special_tokens), dtype=np.int32)

    async def encode_with_offsets(self, text: str, *, add_special_tokens: bool) -> list[TokenSpan]:
        spans, start = [], 0
        for token_id in encode(text, add_special_tokens=add_special_tokens):
            piece = "" if token_id == BOS else token_text(token_id)
            stop = start + len(piece.encode())
            spans.append(TokenSpan(token_id, piece, start, stop))
            start = stop
        return spans

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return function(*args, **kwargs)


class FakeStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        if token_id in SPECIAL:
            return SPECIAL[token_id]
        if token_id >= FIRST_BYTE:
            return self._decoder.decode(bytes([token_id - FIRST_BYTE]))
        return self._decoder.decode(token_text(token_id).encode())

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class FakeDetokenizer:
    num_vocab = 6000
    special_ids = frozenset(SPECIAL)

    def stream(self) -> FakeStream:
        return FakeStream()

    def is_special(self, token_id: int) -> bool:
        return token_id in SPECIAL

    def token_text(self, token_id: int) -> str:
        return token_text(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id >= FIRST_BYTE:
            return bytes([token_id - FIRST_BYTE])
        return token_text(token_id).encode()

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(token_text(i) for i in ids if i not in SPECIAL)


class FakeTemplate:
    """`[role]content` for each message, then `[assistant]`; complains of the role `wrong`."""

    source = "fake"

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: dict[str, Any] | None = None,
        **others: Any,
    ) -> str:
        if any(message["role"] == "wrong" for message in messages):
            raise TemplateError("no such role (in line 1)")
        prompt = "".join(f"[{message['role']}]{message['content']}" for message in messages)
        return prompt + ("[assistant]" if add_generation_prompt else "")
