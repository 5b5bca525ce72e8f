"""When a reload runs, and what it does not stop for."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError, UsageError
from tgi_llamacpp.router.metrics import ReloadOutcome
from tgi_llamacpp.router.reload import Reload


async def keep(config: ServerConfig) -> ReloadOutcome:
    return "kept"


def test_requests_while_a_reload_runs_are_one_reload_more() -> None:
    configs: list[ServerConfig] = []
    outcomes: list[ReloadOutcome] = []

    async def main() -> None:
        first, third = asyncio.Event(), asyncio.Event()

        def read_config() -> ServerConfig:
            return ServerConfig(model_id="m")

        def on_reload(config: ServerConfig) -> None:
            configs.append(config)
            if len(configs) == 1:
                for _ in range(5):
                    reload.request()
                first.set()
            elif len(configs) == 3:
                third.set()

        reload = Reload(read_config)
        reload.on_reload.append(on_reload)
        reload.request()
        reload.open(keep, outcomes.append)
        await first.wait()
        while len(configs) < 2:
            await asyncio.sleep(0)
        reload.request()
        await third.wait()
        await reload.stop()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert len(configs) == 3
    assert outcomes[:2] == ["kept", "kept"]


def test_what_cannot_be_read_is_logged_and_the_next_reload_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[str] = []
    outcomes: list[ReloadOutcome] = []

    async def main() -> None:
        answers = iter([UsageError("no such flag"), StartupError("no such file"), None])
        done = asyncio.Event()

        def read_config() -> ServerConfig:
            error = next(answers)
            if error is not None:
                raise error
            return ServerConfig(model_id="m")

        def refuse(config: ServerConfig) -> None:
            raise StartupError("these keys are none")

        def listen(config: ServerConfig) -> None:
            heard.append(config.model_id)
            done.set()

        reload = Reload(read_config)
        reload.on_reload += [refuse, listen]
        reload.open(keep, outcomes.append)
        while not done.is_set():
            reload.request()
            await asyncio.sleep(0.01)
        await reload.stop()

    with caplog.at_level(logging.INFO):
        asyncio.run(asyncio.wait_for(main(), 20))
    assert heard[0] == "m"
    assert outcomes[:2] == ["failed", "failed"]
    for text in ("not reloaded: no such flag", "not reloaded: no such file", "these keys are none"):
        assert text in caplog.text
