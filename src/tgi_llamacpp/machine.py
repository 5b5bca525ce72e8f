"""What this machine lends to the process: the CPUs and the memory that it may really use.

Reads the affinity mask and the cgroup's limits, so that a container of two CPUs on a host of
sixty-four gets two threads. Called by the router as it starts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs of the affinity mask, or fewer where a cgroup's quota allows fewer; at least 1.

    root: where /proc and /sys are looked for.
    """
    num_cpus = len(os.sched_getaffinity(0))
    for quota in _limits(root, "cpu", _read_quota_v2, _read_quota_v1):
        num_cpus = min(num_cpus, max(1, math.ceil(quota)))
    return num_cpus


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """The machine's memory, or less where a cgroup allows less."""
    num_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _limits(root, "memory", _read_memory_v2, _read_memory_v1):
        num_bytes = min(num_bytes, int(limit))
    return num_bytes


_Read = Callable[[Path], float | None]


def _limits(root: Path, controller: str, read_v2: _Read, read_v1: _Read) -> Iterator[float]:
    """The limits of this process's cgroup and of every group above it."""
    for controllers, group in _groups(root):
        if controllers == "":
            mount, read = root / "sys/fs/cgroup", read_v2
        elif controller in controllers.split(","):
            mount, read = root / "sys/fs/cgroup" / controller, read_v1
        else:
            continue
        leaf = mount / group.lstrip("/")
        for folder in [leaf, *leaf.parents]:
            if folder.is_relative_to(mount) and (limit := read(folder)) is not None:
                yield limit


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """(controllers, path) of each line of /proc/self/cgroup; version 2 has no controllers.

    A container sees its own group as the mount's root, whatever path is named here; so the root is
    always looked at.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        yield controllers, group


def _read_quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _read_quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota < 0 or period <= 0 else quota / period


def _read_memory_v2(folder: Path) -> float | None:
    return _read_bytes(folder / "memory.max")


def _read_memory_v1(folder: Path) -> float | None:
    return _read_bytes(folder / "memory.limit_in_bytes")


def _read_bytes(path: Path) -> float | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
