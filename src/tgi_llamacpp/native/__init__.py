"""The native core: Model and Runner over llama.cpp's C API.

Owns the two reasons why it may not import, and says each in a sentence: it was not built, or it
was built for another CPU; and the sentence for a GPU that is not there. Knows no scheduler and no
text. Only the engine process imports it.
"""

from __future__ import annotations

from pathlib import Path


def cpu_features(cpuinfo: str) -> frozenset[str]:
    """The instruction sets that the text of /proc/cpuinfo lists, of x86-64 or arm64; else empty."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def missing_features(needed: tuple[str, ...], present: frozenset[str]) -> str | None:
    """The sentence for a CPU that lacks what the build needs; None if it has all or lists none."""
    missing = [feature for feature in needed if feature not in present]
    if not missing or not present:
        return None
    return (
        f"tgi-llamacpp was built for a CPU with {', '.join(missing)}, which this one lacks: "
        "build it on this machine, or anywhere with `-C cmake.define.llamacpp_native=OFF`."
    )


def missing_gpu(has_cuda: bool, device: str, n_gpu_layers: int) -> str | None:
    """The sentence for a build with CUDA that computes on the CPU though nobody asked for that."""
    if not has_cuda or device != "CPU" or n_gpu_layers == 0:
        return None
    return (
        "no GPU was found, so the model runs on the CPU: check that nvidia-smi lists one, in a "
        "container start it with `docker run --gpus all`, or say --n-gpu-layers 0."
    )


def _read_cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


try:
    from tgi_llamacpp.native import _build_info
except ImportError as error:
    raise ImportError(
        "tgi-llamacpp's native library is not built: run `make build` in a checkout, "
        "or `pip install .` there."
    ) from error

_complaint = missing_features(_build_info.CPU_FEATURES, cpu_features(_read_cpuinfo()))
if _complaint is not None:
    raise ImportError(_complaint)

from tgi_llamacpp.native._model import Model  # noqa: E402 - it may hold the missing instructions
from tgi_llamacpp.native._runner import Runner  # noqa: E402

HAS_CUDA: bool = _build_info.HAS_CUDA

# Where ggml finds the backends that it loads at run time; None where they are linked in.
LIBRARY_DIR: str | None = (
    str(Path(_build_info.__file__).parent / "lib") if _build_info.LOADS_BACKENDS else None
)

__all__ = [
    "HAS_CUDA",
    "LIBRARY_DIR",
    "Model",
    "Runner",
    "cpu_features",
    "missing_features",
    "missing_gpu",
]
