"""Text to ids: the model's tokenizer, from its own files or the GGUF, and the workers that run it.

load_tokenizer() makes a LoadedTokenizer as the router starts and checks it against the GGUF's
vocabulary; TokenizerPool encodes beside the event loop. Truncation is the caller's: ids[-n:]. Ids
to text is detokenizer.py's, chat templates are chat.py's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from tgi_llamacpp.errors import StartupError, ValidationError
from tgi_llamacpp.router import gguf_tokenizer
from tgi_llamacpp.router.gguf_metadata import GgufMetadata
from tgi_llamacpp.router.tokenizer_files import TokenizerFiles
from tgi_llamacpp.router.tokenizer_json import check_pieces, read_tokenizer_json

Params = ParamSpec("Params")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class LoadedTokenizer:
    """A model's tokenizer and what its files say about special tokens. Never changed after."""

    tokenizer: Tokenizer
    source: str  # for the log
    num_vocab: int  # ids [0, num_vocab) exist; a model may have padding ids above
    special_tokens: dict[str, str]  # {"bos_token": "<s>", ...}, for templates
    special_ids: frozenset[int]  # no part of generated text
    extra_eog_ids: list[int]  # generation_config.json's
    adds_bos: bool  # encoding with special tokens puts BOS first
    control_ids: frozenset[int] = frozenset()  # what frames messages: special, or GGUF's control

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def bos_id(self) -> int | None:
        return self._id_of(self.bos_token)

    @property
    def eos_id(self) -> int | None:
        return self._id_of(self.eos_token)

    def piece(self, token_id: int) -> str | None:
        """The raw vocabulary text of an id, None for an id that the tokenizer does not know."""
        return self.tokenizer.id_to_token(token_id) if 0 <= token_id < self.num_vocab else None

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.tokenizer.token_to_id(token)


class TokenSpan(NamedTuple):
    """One token of a text. [start, stop) are bytes of the text's UTF-8, `text` is what they hold.

    A token that stands for part of a character has the whole character; one that the tokenizer
    added has 0, 0 and "".
    """

    id: int
    text: str
    start: int
    stop: int


def load_tokenizer(
    metadata: GgufMetadata,
    *,
    folder: Path | None = None,
    tokenizer_config_path: Path | None = None,
) -> LoadedTokenizer:
    """The tokenizer of `folder`, or one built from the GGUF where it has no tokenizer.json.

    Raises:
        StartupError: a file is broken, the tokenizer is another model's, or none can be built.
    """
    files = TokenizerFiles(folder, tokenizer_config_path)
    if files.path("tokenizer.json") is None:
        return _load_from_gguf(metadata, files)
    return _load_from_json(metadata, files)


def _load_from_json(metadata: GgufMetadata, files: TokenizerFiles) -> LoadedTokenizer:
    path = files.path("tokenizer.json")
    assert path is not None
    tokenizer = read_tokenizer_json(path)
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    check_pieces(path, tokenizer, pieces, metadata)
    special_tokens = _gguf_special_tokens(metadata) if not files.config else {}
    special_tokens |= files.special_tokens()
    _frame_as_configured(tokenizer, files, special_tokens)
    added = tokenizer.get_added_tokens_decoder()
    special_ids = frozenset(i for i, token in added.items() if token.special)
    num_vocab = max(pieces.values()) + 1
    return LoadedTokenizer(
        tokenizer=tokenizer,
        source=str(path),
        num_vocab=num_vocab,
        special_tokens=special_tokens,
        special_ids=special_ids,
        extra_eog_ids=_valid_ids(files.eos_ids(), metadata),
        adds_bos=_starts_with(tokenizer, special_tokens.get("bos_token")),
        control_ids=special_ids.union(gguf_tokenizer.special_token_ids(metadata)),
    )


def _load_from_gguf(metadata: GgufMetadata, files: TokenizerFiles) -> LoadedTokenizer:
    tokenizer = gguf_tokenizer.build_tokenizer(metadata)
    special_ids = gguf_tokenizer.special_token_ids(metadata)
    kind = f"{metadata.tokenizer_model}, pre {metadata.pre or 'default'}"
    return LoadedTokenizer(
        tokenizer=tokenizer,
        source=f"GGUF metadata ({kind})",
        num_vocab=gguf_tokenizer.num_real_tokens(metadata),
        special_tokens=_gguf_special_tokens(metadata) | files.special_tokens(),
        special_ids=special_ids,
        extra_eog_ids=_valid_ids(files.eos_ids(), metadata),
        adds_bos=gguf_tokenizer.adds_bos(metadata) and metadata.bos_id is not None,
        control_ids=special_ids,
    )


def _gguf_special_tokens(metadata: GgufMetadata) -> dict[str, str]:
    ids = {
        "bos_token": metadata.bos_id,
        "eos_token": metadata.eos_id,
        "unk_token": metadata.unk_id,
        "pad_token": metadata.pad_id,
    }
    return {name: metadata.tokens[i] for name, i in ids.items() if i is not None}


