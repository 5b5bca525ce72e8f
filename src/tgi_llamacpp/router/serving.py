"""One configuration and its model as they are served, and the front that knows which one is now.

Owns the count of requests that a configuration has in hand, so that it can be taken down when the
last one has its answer. Built by server.py and by rollover.py.
"""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from tgi_llamacpp.derive import router_config
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router.api_keys import ApiKeys
from tgi_llamacpp.router.app import build_app
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.preparation import Preparation
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.supervisor import EngineSupervisor
from tgi_llamacpp.router.text_workers import TextWorkers


class Engine:
    """A client and its supervisor, which go together."""

    def __init__(self, client: EngineClient, supervisor: EngineSupervisor) -> None:
        self.client = client
        self.supervisor = supervisor


class Serving:
    """The application of one configuration. It counts the requests that it has in hand."""

    def __init__(
        self, prepared: Preparation, engine: Engine, app: Starlette, workers: TextWorkers
    ) -> None:
        self.prepared = prepared
        self.engine = engine
        self.services: Services = app.state.services
        self._app = app
        self._workers = workers
        self._num_in_hand = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._num_in_hand += 1
        self._is_idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_in_hand -= 1
            if not self._num_in_hand:
                self._is_idle.set()

    async def wait_idle(self) -> None:
        """Return when every request has its answer. New ones must go elsewhere by now."""
        await self._is_idle.wait()

    async def close(self) -> None:
        """End its workers."""
        await asyncio.to_thread(self._workers.close)


class Front:
    """The application that is called for every request: that of the moment answers."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serving(scope, receive, send)


def make_serving(
    prepared: Preparation,
    engine: Engine,
    ready: Ready,
    workers: TextWorkers,
    keys: ApiKeys,
    former: Serving | None = None,
) -> Serving:
    """The application of an engine that is ready.

    former: what is served until now; its counters and permits go on.
    Raises StartupError.
    """
    app = build_app(
        router_config(prepared.config, prepared.derived, prepared.name, ready),
        engine.client,
        workers.tools(ready),
        keys=keys,
        model_sha=prepared.files.sha,
        pipeline_tag=prepared.files.pipeline_tag,
        former=former.services if former is not None else None,
    )
    return Serving(prepared, engine, app, workers)
