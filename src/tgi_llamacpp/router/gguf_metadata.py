"""What a GGUF file says of its model: kind, vocabulary, special tokens, chat templates.

Reads the keys as llama.cpp does, with its defaults, so that router and engine speak of one
vocabulary; refuses the kinds of model that this server cannot run. Builds no tokenizer
(gguf_tokenizer.py does) and never touches tensors. Called once, before the engine is started.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

import numpy as np

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.files import kind as kind_of_file
from tgi_llamacpp.logs import escape
from tgi_llamacpp.router.gguf_file import DOWNLOAD_AGAIN, GgufFile, GgufValue, read_gguf

_Value = TypeVar("_Value")

_SPLIT_NAME = re.compile(
    r"(?P<stem>.+-)(?P<number>\d{5})(?P<rest>-of-(?P<count>\d{5})\.gguf)",
    re.IGNORECASE | re.DOTALL,
)

# general.architecture values that llama.cpp loads and this server cannot generate text with.
_REFUSED_KINDS = {
    "an encoder-decoder model": "t5",
    "an embedding model": "bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 "
    "jina-bert-v3 eurobert t5encoder gemma-embedding gemma-embedding2 llama-embed",
    "a diffusion model": "dream llada llada-moe rnd1",
    "the vision part of a model": "clip mmproj",
    "a speech model": "wavtokenizer-dec qwen3tts pockettts",
    "a draft model": "eagle3 dflash gemma4-assistant",
    "a classifier": "clef",
}
_REFUSED = {name: kind for kind, names in _REFUSED_KINDS.items() for name in names.split()}


class TokenType(IntEnum):
    """tokenizer.ggml.token_type, one per id."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class GgufMetadata:
    """The text side of a GGUF file. `tokens[i]` is llama.cpp's raw text of token i."""

    path: Path
    architecture: str
    name: str | None
    context_length: int | None
    tokenizer_model: str  # "gpt2" (BPE), "llama" (SentencePiece), "gemma4", ...
    pre: str  # tokenizer.ggml.pre, "" where the file has none
    tokens: list[str]
    token_types: np.ndarray  # int32[num_vocab], TokenType
    scores: np.ndarray  # float32[num_vocab]
    merges: list[str]
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    unk_id: int | None
    pad_id: int | None
    add_bos: bool | None  # None: the file leaves it to the kind of tokenizer
    add_eos: bool | None
    add_space_prefix: bool | None
    chat_templates: dict[str, str]  # "default" and the named ones
    num_tensors: int
    values: dict[str, GgufValue]

    @property
    def num_vocab(self) -> int:
        return len(self.tokens)

    def pieces_hash(self) -> str:
        """The hash that the engine must report for the same file, see pieces_hash()."""
        return pieces_hash(self.tokens)

    def ids_of(self, *token_types: TokenType) -> list[int]:
        """Ids of these types, ascending."""
        return np.flatnonzero(np.isin(self.token_types, token_types)).tolist()


def read_metadata(path: str | Path) -> GgufMetadata:
    """Verifies a GGUF file (all parts, if it is split) and reads its metadata.

    Raises:
        StartupError: the file or a part is missing, truncated, corrupt or hostile, or holds no
            model that generates text.
    """
    path = Path(path)
    file = read_gguf(path)
    num_tensors = file.num_tensors + _check_other_parts(file)
    metadata = parse_metadata(file, num_tensors)
    _refuse_unservable(metadata)
    return metadata


def pieces_hash(tokens: Sequence[str]) -> str:
    """Hex sha256 over every token: its length as u32 little-endian, then its UTF-8 bytes."""
    pack = struct.Struct("<I").pack
    texts = [token.encode("utf-8", "surrogateescape") for token in tokens]
    return hashlib.sha256(b"".join([pack(len(text)) + text for text in texts])).hexdigest()


def parse_metadata(file: GgufFile, num_tensors: int = 0) -> GgufMetadata:
    """The keys of a verified header; a vocabulary without tensors is fine here.

    Raises:
        StartupError: a key has an impossible value, or a token is there twice.
    """
    keys = _Keys(file)
    architecture = keys.string("general.architecture")
    model = keys.string("tokenizer.ggml.model")
    tokens = _loaded_texts(keys.strings("tokenizer.ggml.tokens"))
    _refuse_duplicates(file.path, tokens)
    num_vocab = len(tokens)
    defaults = {"bos": 1, "eos": 2, "unknown": 0} if model == "llama" else {}

    def special_id(name: str) -> int | None:
        token_id = keys.integer(f"tokenizer.ggml.{name}_token_id")
        if token_id is None or not 0 <= token_id < num_vocab:
            token_id = defaults.get(name)
        return token_id if token_id is not None and token_id < num_vocab else None

    return GgufMetadata(
        path=file.path,
        architecture=architecture,
        name=keys.optional_string("general.name"),
        context_length=keys.integer(f"{architecture}.context_length"),
        tokenizer_model=model,
        pre=keys.string("tokenizer.ggml.pre"),
        tokens=tokens,
        token_types=keys.numbers("tokenizer.ggml.token_type", num_vocab, 1, np.int32),
        scores=keys.numbers("tokenizer.ggml.scores", num_vocab, 0, np.float32),
        merges=keys.strings("tokenizer.ggml.merges"),
        bos_id=special_id("bos"),
        eos_id=special_id("eos"),
        eot_id=special_id("eot"),
        unk_id=special_id("unknown"),
        pad_id=special_id("padding"),
        add_bos=keys.boolean("tokenizer.ggml.add_bos_token"),
        add_eos=keys.boolean("tokenizer.ggml.add_eos_token"),
        add_space_prefix=keys.boolean("tokenizer.ggml.add_space_prefix"),
        chat_templates=keys.chat_templates(),
        num_tensors=num_tensors,
        values=file.values,
    )


