"""The router's start, where two things fail at once."""

from __future__ import annotations

import asyncio
import gc
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tgi_llamacpp.errors import EngineFailedError, StartupError
from tgi_llamacpp.router import server
from tgi_llamacpp.router.reload import Reload


def test_an_engine_and_a_template_that_fail_together_are_one_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        has_failed = asyncio.Event()

        async def prepare() -> None:
            has_failed.set()
            raise ValueError("a template like no other")

        async def start(on_progress: object) -> None:
            await has_failed.wait()
            raise StartupError("the engine did not load the model")

        async def stop() -> None:
            pass

        supervisor = SimpleNamespace(start=start, stop=stop)
        workers = SimpleNamespace(prepare=prepare, close=lambda: None)
        monkeypatch.setattr(server, "EngineSupervisor", lambda *_, **options: supervisor)
        monkeypatch.setattr(server, "TextWorkers", lambda prepared: workers)
        monkeypatch.setattr(server, "_Signals", lambda reload: None)
        with pytest.raises(StartupError, match="did not load"):
            await server._serve(_launch(), Reload(lambda: pytest.fail("not asked")))
        gc.collect()  # a task whose error nobody took says so when it goes

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(main())
    assert caplog.records == []


def test_an_engine_given_up_before_the_server_listens_ends_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        given_up = asyncio.Event()

        async def prepare() -> None:
            await given_up.wait()

        async def start(on_progress: object) -> Any:
            asyncio.get_running_loop().call_soon(give_up)
            return SimpleNamespace(notes=[], eog_ids=[])

        def give_up() -> None:
            options["on_give_up"]("it cannot load the model again")
            given_up.set()

        async def stop() -> None:
            pass

        options: dict[str, Any] = {}

        def supervise(*_: object, **given: Any) -> Any:
            options.update(given)
            return SimpleNamespace(start=start, stop=stop)

        monkeypatch.setattr(server, "EngineSupervisor", supervise)
        workers = SimpleNamespace(prepare=prepare, close=lambda: None)
        monkeypatch.setattr(server, "TextWorkers", lambda prepared: workers)
        monkeypatch.setattr(server, "make_serving", lambda *arguments: _serving(arguments))
        monkeypatch.setattr(server, "_listen", lambda launch: None)
        monkeypatch.setattr(server, "Rollover", _Rollover)
        monkeypatch.setattr(server.http_server, "HttpServer", _Server)
        with pytest.raises(EngineFailedError, match="cannot load"):
            await server._serve(_launch(), Reload(lambda: pytest.fail("not asked")))

    asyncio.run(asyncio.wait_for(main(), 20))


class _Server:
    """Serves until it is told to stop."""

    def __init__(self, app: object, **options: object) -> None:
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def serve(self, sockets: object) -> None:
        await self._stopped.wait()


class _Rollover:
    """Never asked for anything but its end."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.apply = None

    async def stop(self) -> None:
        pass


def _serving(arguments: tuple[Any, ...]) -> Any:
    prepared, engine = arguments[:2]
    services = SimpleNamespace(metrics=SimpleNamespace(count_reload=None))
    return SimpleNamespace(prepared=prepared, engine=engine, services=services)


def _launch() -> Any:
    config = SimpleNamespace(
        validation_workers=1, json_output=True, exit_on_engine_failure=True, shutdown_timeout=1
    )
    prepared = SimpleNamespace(
        config=config,
        engine_settings=None,
    )
    return server.Launch(prepared, None, None, None, None)
