"""Writes the models of the benches: random weights in the shapes of well-known small models.

    python -m benchmarks.make_models 135M 0.5B

Speed does not depend on what weights say, so none are downloaded. All are of the Llama architecture
with tied embeddings, every matrix Q4_0; the token embeddings, which are the output matrix too, are
Q8_0, as llama-quantize makes them for Q4_0 where rows are no multiple of 256 (135M and 0.5B; in
1.5B it would take Q6_K, which gguf's Python cannot write). The same name gives the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

MODELS_DIR = Path(__file__).parent / "models"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_BYTES = 256
WEIGHT_SCALE = 0.02  # what transformers initialises such models with


@dataclass(frozen=True)
class Shape:
    num_layers: int
    num_embd: int
    num_heads: int
    num_kv_heads: int
    num_ff: int
    num_vocab: int
    context_length: int
    rope_base: float
    pre_tokenizer: str
    output_scale: float = 1.0  # of the output norm: random logits are flat, trained ones are not


SHAPES = {
    "135M": Shape(30, 576, 9, 3, 1536, 49_152, 8_192, 1e5, "smollm"),
    "0.5B": Shape(24, 896, 14, 2, 4864, 151_936, 32_768, 1e6, "qwen2", output_scale=8.0),
    "1.5B": Shape(28, 1536, 12, 2, 8960, 151_936, 32_768, 1e6, "qwen2", output_scale=8.0),
}


def model_path(name: str) -> Path:
    return MODELS_DIR / f"random-{name}-q4_0.gguf"


def words() -> Iterator[str]:
    """a, b, …, z, aa, ab, … : with a space before it, each is one token of the vocabulary."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def write_model(name: str, path: Path) -> None:
    """Write the model of that name to `path`, in one go: a broken file never has the final name."""
    shape = SHAPES[name]
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    _add_metadata(writer, name, shape)
    _add_vocabulary(writer, shape)
    _add_tensors(writer, shape, np.random.default_rng(0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _add_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    writer.add_name(f"random {name}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.num_embd)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.num_ff)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_rope_dimension_count(shape.num_embd // shape.num_heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.num_vocab)


def _add_vocabulary(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Special tokens, bytes, words. A word merges letter by letter, so it always is one token."""
    num_words = shape.num_vocab - len(SPECIAL_TOKENS) - NUM_BYTES
    chosen = list(itertools.islice(words(), num_words))
    texts = [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet()), *(f"Ġ{word}" for word in chosen)]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    num_normal = shape.num_vocab - len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.pre_tokenizer)
    writer.add_token_list(texts)
    writer.add_token_types([control] * len(SPECIAL_TOKENS) + [normal] * num_normal)
    writer.add_token_merges([f"Ġ{word[:-1]} {word[-1]}" for word in chosen])
    writer.add_bos_token_id(texts.index("<|im_start|>"))
    writer.add_eos_token_id(texts.index("<|im_end|>"))
    writer.add_add_bos_token(False)


def _add_tensors(writer: gguf.GGUFWriter, shape: Shape, rng: np.random.Generator) -> None:
    q4_0, q8_0 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0

    def matrix(
        name: str, num_out: int, num_in: int, weight_type: gguf.GGMLQuantizationType = q4_0
    ) -> None:
        values = rng.standard_normal((num_out, num_in), dtype=np.float32) * np.float32(WEIGHT_SCALE)
        if name == "token_embd":
            # Logits of zero: end of generation and broken characters are never chosen.
            values[: len(SPECIAL_TOKENS) + NUM_BYTES] = 0
        quantized = gguf.quants.quantize(values, weight_type)
        writer.add_tensor(f"{name}.weight", quantized, raw_dtype=weight_type)

    def norm(name: str, scale: float = 1.0) -> None:
        writer.add_tensor(f"{name}.weight", np.full(shape.num_embd, scale, dtype=np.float32))

    kv_size = shape.num_embd // shape.num_heads * shape.num_kv_heads
    matrix("token_embd", shape.num_vocab, shape.num_embd, q8_0)
    norm("output_norm", shape.output_scale)
    for layer in range(shape.num_layers):
        prefix = f"blk.{layer}."
        norm(f"{prefix}attn_norm")
        matrix(f"{prefix}attn_q", shape.num_embd, shape.num_embd)
        matrix(f"{prefix}attn_k", kv_size, shape.num_embd)
        matrix(f"{prefix}attn_v", kv_size, shape.num_embd)
        matrix(f"{prefix}attn_output", shape.num_embd, shape.num_embd)
        norm(f"{prefix}ffn_norm")
        matrix(f"{prefix}ffn_gate", shape.num_ff, shape.num_embd)
        matrix(f"{prefix}ffn_up", shape.num_ff, shape.num_embd)
        matrix(f"{prefix}ffn_down", shape.num_embd, shape.num_ff)


def ensure_model(name: str, *, force: bool = False) -> Path:
    """The path of the model, written first if it is not there."""
    path = model_path(name)
    if force or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        write_model(name, path)
        took_s = time.perf_counter() - start
        print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB in {took_s:.0f} s")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write random-weight models for the benches.")
    parser.add_argument("names", nargs="+", choices=SHAPES, metavar="NAME", help=", ".join(SHAPES))
    parser.add_argument("--force", action="store_true", help="write it again if it is there")
    arguments = parser.parse_args()
    for name in arguments.names:
        print(ensure_model(name, force=arguments.force))


if __name__ == "__main__":
    main()
