"""Whether a second engine fits in memory beside the one that serves.

Reckons from what that one takes now, and from how the weights and the KV cache of the two differ.
Knows the memory of the machine, and not that of a GPU. Called by router/rollover.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgi_llamacpp import machine
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.router.gguf_metadata import GgufMetadata
from tgi_llamacpp.router.preparation import Preparation

# Bits of one number in a block of ggml's, its scale included.
_BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0,
    "q4_0": 4.5, "iq4_nl": 4.5,
}  # fmt: skip
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes; available is None where the machine does not say."""

    needed: int
    available: int | None

    @property
    def fits(self) -> bool:
        return self.available is None or self.needed <= self.available

    def __str__(self) -> str:
        available = "unknown" if self.available is None else f"{self.available / _MIB:.0f} MiB"
        return f"{self.needed / _MIB:.0f} MiB needed, {available} available"


def second_engine(
    old: Preparation, new: Preparation, old_pid: int | None, num_held_bytes: int
) -> MemoryNeed:
    """What an engine for `new` would need, while that for `old` runs as process old_pid.

    num_held_bytes: of that process's, the prefixes in host memory, which the new engine lacks.
    """
    resident = machine.resident_bytes(old_pid) - num_held_bytes if old_pid is not None else 0
    old_cache, new_cache = (kv_cache_bytes(one.metadata, one.engine_config) for one in (old, new))
    weights = new.num_weight_bytes
    grown = resident + weights - old.num_weight_bytes + new_cache - old_cache
    needed = max(grown, weights + new_cache)
    is_shared = old.weights == new.weights and old.derived.use_mmap and new.derived.use_mmap
    if is_shared:  # both map the same pages
        needed -= weights
    return MemoryNeed(needed, machine.available_memory_bytes())


def kv_cache_bytes(metadata: GgufMetadata, config: EngineConfig) -> int:
    """Of the whole budget; 0 where the file does not say how large heads are."""
    num_layers = _number(metadata, "block_count")
    num_heads = _number(metadata, "attention.head_count")
    width = _number(metadata, "embedding_length")
    head_size = width // num_heads if num_heads else 0
    key_size = _number(metadata, "attention.key_length", head_size)
    value_size = _number(metadata, "attention.value_length", head_size)
    num_kv_heads = _of_all_layers(metadata, num_layers, num_heads)
    bits = key_size * _BITS[config.type_k] + value_size * _BITS[config.type_v]
    return int(config.max_batch_total_tokens * num_kv_heads * bits / 8)


def _number(metadata: GgufMetadata, key: str, default: int = 0) -> int:
    value = metadata.values.get(f"{metadata.architecture}.{key}")
    if isinstance(value, np.ndarray):
        return int(value.max(initial=0))
    return value if isinstance(value, int) else default


def _of_all_layers(metadata: GgufMetadata, num_layers: int, num_heads: int) -> int:
    """KV heads, summed over layers, of which each may have its own number."""
    value = metadata.values.get(f"{metadata.architecture}.attention.head_count_kv")
    if isinstance(value, np.ndarray):
        return int(value.sum())
    return num_layers * (value if isinstance(value, int) else num_heads)
