"""What this machine lends to the process: the CPUs and the memory that it may really use.

Reads the affinity mask, /proc/meminfo and the cgroup's limits, so that a container of two CPUs on a
host of sixty-four gets two threads. Called by the router, as it starts and as it reloads.
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


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """What processes may still take before anything is killed: of the machine or of a cgroup.

    None where neither says. What the kernel would drop from its cache counts as available.
    """
    amounts = [int(left) for left in _limits(root, "memory", _left_v2, _left_v1)]
    if (free := _meminfo(root)) is not None:
        amounts.append(free)
    return min(amounts, default=None)


def resident_bytes(pid: int, root: Path = Path("/")) -> int:
    """Memory that a process has now; 0 where it is gone."""
    try:
        text = (root / f"proc/{pid}/status").read_text()
    except OSError:
        return 0
    return _kib(text, "VmRSS") or 0


def _meminfo(root: Path) -> int | None:
    try:
        return _kib((root / "proc/meminfo").read_text(), "MemAvailable")
    except OSError:
        return None


def _kib(text: str, name: str) -> int | None:
    """The bytes of a line `name:  123 kB`."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def _left_v2(folder: Path) -> float | None:
    return _left(folder, "memory.max", "memory.current")


def _left_v1(folder: Path) -> float | None:
    return _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _left(folder: Path, limit_file: str, usage_file: str) -> int | None:
    try:
        limit = int((folder / limit_file).read_text())  # "max" is no limit
        used = int((folder / usage_file).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return max(0, limit - used + cached)
