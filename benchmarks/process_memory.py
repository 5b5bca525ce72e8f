"""What a process holds, from /proc, and whether it holds more and more.

A sample is the resident and proportional memory, the open files and the threads of one process.
`growth` fits a line to a series, and `verdict` is the rule that calls it flat. Linux only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUM_BLOCKS = 12
_T_95 = 2.228  # Student's t for a two-sided 95 % with NUM_BLOCKS - 2 degrees of freedom


@dataclass(frozen=True)
class Sample:
    """Of one process at one time. Memory in KiB, as the kernel counts it."""

    at_s: float
    num_requests: int  # answered so far
    rss_kib: int
    pss_kib: int  # what is shared counts in parts
    anonymous_kib: int  # no pages of files, which the kernel drops and reads again as it likes
    num_fds: int
    num_threads: int


@dataclass(frozen=True)
class Growth:
    """Slope of a line through block means, and half the width of its 95 % interval."""

    slope: float
    margin: float


def take_sample(pid: int, at_s: float, num_requests: int) -> Sample:
    folder = Path(f"/proc/{pid}")
    rollup = _fields(folder / "smaps_rollup")
    return Sample(
        at_s=at_s,
        num_requests=num_requests,
        rss_kib=rollup["Rss"],
        pss_kib=rollup["Pss"],
        anonymous_kib=rollup["Anonymous"],
        num_fds=sum(1 for _ in (folder / "fd").iterdir()),
        num_threads=_fields(folder / "status")["Threads"],
    )


def children(pid: int) -> dict[str, int]:
    """The process ids of those started as `python -m`, by the last part of their module's name."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return {name: child for child in found if (name := _module(child))}


def growth(xs: Sequence[float], ys: Sequence[float]) -> Growth:
    """Of ys by x, from the means of NUM_BLOCKS blocks of equal length.

    Neighbouring samples resemble each other, so that an interval from all of them would be far too
    narrow; block means are nearly independent.
    """
    x = np.array([block.mean() for block in np.array_split(np.asarray(xs, float), NUM_BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(np.asarray(ys, float), NUM_BLOCKS)])
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    residuals = y - y.mean() - slope * (x - x.mean())
    deviation = float(np.sqrt((residuals**2).sum() / (NUM_BLOCKS - 2) / spread))
    return Growth(slope, _T_95 * deviation)


def verdict(found: Growth, limit: float) -> str:
    """flat: the whole interval is below the limit. grows: all of it is above. Else unclear."""
    if found.slope + found.margin < limit:
        return "flat"
    return "grows" if found.slope - found.margin > limit else "unclear"


def _module(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index("-m") + 1].rpartition(".")[2] if "-m" in words else ""


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file with lines such as `Rss:  1234 kB`."""
    found: dict[str, int] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[name] = int(words[0])
    return found
