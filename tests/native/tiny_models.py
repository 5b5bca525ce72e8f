"""Tiny random GGUFs, one for each kind of memory that llama.cpp has, one for each kind we refuse.

They load in milliseconds and answer nonsense that depends on every token of the context, so a
mixed-up KV cell shows as other text. What an architecture must carry is llama.cpp's affair; nothing
here knows the runner. test_runner.py and the engine's tests call write_tiny_model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers.pre_tokenizers import ByteLevel

Float32s = npt.NDArray[np.float32]

CONTEXT_LENGTH = 512
SLIDING_WINDOW = 32
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MERGES = (*(f"{left} {right}" for left in "Ġaeiou" for right in "nrst"), "Ġa b", "Ġab c")
_BLOCK = 32  # columns in one block of the simple quantized types

_NUM_EMBD = 64
_NUM_FF = 128
_NUM_HEADS = 4
_NUM_KV_HEADS = 2
_HEAD_DIM = _NUM_EMBD // _NUM_HEADS
_NUM_LAYERS = 2
_NUM_EXPERTS = 4
_STATE_DIM = 16
_CONV_WIDTH = 4
_STEP_RANK = 4


def write_tiny_model(
    kind: str, path: Path, *, seed: int = 0, weight_type: str = "F32", with_eog: bool = True
) -> Path:
    """Write a GGUF of `kind` (one of GENERATING or REFUSED) and return `path`.

    The same arguments give the same bytes. Vocabulary: SPECIAL_TOKENS, 256 bytes, some merges;
    "<|im_end|>" ends a generation. `weight_type` names a type that gguf can quantize to, for all
    matrices whose rows are whole blocks: F32, F16, Q8_0, Q5_1, Q4_0 and so on. With `with_eog`
    False the logits of the special tokens are zero, where the best of the others is above 2.

    Raises:
        KeyError: no such kind or weight type.
    """
    arch, build = _KINDS[kind]
    model = _Model(arch, path, seed, gguf.GGMLQuantizationType[weight_type], with_eog)
    build(model)
    model.save()
    return path


def vocabulary() -> list[str]:
    """Texts of all tokens by id, in GPT-2's alphabet for bytes."""
    merged = [merge.replace(" ", "") for merge in _MERGES]
    return [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet()), *merged]


class _Model:
    """A GGUF in the making: metadata that all architectures share, and random tensors."""

    def __init__(
        self,
        arch: str,
        path: Path,
        seed: int,
        weight_type: gguf.GGMLQuantizationType,
        with_eog: bool,
    ) -> None:
        self.writer = gguf.GGUFWriter(path, arch)
        self._rng = np.random.default_rng(seed)
        self._weight_type = weight_type
        self._with_eog = with_eog
        self.num_vocab = len(vocabulary())

    def save(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def metadata(self, *, num_kv_heads: int | list[int] = _NUM_KV_HEADS) -> None:
        writer = self.writer
        writer.add_name("tiny-random")
        writer.add_context_length(CONTEXT_LENGTH)
        writer.add_embedding_length(_NUM_EMBD)
        writer.add_block_count(_NUM_LAYERS)
        writer.add_feed_forward_length(_NUM_FF)
        writer.add_head_count(_NUM_HEADS)
        writer.add_head_count_kv(num_kv_heads)
        writer.add_layer_norm_rms_eps(1e-5)

    def tokenizer(self) -> None:
        texts = vocabulary()
        control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
        num_special = len(SPECIAL_TOKENS)
        writer = self.writer
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(texts)
        writer.add_token_types([control] * num_special + [normal] * (len(texts) - num_special))
        writer.add_token_merges(_MERGES)
        writer.add_bos_token_id(texts.index("<|im_start|>"))
        writer.add_eos_token_id(texts.index("<|im_end|>"))
        writer.add_add_bos_token(False)

    def matrix(self, name: str, *shape: int, gain: float = 1.0) -> None:
        """Random weights, shape (..., out, in); a unit input gives outputs of variance gain²."""
        self._add(name, self._normal(shape, gain / np.sqrt(shape[-1])))

    def constant(self, name: str, *shape: int, value: float = 1.0) -> None:
        self.writer.add_tensor(name, np.full(shape, value, dtype=np.float32))

    def near_one(self, name: str, size: int) -> None:
        """The weights of a norm."""
        self.writer.add_tensor(name, 1 + self._normal((size,), 0.1))

    def raw(self, name: str, values: Float32s) -> None:
        self.writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))

    def embeddings(self, *, output: bool = True) -> None:
        self._add("token_embd.weight", self._normal((self.num_vocab, _NUM_EMBD), 1.0))
        self.near_one("output_norm.weight", _NUM_EMBD)
        if output:
            rows = self._normal((self.num_vocab, _NUM_EMBD), 2 / np.sqrt(_NUM_EMBD))
            if not self._with_eog:
                rows[: len(SPECIAL_TOKENS)] = 0
            self._add("output.weight", rows)

    def _normal(self, shape: tuple[int, ...], scale: float) -> Float32s:
        return (self._rng.standard_normal(shape) * scale).astype(np.float32)

    def _add(self, name: str, values: Float32s) -> None:
        if values.shape[-1] % _BLOCK or self._weight_type == gguf.GGMLQuantizationType.F32:
            self.writer.add_tensor(name, values)
            return
        quantized = gguf.quants.quantize(values, self._weight_type)
        self.writer.add_tensor(name, quantized, raw_dtype=self._weight_type)


