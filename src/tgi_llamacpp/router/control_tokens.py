"""The tokens by which templates frame messages, as texts; and a tokenizer that tells them apart.

Control tokens are those that the tokenizer's files call special or the GGUF calls control; tokens
that are merely added, such as <think>, are none. Called by router/content_guard.py.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer, models

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, TokenSpan, byte_positions

_FIRST_PRIVATE, _NUM_PRIVATE = 0xE000, 6400  # of the characters that Unicode gives no meaning
_NONCE_CHARACTERS = 12  # 150 bits
_UNKNOWN = "\ue000unknown"


class Found(NamedTuple):
    """A control token in a text, at [start, stop)."""

    start: int
    stop: int
    token: str


class PrivateNames:
    """Texts that stand for the numbers from 0 on, and that nobody can guess."""

    def __init__(self) -> None:
        draw = (secrets.randbelow(_NUM_PRIVATE) for _ in range(_NONCE_CHARACTERS))
        self._nonce = "".join(chr(_FIRST_PRIVATE + place) for place in draw)
        self._pattern = re.compile(f"{self._nonce}(..)", re.DOTALL)

    def name(self, number: int) -> str:
        """All names have one length; none has white space."""
        places = divmod(number, _NUM_PRIVATE)
        return self._nonce + "".join(chr(_FIRST_PRIVATE + place) for place in places)

    def split(self, text: str) -> tuple[list[str], list[int]]:
        """What stands around the names in `text`, one more than there are, and their numbers."""
        parts = self._pattern.split(text)
        return parts[::2], [self._number(name) for name in parts[1::2]]

    def _number(self, name: str) -> int:
        high, low = (ord(character) - _FIRST_PRIVATE for character in name)
        return high * _NUM_PRIVATE + low


class ControlTokens:
    """Finds control tokens in texts, as the model's tokenizer does: the longest of all that are
    added wins, also where it is no control token.
    """

    def __init__(self, tokenizer: LoadedTokenizer) -> None:
        added = tokenizer.tokenizer.get_added_tokens_decoder()
        self.ids: Mapping[str, int] = {
            token.content: i for i, token in added.items() if i in tokenizer.control_ids
        }
        # It knows no words, so that what is between added tokens is one unknown word.
        self._finder = Tokenizer(models.WordLevel({_UNKNOWN: 0}, unk_token=_UNKNOWN))
        if tokenizer.tokenizer.normalizer is not None:  # some tokens are found in what it leaves
            self._finder.normalizer = tokenizer.tokenizer.normalizer
        self._finder.add_tokens(list(added.values()))
        self._found_as = {self._finder.token_to_id(token): token for token in self.ids}

    def find(self, texts: Sequence[str]) -> list[list[Found]]:
        """The control tokens of each text."""
        encodings = self._finder.encode_batch(list(texts), add_special_tokens=False)
        return [
            [
                _found(text, self._found_as[i], *offsets)
                for i, offsets in zip(encoding.ids, encoding.offsets, strict=True)
                if i in self._found_as
            ]
            for text, encoding in zip(texts, encodings, strict=True)
        ]


def _found(text: str, token: str, start: int, stop: int) -> Found:
    """Without the white space that some tokens swallow before and after them."""
    written = text[start:stop]
    stop -= len(written) - len(written.rstrip())
    start += len(written) - len(written.lstrip())
    return Found(start, stop, token)


class SelectiveTokenizer:
    """Encodes a text of which only some places are control tokens, and the same writing elsewhere
    is plain text.

    A copy of the model's tokenizer, in which the control tokens have private names.
    """

    def __init__(self, tokenizer: Tokenizer, control: ControlTokens) -> None:
        """Takes a second or two, and memory for another tokenizer.

        Raises:
            StartupError: the copy gives a control token another id.
        """
        private = PrivateNames()
        self._names = {token: private.name(place) for place, token in enumerate(control.ids)}
        self._tokenizer = _renamed(tokenizer, self._names)
        for token, token_id in control.ids.items():
            if self._tokenizer.token_to_id(self._names[token]) != token_id:
                raise StartupError(
                    f"the tokenizer has no place of its own for {token!r}: contents cannot be kept"
                    " plain; use --special-tokens-in-content refuse"
                )

    def encode(self, text: str, places: list[Found]) -> list[int]:
        """The ids of `text`, where `places` alone are control tokens. No token is added."""
        encoding, _ = self._encode(text, places)
        return list(encoding.ids)

    def encode_with_offsets(self, text: str, places: list[Found]) -> list[TokenSpan]:
        """The same ids, each with the place in `text` that it stands for."""
        encoding, origins = self._encode(text, places)
        bytes_at = byte_positions(text)
        ends = [(origins[start], origins[stop]) for start, stop in encoding.offsets]
        return [
            TokenSpan(token_id, text[start:stop], bytes_at[start], bytes_at[stop])
            for token_id, (start, stop) in zip(encoding.ids, ends, strict=True)
        ]

    def _encode(self, text: str, places: list[Found]) -> tuple[Encoding, list[int]]:
        """Also: for every position of the text with private names, the one in `text`."""
        parts: list[str] = []
        origins: list[int] = []
        stop = 0
        for place in places:
            name = self._names[place.token]
            parts += text[stop : place.start], name
            origins += range(stop, place.start)
            origins += [place.start] * len(name)
            stop = place.stop
        parts.append(text[stop:])
        origins += range(stop, len(text) + 1)
        (encoding,) = self._tokenizer.encode_batch(["".join(parts)], add_special_tokens=False)
        return encoding, origins


def _renamed(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """A copy in which these tokens have other texts; nothing else leads to their ids."""
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False, special=True)
    model = data["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    else:  # Unigram's, of pairs
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [m for m in model["merges"] if not _leads_to(m, names)]
    return Tokenizer.from_str(json.dumps(data))


def _leads_to(merge: Any, names: Mapping[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in names or right in names or left + right in names
