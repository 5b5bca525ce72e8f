"""Fixtures shared by the tests: a router on a real port, with a scripted engine behind it.

And the model for those that compare texts to the last bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
import uvicorn

from tests.exact_model import EXACT_KV, write_exact_model
from tests.fake_engine import FakeEngine, FakeToken, Script
from tests.fake_text import EOS, FakeDetokenizer, FakePool, FakeTemplate
from tgi_llamacpp.config import EngineConfig, LimitsConfig, RouterConfig
from tgi_llamacpp.messages import Finish, Submit
from tgi_llamacpp.router.app import build_app
from tgi_llamacpp.router.connection_limits import BoundedProtocol
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.services import TextTools

T = TypeVar("T")
ENGINE_CONFIG = EngineConfig(
    model_path="none.gguf",
    max_total_tokens=2048,
    max_batch_total_tokens=16384,
    max_physical_batch_total_tokens=512,
    max_batch_size=16,
    n_threads=1,
    n_threads_batch=1,
    n_gpu_layers=0,
)
LIMITS = LimitsConfig(max_concurrent_requests=8, max_input_tokens=1024, max_total_tokens=2048)
TOOLS = TextTools(pool=FakePool(), detokenizer=FakeDetokenizer(), chat_template=FakeTemplate())


def love_to_code(submit: Submit) -> list[FakeToken]:
    """` love to code` and the end, or as much of it as may be generated."""
    tokens = [
        FakeToken(5360, -0.34),
        FakeToken(304, -0.5078125),
        FakeToken(775, -1.25),
        FakeToken(EOS, -0.125, Finish.EOG),
    ]
    if submit.max_new_tokens < len(tokens):
        tokens = tokens[: submit.max_new_tokens]
        tokens[-1] = FakeToken(tokens[-1].id, tokens[-1].logprob, Finish.LENGTH)
    return tokens


def sse_data(response: httpx.Response) -> list[str]:
    """The data of every event, in order; fails on anything that is not an event."""
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text.endswith("\n\n")
    events = response.text[:-2].split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def sse_events(response: httpx.Response) -> list[Any]:
    """The same as JSON, without a [DONE] at the end."""
    data = sse_data(response)
    return [json.loads(text) for text in data if text != "[DONE]"]


class _Server(uvicorn.Server):
    """Stops when told, instead of looking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told_to_stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.told_to_stop.wait()


class RunningServer:
    """A router that listens, and the engine behind it. Runs on a thread and loop of its own."""

    def __init__(
        self, config: RouterConfig, script: Script, text: TextTools, http: Any, **extra: Any
    ) -> None:
        self.config = config
        self._script = script
        self._text = text
        self._http = http
        self._extra = extra
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> list[Any]:
        """uvicorn's, to be touched on the server's thread."""
        return list(self._server.server_state.connections)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the server's loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=20)

    def do(self, function: Callable[[], T]) -> T:
        """Call `function` on the server's thread."""

        async def work() -> T:
            return function()

        return self.call(work())

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(20)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._server.told_to_stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        self.engine = FakeEngine(far, self._script)
        engine_task = asyncio.ensure_future(self.engine.run())
        self.client = EngineClient()
        await self.client.start(near, ENGINE_CONFIG)
        give_up = asyncio.ensure_future(self._give_up())
        self.app = build_app(self.config, self.client, self._text, **self._extra)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                self.app,
                http=self._http,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self.loop.call_soon(self._started.set)
        with contextlib.suppress(asyncio.CancelledError):
            await self._server.serve(sockets=[listener])
        listener.close()
        give_up.cancel()
        await self.client.close()
        await engine_task

    async def _give_up(self) -> None:
        """Here no engine comes after the first: what is open ends as when a server stops."""
        await self.client.wait_closed()
        await self.client.close()
        self.client.give_up("the engine is gone")


MakeServer = Callable[..., RunningServer]


@contextlib.contextmanager
def running_servers() -> Iterator[MakeServer]:
    running: list[RunningServer] = []

    def make(
        script: Script = love_to_code,
        *,
        text: TextTools = TOOLS,
        limits: dict[str, Any] | None = None,
        model_sha: str | None = None,
        pipeline_tag: str | None = None,
        http: Any = BoundedProtocol,
        **config: Any,
    ) -> RunningServer:
        router_config = RouterConfig(
            model_id="org/model",
            limits=msgspec.structs.replace(LIMITS, **(limits or {})),
            **config,
        )
        server = RunningServer(
            router_config, script, text, http, model_sha=model_sha, pipeline_tag=pipeline_tag
        )
        server.start()
        running.append(server)
        return server

    yield make
    for server in running:
        server.stop()


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    """Starts routers for one test, with any script, limits and configuration."""
    with running_servers() as make:
        yield make


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RunningServer]:
    """One router for all tests that change nothing about it: answers ` love to code`."""
    with running_servers() as make:
        yield make()


@pytest.fixture
def http(shared_server: RunningServer) -> Iterator[httpx.Client]:
    """A client of the shared router."""
    with httpx.Client(base_url=shared_server.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def exact_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo model with which texts are equal to the last bit; see exact_model.py."""
    return write_exact_model(tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="session")
def exact(exact_model: Path) -> tuple[str, ...]:
    """The flags with which `serve` serves it, and nothing that shares a step shows."""
    return (f"--model-id={exact_model}", *EXACT_KV)