def _attention(model: _Model, prefix: str, *, gain: float = 1.0) -> None:
    kv_size = _NUM_KV_HEADS * _HEAD_DIM
    model.matrix(f"{prefix}attn_q.weight", _NUM_EMBD, _NUM_EMBD, gain=2 * gain)
    model.matrix(f"{prefix}attn_k.weight", kv_size, _NUM_EMBD, gain=gain)
    model.matrix(f"{prefix}attn_v.weight", kv_size, _NUM_EMBD, gain=gain)
    model.matrix(f"{prefix}attn_output.weight", _NUM_EMBD, _NUM_EMBD, gain=2 * gain)


def _feed_forward(model: _Model, prefix: str) -> None:
    model.matrix(f"{prefix}ffn_gate.weight", _NUM_FF, _NUM_EMBD)
    model.matrix(f"{prefix}ffn_up.weight", _NUM_FF, _NUM_EMBD)
    model.matrix(f"{prefix}ffn_down.weight", _NUM_EMBD, _NUM_FF, gain=2)


def _experts(model: _Model, prefix: str) -> None:
    model.matrix(f"{prefix}ffn_gate_inp.weight", _NUM_EXPERTS, _NUM_EMBD, gain=2)
    model.matrix(f"{prefix}ffn_gate_exps.weight", _NUM_EXPERTS, _NUM_FF, _NUM_EMBD)
    model.matrix(f"{prefix}ffn_up_exps.weight", _NUM_EXPERTS, _NUM_FF, _NUM_EMBD)
    model.matrix(f"{prefix}ffn_down_exps.weight", _NUM_EXPERTS, _NUM_EMBD, _NUM_FF, gain=2)


def _state_space(model: _Model, prefix: str, *, inner_norms: bool) -> None:
    inner = 2 * _NUM_EMBD
    model.matrix(f"{prefix}ssm_in.weight", 2 * inner, _NUM_EMBD)
    model.matrix(f"{prefix}ssm_conv1d.weight", inner, _CONV_WIDTH)
    model.constant(f"{prefix}ssm_conv1d.bias", inner, value=0.1)
    model.matrix(f"{prefix}ssm_x.weight", _STEP_RANK + 2 * _STATE_DIM, inner, gain=2)
    model.matrix(f"{prefix}ssm_dt.weight", inner, _STEP_RANK)
    model.constant(f"{prefix}ssm_dt.bias", inner, value=-2.0)  # slow: the state spans many tokens
    decay = -np.arange(1, _STATE_DIM + 1, dtype=np.float32)
    model.raw(f"{prefix}ssm_a", np.tile(decay, (inner, 1)))
    model.constant(f"{prefix}ssm_d", inner)
    model.matrix(f"{prefix}ssm_out.weight", _NUM_EMBD, inner, gain=2)
    if inner_norms:
        model.near_one(f"{prefix}ssm_dt_norm.weight", _STEP_RANK)
        model.near_one(f"{prefix}ssm_b_norm.weight", _STATE_DIM)
        model.near_one(f"{prefix}ssm_c_norm.weight", _STATE_DIM)


