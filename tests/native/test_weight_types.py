"""Every weight type that llama.cpp writes, on this machine's kernels, repacked and as in the file.

The model is random, and its shapes are those that the fast kernels ask for: columns in multiples of
256, rows in multiples of 32. Its logits are compared with those of the same weights in f32, so that
only the rounding of activations is left, which is small for every type.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from tests.llamacpp_source import llamacpp_source
from tests.native.tiny_models import SPECIAL_TOKENS, vocabulary
from tgi_llamacpp.native import _build_info

__all__ = ["llamacpp_source"]  # a fixture

SOURCE = Path(__file__).with_name("weight_types.cpp")
ROW_COUNTS = (1, 3, 4, 7, 64)
WIDTH, NUM_FF, HEAD_DIM, NUM_HEADS, NUM_KV_HEADS = 256, 512, 64, 4, 2
NUM_VOCAB = 320

# What every matrix becomes ("pure"), and llama.h's number of it.
TYPES = {
    "F16": 1,
    "BF16": 32,
    "Q8_0": 7,
    "Q6_K": 18,
    "Q5_K": 16,
    "Q5_1": 9,
    "Q5_0": 8,
    "Q4_K": 14,
    "Q4_1": 3,
    "Q4_0": 2,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
    "Q3_K": 11,
    "IQ3_S": 26,
    "IQ3_XXS": 23,
    "Q2_K": 10,
    "IQ2_S": 28,
    "IQ2_XS": 20,
    "IQ2_XXS": 19,
    "IQ1_S": 24,
    "IQ1_M": 31,
    "TQ2_0": 37,
    "TQ1_0": 36,
    "MXFP4": 38,
    "Q1_0": 40,
    "Q2_0": 41,
}
SLOW_TO_WRITE = ("IQ1_S", "IQ1_M")
ALL_F32 = 0
MAX_ERROR = 0.04  # of logits, as a share of their length: a kernel that is wrong is near 1 or above

Weights = dict[str, npt.NDArray[np.float32]]
Logits = list[npt.NDArray[np.float32]]


class WeightTypes:
    """The program, and the files of one model."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self.f32 = write_f32_model(folder / "F32.gguf", random_weights())

    def quantized(self, name: str) -> Path:
        path = self._folder / f"{name}.gguf"
        self._run("quantize", str(self.f32), str(path), str(TYPES[name]))
        return path

    def in_f32(self, path: Path) -> Path:
        """The weights of a quantized file, as they are, in f32."""
        unpacked = path.with_suffix(".f32.gguf")
        self._run("quantize", str(path), str(unpacked), str(ALL_F32))
        return unpacked

    def logits(self, path: Path, *, is_repacked: bool) -> Logits:
        rows = [str(count) for count in ROW_COUNTS]
        output = self._run("logits", str(path), str(int(is_repacked)), *rows)
        flat = np.frombuffer(output, np.float32).reshape(-1, NUM_VOCAB)
        return np.split(flat, np.cumsum(ROW_COUNTS)[:-1])

    def _run(self, *arguments: str) -> bytes:
        result = subprocess.run([self._program, *arguments], capture_output=True, timeout=100)
        assert result.returncode == 0, (arguments, result.returncode, result.stderr.decode())
        return result.stdout


@pytest.fixture(scope="module")
def weight_types(native_program: Path, tmp_path_factory: pytest.TempPathFactory) -> WeightTypes:
    return WeightTypes(native_program, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def native_program(llamacpp_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """weight_types.cpp, on the libraries that the package runs on."""
    libraries = Path(_build_info.__file__).parent / "lib"
    program = tmp_path_factory.mktemp("program") / "weight_types"
    command = [
        *(os.environ.get("CXX", "c++"), "-std=c++17", "-O1", SOURCE, "-o", program),
        *(f"-I{llamacpp_source / folder}" for folder in ("include", "ggml/include")),
        *(f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lllama", "-lggml", "-lggml-base"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    return program


def random_weights() -> Weights:
    """Two layers of a Llama."""
    rng = np.random.default_rng(12)

    def matrix(num_rows: int, num_columns: int, gain: float = 1.0) -> npt.NDArray[np.float32]:
        values = rng.standard_normal((num_rows, num_columns)) * gain / np.sqrt(num_columns)
        return values.astype(np.float32)

    def norm() -> npt.NDArray[np.float32]:
        return (1 + 0.1 * rng.standard_normal(WIDTH)).astype(np.float32)

    weights = {
        "token_embd": matrix(NUM_VOCAB, WIDTH, gain=16.0),
        "output_norm": norm(),
        "output": matrix(NUM_VOCAB, WIDTH, gain=2.0),
    }
    for layer in ("blk.0", "blk.1"):
        weights |= {
            f"{layer}.attn_norm": norm(),
            f"{layer}.attn_q": matrix(NUM_HEADS * HEAD_DIM, WIDTH),
            f"{layer}.attn_k": matrix(NUM_KV_HEADS * HEAD_DIM, WIDTH),
            f"{layer}.attn_v": matrix(NUM_KV_HEADS * HEAD_DIM, WIDTH),
            f"{layer}.attn_output": matrix(WIDTH, NUM_HEADS * HEAD_DIM),
            f"{layer}.ffn_norm": norm(),
            f"{layer}.ffn_gate": matrix(NUM_FF, WIDTH),
            f"{layer}.ffn_up": matrix(NUM_FF, WIDTH),
            f"{layer}.ffn_down": matrix(WIDTH, NUM_FF),
        }
    return {f"{name}.weight": values for name, values in weights.items()}


def write_f32_model(path: Path, weights: Weights) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(NUM_FF)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    texts = vocabulary()
    texts += [f"<unused{number}>" for number in range(NUM_VOCAB - len(texts))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types([gguf.TokenType.NORMAL] * NUM_VOCAB)
    writer.add_token_merges(["Ġ n"])
    writer.add_eos_token_id(len(SPECIAL_TOKENS) - 1)
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def lost(logits: Logits, reference: Logits) -> dict[int, float]:
    """By the number of rows: the length of the difference, in lengths of the reference.

    Not a number where a logit is not one.
    """
    return {
        count: float(np.linalg.norm(one - other) / np.linalg.norm(other))
        for count, one, other in zip(ROW_COUNTS, logits, reference, strict=True)
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in SLOW_TO_WRITE else name
        for name in TYPES
    ],
)
def test_a_weight_type_gives_its_weights_logits_with_any_number_of_rows(
    weight_types: WeightTypes, name: str
) -> None:
    path = weight_types.quantized(name)
    reference = weight_types.logits(weight_types.in_f32(path), is_repacked=False)
    for is_repacked in (False, True):
        logits = weight_types.logits(path, is_repacked=is_repacked)
        errors = lost(logits, reference)
        assert max(errors.values()) < MAX_ERROR, errors


def test_f32_weights_give_the_same_logits_with_and_without_repack(
    weight_types: WeightTypes,
) -> None:
    plain, repacked = (
        weight_types.logits(weight_types.f32, is_repacked=is_repacked)
        for is_repacked in (False, True)
    )
    assert max(lost(repacked, plain).values()) < 1e-4
