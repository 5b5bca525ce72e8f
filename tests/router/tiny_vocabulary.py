"""A SentencePiece vocabulary small enough to think about, as GGUF metadata."""

from __future__ import annotations

from pathlib import Path

from tests.router import gguf_writer as writer
from tgi_llamacpp.router.gguf_file import read_gguf
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, parse_metadata

SPACE = "\u2581"
_WORDS = [SPACE, "a", "b", "e", "\u00e9", "\u4f60", f"{SPACE}a", "ab", f"{SPACE}ab", "be"]


def sentencepiece(folder: Path, **values: writer.Value) -> GgufMetadata:
    """<unk> 0, <s> 1, </s> 2, the 256 bytes, then a few letters and words, better ones later."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    keys: dict[str, writer.Value] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [float(place) for place in range(len(pieces))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(_WORDS)],
    }
    keys |= {f"tokenizer.ggml.{name}": value for name, value in values.items()}
    return parse_metadata(read_gguf(writer.write(folder, writer.gguf(keys), "tiny.gguf")))
