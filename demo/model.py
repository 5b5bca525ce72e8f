"""A small Llama: RMSNorm, interleaved RoPE, grouped-query attention, SwiGLU, tied embeddings.

The tensors have llama.cpp's layout and order of rotary pairs, so the export copies them as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    vocab: int = 1280
    context: int = 2048
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 640
    rope_base: float = 10000.0
    norm_eps: float = 1e-5


class Matrix(nn.Module):
    def __init__(self, rows: int, columns: int, std: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns) * std)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Norm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def rope_table(shape: Shape) -> tuple[Tensor, Tensor]:
    rates = shape.rope_base ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angles = torch.arange(shape.context).float()[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the neighbouring pairs of the last dimension; `x` is (batch, head, time, dim)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        std, out_std = shape.width**-0.5, (2 * shape.layers * shape.width) ** -0.5
        inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.attn_norm = Norm(shape.width, shape.norm_eps)
        self.attn_q = Matrix(inner, shape.width, std)
        self.attn_k = Matrix(kv, shape.width, std)
        self.attn_v = Matrix(kv, shape.width, std)
        self.attn_output = Matrix(shape.width, inner, out_std)
        self.ffn_norm = Norm(shape.width, shape.norm_eps)
        self.ffn_gate = Matrix(shape.ffn, shape.width, std)
        self.ffn_up = Matrix(shape.ffn, shape.width, std)
        self.ffn_down = Matrix(shape.width, shape.ffn, out_std)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        s = self.shape
        b, t, _ = x.shape

        def heads(y: Tensor, n: int) -> Tensor:
            return y.view(b, t, n, s.head_dim).transpose(1, 2)

        q = rotate(heads(self.attn_q(x), s.heads), cos, sin)
        k = rotate(heads(self.attn_k(x), s.kv_heads), cos, sin)
        v = heads(self.attn_v(x), s.kv_heads)
        y = F.scaled_dot_product_attention(q, k.to(q), v.to(q), is_causal=True, enable_gqa=True)
        return self.attn_output(y.transpose(1, 2).reshape(b, t, -1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attend(self.attn_norm(x), cos, sin)
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Model(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.token_embd = Matrix(shape.vocab, shape.width, 0.02)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = Norm(shape.width, shape.norm_eps)
        cos, sin = rope_table(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, tokens: Tensor) -> Tensor:
        t = tokens.shape[1]
        x = F.embedding(tokens, self.token_embd.weight)
        for block in self.blk:
            x = block(x, self.cos[:t], self.sin[:t])
        return self.output_norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embd(self.hidden(tokens))

    def loss(self, tokens: Tensor, learn: Tensor) -> Tensor:
        """Mean cross-entropy of the next token where `learn` marks that token."""
        where = learn[:, 1:]
        logits = self.token_embd(self.hidden(tokens)[:, :-1][where])
        return F.cross_entropy(logits.float(), tokens[:, 1:][where])


def load(path: Path | None) -> Model:
    """The model of a checkpoint or of a GGUF file, or random weights."""
    torch.manual_seed(0)
    model = Model(Shape())
    if path and path.suffix == ".gguf":
        model.load_state_dict(
            {
                t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type)).clone()
                for t in gguf.GGUFReader(path).tensors
            }
        )
    elif path:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
    return model
