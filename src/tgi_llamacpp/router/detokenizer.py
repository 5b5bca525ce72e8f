"""Ids to text, one token at a time, without ever splitting a character.

A Detokenizer is made once, when the engine has named its end-of-generation ids; every sequence gets
a TokenStream from it. Byte-level and SentencePiece vocabularies go through a table of bytes and
Python's incremental UTF-8 decoder, whatever else through the tokenizer's own decoder. Finds no stop
strings and holds no state of requests (generation.py does).

Generated text continues a prompt, so a leading space of its first token stays; invalid bytes become
U+FFFD one maximal part at a time, as everywhere in Python.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable
from typing import Protocol

from tokenizers import Tokenizer

from tgi_llamacpp.router.gguf_tokenizer import SPACE
from tgi_llamacpp.router.tokenizer import LoadedTokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT = "\ufffd"
_MAX_HELD_TOKENS = 8  # no character has more parts: what still cannot be decoded is broken


class TokenStream(Protocol):
    """The text of one sequence's tokens as they come.

    generated_text is the join of what push() gave for tokens that are not special, and flush().
    """

    def push(self, token_id: int) -> str:
        """What became complete with this token: "" inside a character; a special token's own text.

        A padding id, which no tokenizer knows, is "".
        """
        ...

    def flush(self) -> str:
        """At the end of the sequence: replacement characters for a broken tail, mostly ""."""
        ...


class Detokenizer:
    """The vocabulary as text; `extra_special_ids` (the EOG set) are no part of it either."""

    def __init__(
        self, tokenizer: LoadedTokenizer, *, extra_special_ids: Iterable[int] = ()
    ) -> None:
        # Of tokens that are left out of generated text.
        self.special_ids = tokenizer.special_ids.union(extra_special_ids)
        self.num_vocab = tokenizer.num_vocab  # ids from here on are padding
        self._tokenizer = tokenizer.tokenizer
        bytes_of = _bytes_function(self._tokenizer)
        self._table = (
            None if bytes_of is None else _ByteTable(tokenizer, self.special_ids, bytes_of)
        )

    def stream(self) -> TokenStream:
        """A fresh stream for one sequence."""
        if self._table is None:
            return _DecoderStream(self._tokenizer, self.special_ids)
        return _TableStream(self._table)

    def is_special(self, token_id: int) -> bool:
        """Whether the token is left out of generated text."""
        return token_id in self.special_ids

    def token_text(self, token_id: int) -> str:
        """One token alone, as for an alternative that was not chosen."""
        stream = self.stream()
        return stream.push(token_id) + stream.flush()

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes that a token stands for, whole characters or not; a special one's own text.

        None where the tokenizer's own decoder makes no text of a lone token.
        """
        if self._table is not None:
            return self._table.bytes_of(token_id)
        text = self.token_text(token_id)
        return None if _REPLACEMENT in text else text.encode()

    def decode(self, ids: Iterable[int]) -> str:
        """The generated text of `ids`: special tokens left out, a broken tail replaced."""
        stream = self.stream()
        texts = [stream.push(token_id) for token_id in ids if token_id not in self.special_ids]
        return "".join(texts) + stream.flush()


class _ByteTable:
    """id -> bytes, filled as ids occur.

    `texts` has the ids whose bytes are whole characters, and the special ones as they are written;
    `parts` has those that hold a piece of a character.
    """

    def __init__(
        self, tokenizer: LoadedTokenizer, special_ids: frozenset[int], bytes_of: _BytesOf
    ) -> None:
        self.special_ids = special_ids
        self.texts: dict[int, str] = {}
        self.parts: dict[int, bytes] = {}
        self._tokenizer = tokenizer
        self._added_ids = tokenizer.tokenizer.get_added_tokens_decoder().keys()
        self._decode_piece = bytes_of

    def add(self, token_id: int) -> None:
        """Fills in one id, in `texts` or in `parts`."""
        data = self.bytes_of(token_id)
        try:
            self.texts[token_id] = data.decode()
        except UnicodeDecodeError:
            self.parts[token_id] = data

    def bytes_of(self, token_id: int) -> bytes:
        """What the token stands for; nothing for a padding id."""
        piece = self._tokenizer.piece(token_id) or ""
        is_added = token_id in self._added_ids
        if token_id in self.special_ids or (
            is_added and self._decode_piece is _bytes_of_byte_level
        ):
            return piece.encode()  # written as text, not in the byte alphabet
        return self._decode_piece(piece)


