"""The router's start, where two things fail at once."""

from __future__ import annotations

import asyncio
import gc
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router import server


def test_an_engine_and_a_template_that_fail_together_are_one_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        has_failed = asyncio.Event()

        async def run(function: object) -> None:
            has_failed.set()
            raise ValueError("a template like no other")

        async def start(on_progress: object) -> None:
            await has_failed.wait()
            raise StartupError("the engine did not load the model")

        async def stop() -> None:
            pass

        supervisor = SimpleNamespace(start=start, stop=stop)
        pool = SimpleNamespace(run=run, close=lambda: None)
        monkeypatch.setattr(server, "engine_config", lambda *arguments: None)
        monkeypatch.setattr(server, "EngineSupervisor", lambda *_, **options: supervisor)
        monkeypatch.setattr(server, "TokenizerPool", lambda *arguments: pool)
        monkeypatch.setattr(server, "_Signals", lambda: None)
        with pytest.raises(StartupError, match="did not load"):
            await server._serve(_launch())
        gc.collect()  # a task whose error nobody took says so when it goes

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(main())
    assert caplog.records == []


def _launch() -> Any:
    config = SimpleNamespace(validation_workers=1, json_output=True, engine_watchdog_s=0)
    return SimpleNamespace(
        config=config,
        derived=None,
        files=SimpleNamespace(gguf="model.gguf"),
        tokenizer=SimpleNamespace(extra_eog_ids=[]),
        chat_template=SimpleNamespace(prepare=None),
    )
