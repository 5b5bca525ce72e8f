"""Reads from a library's machine code whether the operand of each ldtilecfg is filled.

ldtilecfg loads 64 bytes, the shapes of AMX's tiles. A compiler that takes the operand for 8 bytes
drops the stores of the rest (see cmake/amx_tile_loadconfig.h). Stores of zeros do not count: the
wrong code has those too. Knows ggml's tiles and the text that objdump prints.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# The tiles of ggml's kernels: bytes per row at 16 to 31, rows at 48 to 55.
NEEDED = {*range(16, 32), *range(48, 56)}
_SUFFIXES = {"b": 1, "w": 2, "l": 4, "q": 8}
_STORE = re.compile(r"v?mov(\w*)\s+(\$\S+|%\w+),(-?0x[0-9a-f]+|)\((%\w+)\)$")
_LDTILECFG = re.compile(r"ldtilecfg\s+(-?0x[0-9a-f]+|)\((%\w+)\)$")


def missing_bytes(library: Path) -> list[set[int]]:
    """By ldtilecfg of `library` the needed bytes that no store but of zeros fills."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    missing = []
    for function in re.split(r"\n(?=[0-9a-f]+ <)", listing):
        if "ldtilecfg" not in function:
            continue
        lines = [re.sub(r"\s*#.*|^\s*[0-9a-f]+:\s*", "", line) for line in function.splitlines()]
        for i, line in enumerate(lines):
            if "ldtilecfg" in line:
                missing.append(NEEDED - _filled(lines[:i], line))
    return missing


def _filled(before: list[str], ldtilecfg: str) -> set[int]:
    """The bytes of its operand that the instructions before it fill."""
    match = _LDTILECFG.match(ldtilecfg)
    if not match:
        return set()
    start, base = int(match[1] or "0", 16), match[2]
    filled: set[int] = set()
    for i, line in enumerate(before):
        if re.match("j|call|ret", line):  # the stores stand between the last branch and ldtilecfg
            filled = set()
        store = _STORE.match(line)
        if not store or store[4] != base:
            continue
        at = int(store[3] or "0", 16) - start
        size = _size(store[1], store[2])
        stored = set(range(max(at, 0), at + size))
        filled = filled - stored if _is_zero(store[2], before[:i]) else filled | stored
    return filled


def _size(suffix: str, source: str) -> int:
    """Bytes that a mov with this suffix stores of an immediate or a register."""
    if source.startswith("$"):
        return _SUFFIXES[suffix]
    if source[1:4] in ("xmm", "ymm", "zmm"):
        whole = {"x": 16, "y": 32, "z": 64}[source[1]]
        return {"q": 8, "d": 4, "lps": 8, "lpd": 8, "hps": 8, "hpd": 8}.get(suffix, whole)
    if source[1:3] in ("al", "bl", "cl", "dl") or (source[-1] in "bl" and source[1] != "r"):
        return 1
    if source[1] == "r":
        return {"b": 1, "w": 2, "d": 4}.get(source[-1], 8)
    return 4 if source[1] == "e" else 2


def _is_zero(source: str, before: list[str]) -> bool:
    """Whether an immediate is 0, or the last instruction that wrote a register cleared it."""
    if source.startswith("$"):
        return int(source[1:], 0) == 0
    vector = source[1:4] in ("xmm", "ymm", "zmm")
    name = "[xyz]" + source[2:] if vector else "[re]?" + source[1:].lstrip("re")
    for line in reversed(before):  # the last instruction that wrote the register
        if re.search(rf",%{name}$", line):
            return re.match(rf"v?p?xor\w*\s+%({name}),%", line) is not None
    return False
