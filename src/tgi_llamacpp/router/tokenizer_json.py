"""Reads a tokenizer.json and makes sure that it belongs to the GGUF file it is to serve.

Two patterns that are known to take quadratic time are rewritten on the way to ones that match the
same. Called by tokenizer.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, TokenType
from tgi_llamacpp.router.tokenizer_files import read_bytes

_PADDING = re.compile(r"\[(PAD|UNUSED|EMPTY_)\d+\]|<unused\d+>", re.IGNORECASE)
_OWN_FILES = "give the model's own tokenizer files"
# Models' own patterns that look ahead from every place of a run -> the same without that.
_SLOW_PATTERNS = {r"\s+$": r"(?<!\s)\s++$"}


def read_tokenizer_json(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, without its truncation and padding.

    Raises:
        StartupError: the file is not what the tokenizers library writes.
    """
    try:
        text = read_bytes(path).decode()
        tokenizer = Tokenizer.from_str(_without_slow_patterns(text))
    except StartupError:
        raise
    except Exception as error:  # the binding raises Exception itself
        raise StartupError(f"{path} is no tokenizer: {error}; download it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_pieces(
    path: Path, tokenizer: Tokenizer, pieces: dict[str, int], metadata: GgufMetadata
) -> None:
    """Compares the vocabularies id by id. Padding and added tokens may differ.

    Raises:
        StartupError: a token of the one is another token in the other, or is not there.
    """
    added = tokenizer.get_added_tokens_decoder()
    ordinary = (TokenType.NORMAL, TokenType.BYTE, TokenType.UNDEFINED)
    tokens, types = metadata.tokens, metadata.token_types
    for piece, token_id in pieces.items():
        if token_id >= len(tokens):
            raise StartupError(
                f"{path} does not belong to {metadata.path}: it has token {token_id}"
                f" ({piece!r:.80}), and the GGUF file has {len(tokens)} tokens; {_OWN_FILES}"
            )
        if piece == tokens[token_id] or token_id in added or types[token_id] not in ordinary:
            continue
        if not _PADDING.fullmatch(tokens[token_id]):
            raise StartupError(
                f"{path} does not belong to {metadata.path}: token {token_id} is {piece!r:.80} in"
                f" the one and {tokens[token_id]!r:.80} in the other; {_OWN_FILES}"
            )


def _without_slow_patterns(text: str) -> str:
    if not any(json.dumps(pattern) in text for pattern in _SLOW_PATTERNS):
        return text
    tokenizer = json.loads(text)
    _rewrite(tokenizer.get("pre_tokenizer"))
    return json.dumps(tokenizer)


def _rewrite(pre_tokenizer: Any) -> None:
    if not isinstance(pre_tokenizer, dict):
        return
    for part in pre_tokenizer.get("pretokenizers", []):
        _rewrite(part)
    pattern = pre_tokenizer.get("pattern")
    if isinstance(pattern, dict) and pattern.get("Regex") in _SLOW_PATTERNS:
        pattern["Regex"] = _SLOW_PATTERNS[pattern["Regex"]]
