"""AMX's tile configuration in the machine code, on machines with AMX and without.

GCC before 12.4 and 13.3 compiles ggml's kernels for AMX such that they die of their first tile
(cmake/amx_tile_loadconfig.h). A test cannot run them here, so it reads what the compiler wrote.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tile_config import missing_bytes
from tgi_llamacpp.native import _build_info

ROOT = Path(__file__).parent.parent
BUILD_DIR = ROOT / "build/editable"
NINJA = Path(sys.executable).with_name("ninja")

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is of x86-64")


def compile_command(name: str) -> list[str]:
    """How the build compiles the source that ends in `name`."""
    result = subprocess.run(
        [NINJA, "-C", BUILD_DIR, "-t", "compdb"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    text = result.stdout[result.stdout.index("[") :]  # after what ninja says of itself
    (command,) = [entry["command"] for entry in json.loads(text) if entry["file"].endswith(name)]
    return shlex.split(command)


def test_a_build_for_a_cpu_with_amx_fills_the_whole_tile_configuration(tmp_path: Path) -> None:
    command = compile_command("ggml-cpu/amx/mmq.cpp")
    command[command.index("-march=native")] = "-march=sapphirerapids"
    command[command.index("-o") + 1] = str(tmp_path / "mmq.o")
    command[command.index("-MF") + 1] = str(tmp_path / "mmq.d")
    result = subprocess.run(command, cwd=BUILD_DIR, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    missing = missing_bytes(tmp_path / "mmq.o")
    assert missing
    assert not any(missing), missing


def test_the_package_has_no_tile_configuration_with_gaps() -> None:
    """A build on a machine without AMX has none at all."""
    libraries = sorted((Path(_build_info.__file__).parent / "lib").glob("libggml-cpu*.so"))
    assert libraries
    for library in libraries:
        assert not any(missing_bytes(library)), library


SNIPPET = """
#include <immintrin.h>
#include <cstdint>
struct Config { uint8_t palette, start_row, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; };
void configure() {
    alignas(64) Config config = {};
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) { config.rows[tile] = 16; config.colsb[tile] = 64; }
    _tile_loadconfig(&config);
}
"""


def test_the_check_finds_the_gaps_of_a_compiler_that_leaves_them(tmp_path: Path) -> None:
    source, objects = tmp_path / "snippet.cpp", [tmp_path / "plain.o", tmp_path / "mended.o"]
    source.write_text(SNIPPET)
    header = ROOT / "cmake/amx_tile_loadconfig.h"
    for target, include in zip(objects, ([], ["-include", header]), strict=True):
        flags = ["-O3", "-march=sapphirerapids", *include, "-c", source, "-o", target]
        subprocess.run(["c++", *flags], check=True, timeout=60)
    plain, mended = map(missing_bytes, objects)
    assert len(plain) == len(mended) == 1
    assert not mended[0]
    if not plain[0]:
        pytest.skip("this compiler fills the whole configuration by itself")