def _build_llama(model: _Model) -> None:
    model.metadata()
    model.writer.add_rope_dimension_count(_HEAD_DIM)
    model.tokenizer()
    model.embeddings()
    for layer in range(_NUM_LAYERS):
        prefix = f"blk.{layer}."
        model.near_one(f"{prefix}attn_norm.weight", _NUM_EMBD)
        _attention(model, prefix)
        model.near_one(f"{prefix}ffn_norm.weight", _NUM_EMBD)
        _feed_forward(model, prefix)


def _build_llama_with_experts(model: _Model) -> None:
    model.metadata()
    model.writer.add_rope_dimension_count(_HEAD_DIM)
    model.writer.add_expert_count(_NUM_EXPERTS)
    model.writer.add_expert_used_count(2)
    model.tokenizer()
    model.embeddings()
    for layer in range(_NUM_LAYERS):
        prefix = f"blk.{layer}."
        model.near_one(f"{prefix}attn_norm.weight", _NUM_EMBD)
        _attention(model, prefix)
        model.near_one(f"{prefix}ffn_norm.weight", _NUM_EMBD)
        _experts(model, prefix)


def _build_gemma3(model: _Model) -> None:
    """The first layer slides, the second sees everything."""
    model.metadata()
    model.writer.add_key_length(_HEAD_DIM)
    model.writer.add_value_length(_HEAD_DIM)
    model.writer.add_sliding_window(SLIDING_WINDOW)
    model.writer.add_sliding_window_pattern(2)
    model.tokenizer()
    model.embeddings()
    for layer in range(_NUM_LAYERS):
        prefix = f"blk.{layer}."
        _attention(model, prefix)
        _feed_forward(model, prefix)
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            # the embeddings are scaled by sqrt(num_embd): let the layers weigh as much
            gain = np.sqrt(_NUM_EMBD) if norm.startswith("post") else 1.0
            model.constant(f"{prefix}{norm}.weight", _NUM_EMBD, value=gain)
        model.near_one(f"{prefix}attn_q_norm.weight", _HEAD_DIM)
        model.near_one(f"{prefix}attn_k_norm.weight", _HEAD_DIM)


def _add_state_space_metadata(model: _Model) -> None:
    model.writer.add_ssm_conv_kernel(_CONV_WIDTH)
    model.writer.add_ssm_inner_size(2 * _NUM_EMBD)
    model.writer.add_ssm_state_size(_STATE_DIM)
    model.writer.add_ssm_time_step_rank(_STEP_RANK)


def _build_mamba(model: _Model) -> None:
    model.metadata()
    _add_state_space_metadata(model)
    model.tokenizer()
    model.embeddings()
    for layer in range(_NUM_LAYERS):
        prefix = f"blk.{layer}."
        model.near_one(f"{prefix}attn_norm.weight", _NUM_EMBD)
        _state_space(model, prefix, inner_norms=False)


def _build_jamba(model: _Model) -> None:
    """One recurrent layer and one with attention."""
    model.metadata(num_kv_heads=[0, _NUM_KV_HEADS])
    _add_state_space_metadata(model)
    model.tokenizer()
    model.embeddings()
    for layer in range(_NUM_LAYERS):
        prefix = f"blk.{layer}."
        model.near_one(f"{prefix}attn_norm.weight", _NUM_EMBD)
        if layer == 0:
            _state_space(model, prefix, inner_norms=True)
        else:
            _attention(model, prefix)
        model.near_one(f"{prefix}ffn_norm.weight", _NUM_EMBD)
        _feed_forward(model, prefix)


