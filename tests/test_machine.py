"""What a machine and its cgroups say that they lend, from files laid out as theirs are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tgi_llamacpp.machine import available_memory_bytes, resident_bytes

MIB = 1 << 20


def write(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def group(root: Path, folder: str, limit: str, used: int, cached: int) -> None:
    """A group of version 2."""
    names = {
        "memory.max": limit,
        "memory.current": str(used),
        "memory.stat": f"anon 1\nactive_file 7\ninactive_file {cached}\n",
    }
    write(root, **{f"sys/fs/cgroup/{folder}{name}": text for name, text in names.items()})


class TestAvailableMemory:
    def test_a_machine_that_says_nothing_has_nothing_to_say(self, tmp_path: Path) -> None:
        assert available_memory_bytes(tmp_path) is None
        write(tmp_path, **{"proc/meminfo": "MemTotal: 5 kB\nMemFree: 3 kB\n"})
        assert available_memory_bytes(tmp_path) is None

    def test_it_is_what_the_kernel_calls_available(self, tmp_path: Path) -> None:
        text = "MemTotal:  9000 kB\nMemFree:   1000 kB\nMemAvailable:   3000 kB\n"
        write(tmp_path, **{"proc/meminfo": text, "proc/self/cgroup": "0::/\n"})
        assert available_memory_bytes(tmp_path) == 3000 << 10

    def test_the_tightest_group_counts_and_its_idle_cache_as_free(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            **{"proc/meminfo": "MemAvailable: 9000000 kB\n", "proc/self/cgroup": "0::/kube/pod\n"},
        )
        group(tmp_path, "kube/pod/", "max", 100 * MIB, 0)
        group(tmp_path, "kube/", f"{800 * MIB}\n", 500 * MIB, 20 * MIB)
        assert available_memory_bytes(tmp_path) == 320 * MIB
        group(tmp_path, "kube/pod/", str(110 * MIB), 100 * MIB, 0)
        assert available_memory_bytes(tmp_path) == 10 * MIB

    def test_a_group_over_its_limit_has_nothing_left(self, tmp_path: Path) -> None:
        write(tmp_path, **{"proc/self/cgroup": "0::/pod\n"})
        group(tmp_path, "pod/", str(10 * MIB), 11 * MIB, 0)
        assert available_memory_bytes(tmp_path) == 0

    @pytest.mark.parametrize("key", ["total_inactive_file", "inactive_file"])
    def test_a_group_of_version_one_counts(self, tmp_path: Path, key: str) -> None:
        folder = "sys/fs/cgroup/memory/docker/x"
        write(
            tmp_path,
            **{
                "proc/self/cgroup": "4:cpu:/docker/x\n3:memory:/docker/x\n",
                f"{folder}/memory.limit_in_bytes": str(50 * MIB),
                f"{folder}/memory.usage_in_bytes": str(40 * MIB),
                f"{folder}/memory.stat": f"cache 5\n{key} {2 * MIB}\n",
            },
        )
        assert available_memory_bytes(tmp_path) == 12 * MIB

    def test_this_machine_has_some(self) -> None:
        left = available_memory_bytes()
        assert left is not None
        assert 0 < left < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class TestResidentBytes:
    def test_it_is_what_the_process_has_in_memory(self, tmp_path: Path) -> None:
        text = "Name:\tx\nVmPeak:\t 900 kB\nVmRSS:\t  300 kB\nThreads:\t1\n"
        write(tmp_path, **{"proc/12/status": text})
        assert resident_bytes(12, tmp_path) == 300 << 10

    def test_a_process_that_is_gone_or_a_zombie_has_none(self, tmp_path: Path) -> None:
        write(tmp_path, **{"proc/12/status": "Name:\tx\nState:\tZ (zombie)\n"})
        assert resident_bytes(12, tmp_path) == resident_bytes(13, tmp_path) == 0

    def test_it_grows_with_what_is_written(self) -> None:
        before = resident_bytes(os.getpid())
        held = b"x" * (64 * MIB)
        assert resident_bytes(os.getpid()) - before > len(held) // 2
