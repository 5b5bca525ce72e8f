"""A server whose native code was built with sanitizers: every kind of request, and no report.

`make test-sanitizers` builds the package for each into build/sanitize-NAME/site, and runs this. The
interpreter is the plain one: the runtime of the sanitizer is loaded before it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest

from tests.adversity.streams import Body, bodies, run_all
from tests.server_process import PATIENCE_S, ServerProcess

ROOT = Path(__file__).parent.parent
SUPPRESSIONS = Path(__file__).parent / "thread_sanitizer.txt"
MANY = "--max-concurrent-requests=128"
RUNTIMES = {"address": "libasan.so", "thread": "libtsan.so"}
# Each option of the samplers by itself, and all that can be together.
OPTIONS: tuple[dict[str, object], ...] = (
    {"top_k": 20},
    {"top_p": 0.8},
    {"typical_p": 0.7},
    {"min_p": 0.05},
    {"frequency_penalty": 0.5, "presence_penalty": -0.5},
    {"repetition_penalty": 1.3, "repeat_last_n": 8},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_sequence_breakers": ["\n", "."]},
    {"xtc_probability": 1.0, "xtc_threshold": 0.02},
    {"mirostat": 1},
    {"mirostat": 2, "mirostat_tau": 3.0},
    {"logit_bias": {"5": -100, "77": 3}},
    {"logprobs": 4, "echo": True},
    {"best_of": 3, "n": 2},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "dry_multiplier": 0.5, "xtc_probability": 0.5},
)


def requests() -> list[Body]:
    sampled: dict[str, object] = {"max_tokens": 8, "temperature": 0.9, "seed": 1}
    prompt = {"prompt": "one two three one two three one two"}
    return [
        *(("/v1/completions", prompt | sampled | option) for option in OPTIONS),
        *bodies(14, 36),
    ]


def runtime(name: str) -> str:
    """The shared library of a sanitizer, of the compiler that built the package."""
    command = ["c++", f"-print-file-name={RUNTIMES[name]}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def leave_early(url: str) -> None:
    """Clients that go away, each at another moment."""
    body = {"prompt": "on and on", "max_tokens": 400, "ignore_eos": True, "stream": True}
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S * 10) as client:
        for num_chunks in range(6):
            async with client.stream("POST", "/v1/completions", json=body) as answer:
                chunks = answer.aiter_raw()
                for _ in range(num_chunks):
                    await anext(chunks)


@pytest.mark.sanitizers
@pytest.mark.timeout(580)
@pytest.mark.parametrize("name", list(RUNTIMES))
def test_a_server_serves_without_a_report(name: str, tmp_path: Path) -> None:
    site = ROOT / "build" / f"sanitize-{name}" / "site"
    assert site.is_dir(), "run it by `make test-sanitizers`"
    base: str = sys._base_executable  # type: ignore[attr-defined]  # sees no editable install
    said = f"log_path={tmp_path}/report:exitcode=99"
    environ = {
        "PYTHONPATH": f"{site}:{sysconfig.get_path('purelib')}",
        "LD_PRELOAD": runtime(name),
        "N_THREADS": "2",
        "ASAN_OPTIONS": f"{said}:detect_leaks=0",  # CPython keeps what it has
        "UBSAN_OPTIONS": f"{said}:print_stacktrace=1",
        "TSAN_OPTIONS": f"{said}:suppressions={SUPPRESSIONS}",
    }
    with ServerProcess("demo", "--max-batch-size=4", MANY, python=base, **environ) as server:
        events = asyncio.run(run_all(server.url, requests()))
        asyncio.run(leave_early(server.url))
        code = server.stop()
    reports = [path.read_text() for path in tmp_path.iterdir()]
    assert reports == []
    assert code == 0
    assert "error" not in str(events)
