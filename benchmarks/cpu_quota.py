"""A cgroup with a quota of CPU time, as a container has it, for a server that is measured.

Linux only, and root's alone on most machines: where no group can be made, a sentence says so.
Version 2 where it has the cpu controller, else version 1.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load_generator import BenchError

PERIOD_US = 100_000
_ROOT = Path("/sys/fs/cgroup")
_REMOVE_S = 5.0


def why_no_quota() -> str | None:
    """A sentence where no quota can be set; None where one can."""
    try:
        with quota(1.0):
            return None
    except BenchError as error:
        return str(error)


@contextmanager
def quota(num_cpus: float) -> Iterator[Path]:
    """A group whose processes get so many CPUs' time together; it goes when they have ended.

    Raises:
        BenchError: no group can be made, or it takes no quota.
    """
    is_v2 = (_ROOT / "cgroup.controllers").exists()
    group = (_ROOT if is_v2 else _ROOT / "cpu") / f"tgi-llamacpp-bench-{os.getpid()}"
    limit_us = str(round(num_cpus * PERIOD_US))
    try:
        if is_v2:
            (_ROOT / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
        try:
            if is_v2:
                (group / "cpu.max").write_text(f"{limit_us} {PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(limit_us)
        except OSError:
            group.rmdir()
            raise
    except OSError as error:
        raise BenchError(f"no cgroup with a CPU quota can be made here: {error}") from error
    try:
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Its last process may have ended a moment ago."""
    deadline_s = time.monotonic() + _REMOVE_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


def inside(group: Path, command: Sequence[str]) -> list[str]:
    """The command, run in the group."""
    script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    return ["sh", "-c", script, str(group), *command]
