"""What this machine lends to the process: the CPUs that it may really use.

Reads the affinity mask and the cgroup's quota, so that a container of two CPUs on a host of
sixty-four gets two threads. Called once, by the command line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs of the affinity mask, or fewer where a cgroup's quota allows fewer; at least 1.

    root: where /proc and /sys are looked for.
    """
    num_cpus = len(os.sched_getaffinity(0))
    for quota in _quotas(root):
        num_cpus = min(num_cpus, max(1, math.ceil(quota)))
    return num_cpus


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quota of this process's cgroup and of every group above it, in CPUs."""
    for controllers, group in _groups(root):
        if controllers == "":
            mount, read = root / "sys/fs/cgroup", _read_v2
        elif "cpu" in controllers.split(","):
            mount, read = root / "sys/fs/cgroup/cpu", _read_v1
        else:
            continue
        leaf = mount / group.lstrip("/")
        for folder in [leaf, *leaf.parents]:
            if folder.is_relative_to(mount) and (quota := read(folder)) is not None:
                yield quota


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


def _read_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _read_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota < 0 or period <= 0 else quota / period