def _build_t5(model: _Model) -> None:
    model.metadata(num_kv_heads=_NUM_HEADS)
    model.writer.add_relative_attn_buckets_count(8)
    model.writer.add_decoder_start_token_id(0)
    model.tokenizer()
    model.matrix("token_embd.weight", model.num_vocab, _NUM_EMBD)
    for half, parts in (("enc", ("attn",)), ("dec", ("attn", "cross_attn"))):
        model.near_one(f"{half}.output_norm.weight", _NUM_EMBD)
        for layer in range(_NUM_LAYERS):
            prefix = f"{half}.blk.{layer}."
            model.matrix(f"{prefix}attn_rel_b.weight", 8, _NUM_HEADS)
            for part in parts:
                model.near_one(f"{prefix}{part}_norm.weight", _NUM_EMBD)
                for letter in ("q", "k", "v", "o"):
                    model.matrix(f"{prefix}{part}_{letter}.weight", _NUM_EMBD, _NUM_EMBD)
            model.near_one(f"{prefix}ffn_norm.weight", _NUM_EMBD)
            model.matrix(f"{prefix}ffn_up.weight", _NUM_FF, _NUM_EMBD)
            model.matrix(f"{prefix}ffn_down.weight", _NUM_EMBD, _NUM_FF)


def _build_bert(model: _Model) -> None:
    model.metadata(num_kv_heads=_NUM_HEADS)
    model.writer.add_layer_norm_eps(1e-5)
    model.writer.add_causal_attention(False)
    model.writer.add_pooling_type(gguf.PoolingType.MEAN)
    model.tokenizer()
    model.writer.add_token_type_count(2)
    model.matrix("token_embd.weight", model.num_vocab, _NUM_EMBD)
    model.matrix("position_embd.weight", CONTEXT_LENGTH, _NUM_EMBD)
    norms = ["token_embd_norm"]
    for layer in range(_NUM_LAYERS):
        prefix = f"blk.{layer}."
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            model.matrix(f"{prefix}{part}.weight", _NUM_EMBD, _NUM_EMBD)
        model.matrix(f"{prefix}ffn_up.weight", _NUM_FF, _NUM_EMBD)
        model.matrix(f"{prefix}ffn_down.weight", _NUM_EMBD, _NUM_FF)
        norms += [f"{prefix}attn_output_norm", f"{prefix}layer_output_norm"]
    for norm in norms:
        model.near_one(f"{norm}.weight", _NUM_EMBD)
        model.constant(f"{norm}.bias", _NUM_EMBD, value=0.0)


def _build_projector(model: _Model) -> None:
    """What people download as mmproj.gguf: a vision encoder without a language model."""
    writer = model.writer
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_uint32("clip.vision.image_size", 32)
    writer.add_uint32("clip.vision.patch_size", 16)
    writer.add_uint32("clip.vision.embedding_length", _NUM_EMBD)
    writer.add_uint32("clip.vision.block_count", 1)
    model.matrix("v.position_embd.weight", 5, _NUM_EMBD)
    model.matrix("mm.0.weight", _NUM_EMBD, _NUM_EMBD)


_Builder = Callable[[_Model], None]

GENERATING = ("attention", "sliding_window", "recurrent", "hybrid", "experts")
REFUSED = ("encoder_decoder", "embedding", "diffusion", "vision")
_KINDS: dict[str, tuple[str, _Builder]] = {
    "attention": ("llama", _build_llama),
    "sliding_window": ("gemma3", _build_gemma3),
    "recurrent": ("mamba", _build_mamba),
    "hybrid": ("jamba", _build_jamba),
    "experts": ("llama", _build_llama_with_experts),
    "encoder_decoder": ("t5", _build_t5),
    "embedding": ("bert", _build_bert),
    "diffusion": ("dream", _build_llama),
    "vision": ("clip", _build_projector),
}