class _Keys:
    """Typed access to a file's keys: an absent key is fine, a wrong type is not."""

    def __init__(self, file: GgufFile) -> None:
        self._path = file.path
        self._values = file.values

    def optional_string(self, key: str) -> str | None:
        value = self._values.get(key)
        return None if value is None else self._expect(key, value, str)

    def string(self, key: str) -> str:
        return self.optional_string(key) or ""

    def boolean(self, key: str) -> bool | None:
        value = self._values.get(key)
        return None if value is None else self._expect(key, value, bool)

    def integer(self, key: str) -> int | None:
        value = self._values.get(key)
        return None if value is None else self._expect(key, value, int)

    def strings(self, key: str) -> list[str]:
        value = self._values.get(key, [])
        if isinstance(value, np.ndarray) and not len(value):
            return []
        return self._expect(key, value, list)

    def numbers(self, key: str, count: int, default: int, dtype: type) -> np.ndarray:
        value = self._values.get(key)
        if value is None:
            return np.full(count, default, dtype)
        array = self._expect(key, value, np.ndarray)
        if len(array) < count:
            raise self._wrong(key, f"has {len(array)} entries for {count} tokens")
        return array[:count].astype(dtype)

    def chat_templates(self) -> dict[str, str]:
        prefix = "tokenizer.chat_template"
        templates = {}
        for key, value in self._values.items():
            if key == prefix or key.startswith(prefix + "."):
                templates[key[len(prefix) + 1 :] or "default"] = self._expect(key, value, str)
        return templates

    def _expect(self, key: str, value: GgufValue, kind: type[_Value]) -> _Value:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(key, f"is of type {type(value).__name__}, expected {kind.__name__}")
        return value

    def _wrong(self, key: str, found: str) -> StartupError:
        return StartupError(f"{self._path} is corrupt: {escape(key):.80} {found}; {DOWNLOAD_AGAIN}")


def _loaded_texts(tokens: list[str]) -> list[str]:
    """The texts as llama.cpp holds them: C strings, and an empty one gets a name."""
    return [token.partition("\0")[0] or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]


def _refuse_duplicates(path: Path, tokens: list[str]) -> None:
    first_ids: dict[str, int] = {}
    if len(set(tokens)) == len(tokens):
        return
    for token_id, token in enumerate(tokens):
        first = first_ids.setdefault(token, token_id)
        if first != token_id:
            raise StartupError(
                f"{path} is corrupt: tokens {first} and {token_id} of its vocabulary are both "
                f"{token!r:.80}; convert the model again"
            )


def _check_other_parts(file: GgufFile) -> int:
    """Verifies the other parts of a split file; the number of their tensors."""
    count = file.values.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return 0
    match = _SPLIT_NAME.fullmatch(file.path.name)
    if match is None or int(match["count"]) != count:
        raise StartupError(
            f"{file.path} is one of {count} parts, which are named NAME-00001-of-{count:05}.gguf; "
            "rename them"
        )
    if match["number"] != "00001" or file.values.get("split.no", 0) != 0:
        first = f"{match['stem']}00001{match['rest']}"
        raise StartupError(f"{file.path} is not the first of its {count} parts; give {first}")
    siblings = [
        file.path.with_name(f"{match['stem']}{number:05}{match['rest']}")
        for number in range(2, count + 1)
    ]
    missing = [sibling.name for sibling in siblings if kind_of_file(sibling) != "file"]
    if missing:
        raise StartupError(
            f"{file.path} is the first of {count} parts and {missing[0]} is not beside it; "
            "download all parts"
        )
    return sum(read_gguf(sibling).num_tensors for sibling in siblings)


def _refuse_unservable(metadata: GgufMetadata) -> None:
    path, architecture = metadata.path, metadata.architecture
    kind = _REFUSED.get(architecture)
    general_type = metadata.values.get("general.type", "model")
    if general_type in ("adapter", "imatrix", "mmproj"):
        kind = f"a file of type {general_type}"
    elif metadata.values.get(f"{architecture}.attention.causal") is False:
        kind = kind or "a model without causal attention"
    elif metadata.values.get(f"{architecture}.pooling_type", 0) in (1, 2, 3, 4):
        kind = kind or "an embedding model"
    if kind is not None:
        raise StartupError(
            f"{path} is {kind} (architecture {architecture!r:.80}), which generates no text; "
            "give a decoder-only language model"
        )
    if not architecture:
        raise StartupError(f"{path} names no general.architecture; {DOWNLOAD_AGAIN}")
    if not metadata.tokens:
        raise StartupError(f"{path} has no vocabulary; convert the model again with its tokenizer")
    if metadata.num_tensors == 0:
        raise StartupError(f"{path} holds a vocabulary and no weights; give the model's own file")
