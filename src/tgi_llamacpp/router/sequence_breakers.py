"""Which tokens of the vocabulary hold a text: where DRY's repetitions end.

The first question makes one string of the whole vocabulary, about its size in bytes, in some tenths
of a second; after that a new breaker takes milliseconds. Called in a validation worker, for
router/samplers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from tgi_llamacpp.errors import ValidationError

Ids = np.ndarray[tuple[int], np.dtype[np.int32]]
_MAX_CACHED = 32
_SEPARATOR = b"\xff"  # is in no text, so that no text is found across it


class Vocabulary(Protocol):
    """What is asked of the detokenizer."""

    num_vocab: int

    def token_bytes(self, token_id: int) -> bytes | None: ...


class SequenceBreakers:
    """Finds tokens by the text in them; safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._cached_search = lru_cache(_MAX_CACHED)(self._search)

    def ids(self, breakers: Sequence[str], *, may_miss: bool) -> Ids:
        """The ids of all tokens whose text holds one of the breakers, ascending.

        Raises:
            ValidationError: no token holds this breaker, and `may_miss` is false.
        """
        found = [self._of_one(breaker) for breaker in breakers]
        for breaker, ids in zip(breakers, found, strict=True):
            if not ids.size and not may_miss:
                raise ValidationError(
                    "`dry_sequence_breakers` must be texts that one token can hold."
                    f" Given: {breaker!r}, which no token of this model does: shorten it"
                )
        return np.unique(np.concatenate([np.empty(0, np.int32), *found]))

    def _of_one(self, breaker: str) -> Ids:
        data = breaker.encode()
        if len(data) > self._joined.max_token_bytes:  # and the cache keeps no long texts
            return np.empty(0, np.int32)
        return self._cached_search(data)

    def _search(self, data: bytes) -> Ids:
        joined, starts = self._joined.data, self._joined.starts
        places: list[int] = []
        place = joined.find(data)
        while place >= 0:
            places.append(place)
            place = joined.find(data, place + 1)
        return np.unique(np.searchsorted(starts, places, "right") - 1).astype(np.int32)

    @cached_property
    def _joined(self) -> _Joined:
        ids = range(self._vocabulary.num_vocab)
        pieces = [self._vocabulary.token_bytes(token_id) or b"" for token_id in ids]
        sizes = np.fromiter(map(len, pieces), np.int32, len(pieces))
        starts = np.concatenate([np.zeros(1, np.int32), np.cumsum(sizes[:-1] + 1, dtype=np.int32)])
        return _Joined(_SEPARATOR.join(pieces), starts, int(sizes.max()))


class _Joined(NamedTuple):
    data: bytes
    starts: Ids  # of every token, in data
    max_token_bytes: int
