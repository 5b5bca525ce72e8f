"""A quota for a server that is measured: it holds, and without one its rows are left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bench_serving, cpu_quota
from benchmarks.scenarios import SCENARIOS

NUM_THREADS = "from tgi_llamacpp.machine import usable_cpus; print(usable_cpus())"


@pytest.mark.parametrize(("num_cpus", "num_threads"), [(1.0, 1), (1.5, 2)])
def test_threads_derive_from_the_quota(num_cpus: float, num_threads: int) -> None:
    if why_not := cpu_quota.why_no_quota():
        pytest.skip(why_not)
    with cpu_quota.quota(num_cpus) as group:
        command = cpu_quota.inside(group, [sys.executable, "-c", NUM_THREADS])
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(output) == min(num_threads, len(os.sched_getaffinity(0)))
    assert not group.exists()


def test_where_no_group_can_be_made_rows_with_a_quota_are_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu_quota, "_ROOT", tmp_path / "none")
    scenarios = [SCENARIOS["streams-8"], SCENARIOS["quota-1.5-8"]]
    assert bench_serving._possible(scenarios) == scenarios[:1]
    said = capsys.readouterr().out
    assert "quota-1.5-8 is left out: no cgroup with a CPU quota can be made here" in said