def _frame_as_configured(
    tokenizer: Tokenizer, files: TokenizerFiles, special_tokens: dict[str, str]
) -> None:
    """Makes the tokenizer add what add_bos_token and add_eos_token say, where they say it.

    transformers sets the post-processor from these two, whatever tokenizer.json holds.
    """
    bos, eos = special_tokens.get("bos_token"), special_tokens.get("eos_token")
    has_bos, has_eos = _starts_with(tokenizer, bos), _ends_with(tokenizer, eos)
    wants_bos = _flag(files, "add_bos_token", has_bos) and bos is not None
    wants_eos = _flag(files, "add_eos_token", has_eos) and eos is not None
    if (wants_bos, wants_eos) != (has_bos, has_eos):
        gguf_tokenizer.set_special_tokens(
            tokenizer, bos if wants_bos else None, eos if wants_eos else None
        )


def _flag(files: TokenizerFiles, name: str, default: bool) -> bool:
    value = files.config.get(name)
    return value if isinstance(value, bool) else default


def _starts_with(tokenizer: Tokenizer, token: str | None) -> bool:
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    return token is not None and ids[:1] == [tokenizer.token_to_id(token)]


def _ends_with(tokenizer: Tokenizer, token: str | None) -> bool:
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    return token is not None and ids[-1:] == [tokenizer.token_to_id(token)]


def _valid_ids(ids: list[int], metadata: GgufMetadata) -> list[int]:
    beyond = [i for i in ids if not 0 <= i < metadata.num_vocab]
    if beyond:
        raise StartupError(
            f"generation_config.json names {beyond[0]} as eos_token_id, and {metadata.path} has "
            f"{metadata.num_vocab} tokens; give the model's own tokenizer files"
        )
    return ids


class TokenizerPool:
    """The validation workers: threads that encode, and run other short jobs, beside the event loop.

    All share one tokenizer: nothing sets anything on it, and the batch forms release the GIL (the
    single `encode` does not), so they run side by side; a clone for each would cost 100 MB and a
    second of start-up.
    """

    def __init__(self, tokenizer: LoadedTokenizer, num_workers: int) -> None:
        # A worker is one thread. Without this, each call would also wake a pool of Rust's own.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = tokenizer.tokenizer
        self._doubled_bos = tokenizer.bos_id if tokenizer.adds_bos else None
        self.num_encoding = 0  # prompts whose ids are on their way
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="validation")

    async def encode(self, text: str, *, add_special_tokens: bool) -> np.ndarray:
        """The ids of `text`, int32[n].

        Raises:
            ValidationError: the text holds half of a surrogate pair.
        """
        self.num_encoding += 1
        try:
            return await self.run(self._encode, text, add_special_tokens)
        finally:
            self.num_encoding -= 1

    async def encode_with_offsets(self, text: str, *, add_special_tokens: bool) -> list[TokenSpan]:
        """The same ids, each with the place in `text` that it stands for; errors as encode()."""
        return await self.run(self._encode_with_offsets, text, add_special_tokens)

    async def run(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Runs a short job in a worker; what it raises comes back."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Ends the workers; jobs that wait are cancelled, running ones end first."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _encode(self, text: str, add_special_tokens: bool) -> np.ndarray:
        encode = self._tokenizer.encode_batch_fast
        ids = np.array(_one(encode, text, add_special_tokens).ids, dtype=np.int32)
        return ids[1:] if self._is_doubled(ids[:2].tolist(), add_special_tokens) else ids

    def _encode_with_offsets(self, text: str, add_special_tokens: bool) -> list[TokenSpan]:
        encoding = _one(self._tokenizer.encode_batch, text, add_special_tokens)
        bytes_at = byte_positions(text)
        spans = [
            TokenSpan(token_id, text[start:stop], bytes_at[start], bytes_at[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        return spans[1:] if self._is_doubled(encoding.ids[:2], add_special_tokens) else spans

    def _is_doubled(self, first_ids: list[int], add_special_tokens: bool) -> bool:
        """Whether the text brought the BOS that the tokenizer then added as well."""
        bos = self._doubled_bos
        return add_special_tokens and bos is not None and first_ids == [bos, bos]


def _one(encode: Callable[..., list[Encoding]], text: str, add_special_tokens: bool) -> Encoding:
    try:
        return encode([text], add_special_tokens=add_special_tokens)[0]
    except TypeError as error:  # what the binding makes of a str that has no UTF-8
        raise ValidationError("`inputs` holds half of a surrogate pair") from error


def byte_positions(text: str) -> range | list[int]:
    """For every character position, and the end, the position in bytes of UTF-8."""
    if text.isascii():
        return range(len(text) + 1)
    return list(accumulate((len(character.encode()) for character in text), initial=0))
