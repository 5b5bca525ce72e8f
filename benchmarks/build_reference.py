"""Builds llama-server and llama-batched-bench from the source that the package was built from.

    python -m benchmarks.build_reference [--no-openmp]

They go to build/reference (or build/reference-no-openmp), where bench_serving looks for them; some
13 minutes on two cores. The package itself is built without OpenMP, llama.cpp's default is with it:
compare with both.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TARGETS = ("llama-server", "llama-batched-bench")
_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_OPENSSL=OFF",
)


def find_source() -> Path:
    """LLAMACPP_SOURCE_DIR, else third_party/llama.cpp, else what `make build` unpacked."""
    named = os.environ.get("LLAMACPP_SOURCE_DIR")
    candidates = [Path(named)] if named else []
    candidates.append(REPOSITORY / "third_party/llama.cpp")
    candidates += sorted(REPOSITORY.glob("build/*/llamacpp-source"))
    for candidate in candidates:
        if (candidate / "include/llama.h").exists():
            return candidate.resolve()
    raise SystemExit(
        "llama.cpp's source is not there: run `make build` once, or set LLAMACPP_SOURCE_DIR"
    )


def build(source: Path, folder: Path, *, has_openmp: bool) -> None:
    number = _build_number()
    options = [
        *_OPTIONS,
        *_fixes(),
        f"GGML_OPENMP={'ON' if has_openmp else 'OFF'}",
        f"LLAMA_BUILD_NUMBER={number}",
        f"LLAMA_BUILD_COMMIT=b{number}",
    ]
    generator = ["-G", "Ninja"] if _tool("ninja") else []
    defines = [f"-D{option}" for option in options]
    cmake = _tool("cmake") or "cmake"
    subprocess.run([cmake, "-S", source, "-B", folder, *generator, *defines], check=True)
    subprocess.run(
        [cmake, "--build", folder, "--parallel", str(os.cpu_count()), "--target", *TARGETS],
        check=True,
    )


def _fixes() -> list[str]:
    """What this package's own build does to ggml, without which the peer dies on a CPU with AMX."""
    if platform.machine() != "x86_64":
        return []
    return [f"CMAKE_CXX_FLAGS=-include {REPOSITORY / 'cmake/amx_tile_loadconfig.h'}"]


def _build_number() -> str:
    pin = (REPOSITORY / "cmake/llamacpp.cmake").read_text()
    found = re.search(r"set\(llamacpp_build (\d+)\)", pin)
    assert found is not None
    return found.group(1)


def _tool(name: str) -> str | None:
    """Beside this Python first: that is where `make build` puts its tools."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-openmp", action="store_true", help="with ggml's own threads")
    has_openmp = not parser.parse_args().no_openmp
    folder = REPOSITORY / ("build/reference" if has_openmp else "build/reference-no-openmp")
    build(find_source(), folder, has_openmp=has_openmp)
    for target in TARGETS:
        print(folder / "bin" / target)


if __name__ == "__main__":
    main()
