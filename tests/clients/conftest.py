"""The demo model behind a real server, for the client libraries that people use.

One server answers; another has its only place taken and asks for a key. Library tests are left out,
with the reason, where their library is not installed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.server_process import PATIENCE_S, ServerProcess

KEY = "a-key"
ENDLESS = {"prompt": "one two three", "max_tokens": 1500, "ignore_eos": True, "stream": True}


@dataclass
class Guarded:
    """A server that wants a key and has no place left."""

    url: str
    key: str = KEY


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where the demo model answers."""
    with ServerProcess("demo") as process:
        yield process.url
        assert process.stop() == 0


@pytest.fixture(scope="session")
def exact_url(exact: tuple[str, ...]) -> Iterator[str]:
    """Where its exact copy answers, for what is equal to the last bit."""
    with ServerProcess("serve", *exact) as process:
        yield process.url
        assert process.stop() == 0


@pytest.fixture(scope="session")
def busy() -> Iterator[Guarded]:
    """Its one place is held by a stream that stands still, because the engine does."""
    with (
        ServerProcess(
            "demo",
            "--max-concurrent-requests=1",
            f"--api-key={KEY}",
            "--engine-watchdog-s=0",  # it is meant to stand still
        ) as process,
        httpx.Client(base_url=process.url, timeout=PATIENCE_S) as client,
    ):
        headers = {"authorization": f"Bearer {KEY}"}
        with client.stream("POST", "/v1/completions", json=ENDLESS, headers=headers) as answer:
            events = answer.iter_lines()  # held: to drop it is to hang up
            assert next(events).startswith("data:")
            os.kill(process.engine_pid, signal.SIGSTOP)
            yield Guarded(process.url)
            os.kill(process.engine_pid, signal.SIGCONT)
