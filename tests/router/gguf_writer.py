"""Writes small GGUF files for tests, also wrong ones: the bytes are the caller's to damage."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
ALIGNMENT = 32
Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


def tensor(name: str, shape: Sequence[int] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    """One tensor's description: f32 unless `kind` says otherwise."""
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def gguf(
    values: Mapping[str, Value],
    tensors: Sequence[bytes] = (),
    *,
    data: bytes = b"",
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    """A whole file; `data` follows the header, aligned."""
    pairs = b"".join(text(key) + value_bytes(value) for key, value in values.items())
    counts = struct.pack("<IQQ", version, len(tensors), len(values))
    header = magic + counts + pairs + b"".join(tensors)
    padding = b"\0" * (-len(header) % ALIGNMENT) if tensors else b""
    return header + padding + data


def model(values: Mapping[str, Value]) -> bytes:
    """A file with one tensor, as a model has at least."""
    return gguf(values, [tensor("token_embd.weight")], data=bytes(128))


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value_bytes(value: Value) -> bytes:
    """The value with its type before it: an int is u32, a list an array of what its first is."""
    if isinstance(value, list | tuple):
        kind = kind_of(value[0]) if value else I32
        kind = I32 if kind == U32 else kind
        items = b"".join(bare(item, kind) for item in value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    assert isinstance(value, bool | int | float | str)
    return struct.pack("<I", kind_of(value)) + bare(value, kind_of(value))


def kind_of(value: object) -> int:
    kinds: dict[type, int] = {bool: BOOL, int: U32, float: F32, str: STRING, bytes: STRING}
    return kinds[type(value)]


def bare(value: object, kind: int) -> bytes:
    if kind == STRING:
        assert isinstance(value, str | bytes)
        return text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)