class _TableStream:
    """Looks tokens up; only pieces of characters are decoded here."""

    __slots__ = ("_parts", "_pending", "_special_ids", "_table", "_texts")

    def __init__(self, table: _ByteTable) -> None:
        self._table = table
        self._texts = table.texts
        self._parts = table.parts
        self._special_ids = table.special_ids
        self._pending = b""

    def push(self, token_id: int) -> str:
        text = self._texts.get(token_id)
        if text is not None and (not self._pending or token_id in self._special_ids):
            return text
        if text is None and token_id not in self._parts:
            self._table.add(token_id)
            return self.push(token_id)
        data = self._pending + (self._parts[token_id] if text is None else text.encode())
        complete, used = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return complete

    def flush(self) -> str:
        tail, self._pending = self._pending, b""
        return tail.decode("utf-8", "replace")


class _DecoderStream:
    """Asks the tokenizer's decoder twice a token: with and without the newest ones.

    The text between two ids may depend on both, so some ids before are always decoded along.
    """

    def __init__(self, tokenizer: Tokenizer, special_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special_ids = special_ids
        self._ids: list[int] = []  # from the last complete text on
        self._num_given = 0  # of _ids, whose text was given

    def push(self, token_id: int) -> str:
        if token_id in self._special_ids:
            return self._tokenizer.id_to_token(token_id) or ""
        self._ids.append(token_id)
        text = self._new_text()
        num_held = len(self._ids) - self._num_given
        if num_held < _MAX_HELD_TOKENS and (not text or text.endswith(_REPLACEMENT)):
            return ""
        del self._ids[: self._num_given]
        self._num_given = len(self._ids)
        return text

    def flush(self) -> str:
        text = self._new_text()
        self._ids, self._num_given = [], 0
        return text

    def _new_text(self) -> str:
        decode = self._tokenizer.decode
        given = decode(self._ids[: self._num_given], skip_special_tokens=False)
        return decode(self._ids, skip_special_tokens=False)[len(given) :]


_BytesOf = Callable[[str], bytes]


def _bytes_function(tokenizer: Tokenizer) -> _BytesOf | None:
    """How a piece of this tokenizer becomes bytes; None if its decoder does something else."""
    steps = _decoder_steps(tokenizer)
    kinds = {step["type"] for step in steps}
    if kinds and kinds <= {"ByteLevel", "Fuse"}:
        return _bytes_of_byte_level
    understood = all(_is_sentencepiece_step(step) for step in steps)
    if not understood or not kinds & {"Replace", "Metaspace"}:
        return None
    return _bytes_with_fallback if "ByteFallback" in kinds else _bytes_of_sentencepiece


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, object]]:
    if tokenizer.decoder is None:
        return []
    decoder = json.loads(tokenizer.decoder.__getstate__())
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _is_sentencepiece_step(step: dict[str, object]) -> bool:
    kind = step["type"]
    if kind == "Replace":
        return step["pattern"] == {"String": SPACE} and step["content"] == " "
    if kind == "Strip":
        return step["content"] == " " and step["stop"] == 0
    return kind in ("ByteFallback", "Fuse") or (
        kind == "Metaspace" and step["replacement"] == SPACE
    )


def _bytes_of_sentencepiece(piece: str) -> bytes:
    return piece.replace(SPACE, " ").encode()


def _bytes_with_fallback(piece: str) -> bytes:
    match = _BYTE_TOKEN.fullmatch(piece)
    return bytes.fromhex(match[1]) if match else _bytes_of_sentencepiece(piece)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes printable Latin-1 bytes as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _bytes_of_byte_level(piece: str) -> bytes:
    try:
        return bytes([_BYTES[character] for character in piece])
    except KeyError:  # a token that is not written in the alphabet stands for itself
        return piece.encode()
