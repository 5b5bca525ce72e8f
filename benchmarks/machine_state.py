"""What a reader must know of the machine to believe a number, and the CPU time that a server took.

Linux only: it reads /proc and asks git for the commit. Result files begin with `describe()`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

_REPOSITORY = Path(__file__).parents[1]
_PACKAGES = ("tgi-llamacpp", "uvicorn", "starlette", "tokenizers", "msgspec", "numpy", "gguf")
_INSTRUCTIONS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("asimddp", "i8mm", "sve"),
)
QUIET_BUSY_CPUS = 0.15  # of all CPUs together, while nothing of ours runs


def describe() -> dict[str, object]:
    return {
        "cpu": _cpu_model(),
        "instructions": _instructions(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "has_uncommitted_changes": bool(_git("status", "--porcelain")),
    }


def busy_cpus(during_s: float = 1.0) -> float:
    """How many CPUs' worth of others' work runs at present; sleeps for `during_s`."""
    busy_before, total_before = _cpu_ticks()
    time.sleep(during_s)
    busy, total = _cpu_ticks()
    share = (busy - busy_before) / max(1, total - total_before)
    return round(share * (os.cpu_count() or 1), 3)


def cpu_s_of_tree(pid: int) -> float:
    """CPU time, user and system, of a process and its living children's children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own_s + sum(map(cpu_s_of_tree, _children(pid)))


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _cpu_ticks() -> tuple[int, int]:
    """(busy, all) of all CPUs since boot."""
    values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = values[3] + values[4]
    return sum(values) - idle, sum(values)


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.machine()


def _instructions() -> list[str]:
    """Those of this CPU that ggml's kernels differ by."""
    found = _cpuinfo("flags").split() or _cpuinfo("Features").split()
    return [name for name in _INSTRUCTIONS if name in found]


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(
        command, cwd=_REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
