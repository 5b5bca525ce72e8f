"""Reads the header of a GGUF file: key/value pairs and the table of tensors, never tensor data.

A file is somebody else's bytes: every length is checked against the file's end before it is used,
and the tensors must lie where the header says, inside the file. Whatever is wrong becomes one
StartupError that names the file, what was found and the remedy, because the same file would abort
the engine's process. Knows nothing of what the keys mean; gguf_metadata.py does.
"""

from __future__ import annotations

import mmap
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.files import unreadable

GgufScalar = int | float | bool | str
GgufValue = GgufScalar | list[str] | np.ndarray

_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_KEY_BYTES = 1 << 16
_MAX_TENSOR_NAME_BYTES = 63
_MAX_DIMS = 4
_MAX_ELEMENTS = 2**63 - 1
_DEFAULT_ALIGNMENT = 32

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_STRING_TYPE = 8
_ARRAY_TYPE = 9
_BOOL_TYPE = 7
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL_TYPE: np.dtype("<u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}

# ggml's tensor types: id -> (elements of a block, bytes of a block).
_TENSOR_TYPES = {
    0: (1, 4),  # f32
    1: (1, 2),  # f16
    2: (32, 18),  # q4_0
    3: (32, 20),  # q4_1
    6: (32, 22),  # q5_0
    7: (32, 24),  # q5_1
    8: (32, 34),  # q8_0
    9: (32, 36),  # q8_1
    10: (256, 84),  # q2_K
    11: (256, 110),  # q3_K
    12: (256, 144),  # q4_K
    13: (256, 176),  # q5_K
    14: (256, 210),  # q6_K
    15: (256, 292),  # q8_K
    16: (256, 66),  # iq2_xxs
    17: (256, 74),  # iq2_xs
    18: (256, 98),  # iq3_xxs
    19: (256, 50),  # iq1_s
    20: (32, 18),  # iq4_nl
    21: (256, 110),  # iq3_s
    22: (256, 82),  # iq2_s
    23: (256, 136),  # iq4_xs
    24: (1, 1),  # i8
    25: (1, 2),  # i16
    26: (1, 4),  # i32
    27: (1, 8),  # i64
    28: (1, 8),  # f64
    29: (256, 56),  # iq1_m
    30: (1, 2),  # bf16
    34: (256, 54),  # tq1_0
    35: (256, 66),  # tq2_0
    39: (32, 17),  # mxfp4
    40: (64, 36),  # nvfp4
    41: (128, 18),  # q1_0
    42: (64, 18),  # q2_0
}

DOWNLOAD_AGAIN = "download it again"
# What is found in the place of a model -> what to do. Where none fits, see _what_else.
_OTHER_FILES = (
    (rb"version https://git-lfs", "a Git LFS pointer; fetch the model itself with `git lfs pull`"),
    (rb"\s*<(!doctype|html|\?xml)", "a web page; download the file itself, not the page about it"),
    (rb"\0{64}", f"zeros, as of a download that did not finish; {DOWNLOAD_AGAIN}"),
    (rb"\0\x05\x16[\0\x07]", "what macOS keeps beside a file; give the file without `._`"),
    (rb"lmgg|fmgg|tjgg|algg", "a model in a format before GGUF; convert it again"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|\xfd7zXZ|\x28\xb5\x2f\xfd", "an archive; unpack it"),
    (rb"[^\0]{1,3}\0{5,7}\{", "of Safetensors; convert it to GGUF"),
)
_MAX_QUOTED_BYTES = 200  # of a text in the place of a model, such as a server's error


@dataclass(frozen=True)
class GgufFile:
    """A verified header. Number arrays are little-endian numpy arrays, string arrays lists.

    Bytes that are no UTF-8 survive as lone surrogates (surrogateescape).
    """

    path: Path
    values: dict[str, GgufValue]
    num_tensors: int


def read_gguf(path: Path) -> GgufFile:
    """The header of `path`, with every tensor's place checked against the file's size.

    Raises:
        StartupError: the file cannot be read, is no GGUF, or is truncated or corrupt.
    """
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise StartupError(f"{path} is not a regular file; give a .gguf file")
        if info.st_size == 0:
            raise StartupError(f"{path} is empty; {DOWNLOAD_AGAIN}")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _HeaderReader(path, data).read()
    except OSError as error:
        raise unreadable(path, error) from error


class _HeaderReader:
    """One pass over the header; `_pos` is the next byte, `_place` names what is being read."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._pos = 0
        self._place = "the header"

    def read(self) -> GgufFile:
        num_tensors, num_pairs = self._read_preamble()
        values: dict[str, GgufValue] = {}
        for _ in range(num_pairs):
            self._place = f"key number {len(values)}"
            key = self._string(_MAX_KEY_BYTES)
            if not key or key in values:
                raise self._corrupt(f"key {key!r:.80} is {'there twice' if key else 'empty'}")
            self._place = f"the value of {key!r:.80}"
            values[key] = self._value(key)
        self._check_tensors(num_tensors, self._alignment(values))
        return GgufFile(self._path, values, num_tensors)

    def _read_preamble(self) -> tuple[int, int]:
        magic = bytes(self._data[:4])
        if magic != b"GGUF":
            raise StartupError(f"{self._path} is not a GGUF file: {self._what_else()}")
        self._pos = 4
        version = self._u32()
        if version not in (2, 3):
            found = "big-endian" if version & 0xFFFF == 0 else f"of GGUF version {version}"
            raise StartupError(
                f"{self._path} is {found}, and versions 2 and 3 are read; convert it again"
            )
        num_tensors, num_pairs = self._u64(), self._u64()
        if num_pairs > _MAX_PAIRS or num_tensors > _MAX_TENSORS:
            raise self._corrupt(f"it claims {num_pairs} keys and {num_tensors} tensors")
        return num_tensors, num_pairs

    def _what_else(self) -> str:
        """What the file is in place of a GGUF, and what to do."""
        head = bytes(self._data[:64])
        for pattern, description in _OTHER_FILES:
            if re.match(pattern, head, re.IGNORECASE):
                return f"it is {description}"
        if self._size <= _MAX_QUOTED_BYTES:
            text = bytes(self._data).decode("utf-8", "replace").strip()
            if text.isprintable():
                return f"it holds the text {text!r}; {DOWNLOAD_AGAIN}"
        return f"it begins with {head[:4]!r}; give a .gguf file"

    def _value(self, key: str) -> GgufValue:
        value_type = self._u32()
        if value_type == _ARRAY_TYPE:
            return self._array(key, self._u32(), self._u64())
        if value_type == _STRING_TYPE:
            return self._string(self._size)
        return self._scalars(key, value_type, 1)[0].item()  # type: ignore[no-any-return]

    def _array(self, key: str, value_type: int, count: int) -> GgufValue:
        if value_type == _STRING_TYPE:
            return self._strings(count)
        return self._scalars(key, value_type, count)

    def _scalars(self, key: str, value_type: int, count: int) -> np.ndarray:
        dtype = _SCALARS.get(value_type)
        if dtype is None:
            raise self._corrupt(f"key {key!r:.80} has the unknown type {value_type}")
        start = self._take(count * dtype.itemsize)
        values: np.ndarray = np.frombuffer(self._data, dtype, count, start)
        # A copy in any case: the map is closed soon.
        return values.astype(np.bool_) if value_type == _BOOL_TYPE else values.copy()

    def _strings(self, count: int) -> list[str]:
        """A vocabulary's worth of strings; the loop is bare, for it runs half a million times."""
        if count > (self._size - self._pos) // 8:
            raise self._truncated()
        data, pos, size, unpack = self._data, self._pos, self._size, _U64.unpack_from
        strings: list[str] = []
        append = strings.append
        for _ in range(count):
            if pos + 8 > size:
                raise self._truncated()
            start = pos + 8
            pos = start + unpack(data, pos)[0]
            if pos > size:
                raise self._truncated()
            append(data[start:pos].decode("utf-8", "surrogateescape"))
        self._pos = pos
        return strings

    def _alignment(self, values: dict[str, GgufValue]) -> int:
        alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._corrupt(f"general.alignment is {alignment}, not a power of two")
        return alignment

    def _check_tensors(self, num_tensors: int, alignment: int) -> None:
        ends: dict[str, int] = {}
        expected = 0  # tensors follow each other, each padded to the alignment
        for number in range(num_tensors):
            self._place = f"the description of tensor number {number}"
            name = self._string(_MAX_TENSOR_NAME_BYTES)
            if name in ends:
                raise self._corrupt(f"tensor {name!r} is there twice")
            num_bytes = self._tensor_bytes(name)
            offset = self._u64()
            if offset != expected:
                raise self._corrupt(f"tensor {name!r} has offset {offset}, expected {expected}")
            ends[name] = offset + num_bytes
            expected = _padded(ends[name], alignment)
        self._check_ends(ends, _padded(self._pos, alignment))

    def _tensor_bytes(self, name: str) -> int:
        num_dims = self._u32()
        if num_dims > _MAX_DIMS:
            raise self._corrupt(f"tensor {name!r} has {num_dims} dimensions, at most 4 are read")
        shape = [self._u64() for _ in range(num_dims)]
        tensor_type = self._u32()
        if tensor_type not in _TENSOR_TYPES:
            raise self._corrupt(f"tensor {name!r} has the unknown type {tensor_type}")
        block_elements, block_bytes = _TENSOR_TYPES[tensor_type]
        elements = 1
        for length in shape:
            elements *= length
        if elements > _MAX_ELEMENTS or (shape and shape[0] % block_elements):
            raise self._corrupt(f"tensor {name!r} has the impossible shape {shape}")
        return elements // block_elements * block_bytes

    def _check_ends(self, ends: dict[str, int], data_start: int) -> None:
        for name, end in ends.items():
            if data_start + end > self._size:
                raise StartupError(
                    f"{self._path} is truncated: tensor {name!r} ends at byte {data_start + end}, "
                    f"the file has {self._size}; {DOWNLOAD_AGAIN}"
                )

    def _u32(self) -> int:
        return int(_U32.unpack_from(self._data, self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack_from(self._data, self._take(8))[0])

    def _string(self, max_bytes: int) -> str:
        length = self._u64()
        if max_bytes < length <= self._size - self._pos:
            raise self._corrupt(f"{self._place} is {length} bytes long, the limit is {max_bytes}")
        start = self._take(length)
        return self._data[start : start + length].decode("utf-8", "surrogateescape")

    def _take(self, num_bytes: int) -> int:
        """The position of the next `num_bytes`, which are then behind us."""
        start = self._pos
        if num_bytes > self._size - start:
            raise self._truncated()
        self._pos = start + num_bytes
        return start

    def _truncated(self) -> StartupError:
        return StartupError(
            f"{self._path} is truncated or corrupt: its {self._size} bytes end inside "
            f"{self._place}; {DOWNLOAD_AGAIN}"
        )

    def _corrupt(self, found: str) -> StartupError:
        return StartupError(f"{self._path} is corrupt: {found}; {DOWNLOAD_AGAIN}")


def _padded(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment
