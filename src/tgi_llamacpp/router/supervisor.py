"""The engine's life as the server sees it: up, watched, down.

Owns which process is behind the EngineClient. Knows no HTTP. Called by server.py; starting another
engine after a crash belongs here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.engine_process import EngineProcess, describe_exit

logger = logging.getLogger(__name__)


class EngineSupervisor:
    """Starts and stops the engine behind `client`."""

    def __init__(self, client: EngineClient, config: EngineConfig) -> None:
        self._client = client
        self._config = config
        self._process: EngineProcess | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self, on_progress: Callable[[float], None]) -> Ready:
        """Start an engine and wait until it has loaded the model.

        on_progress gets the loaded fraction, 0 to 1.
        Raises StartupError.
        """
        self._process = process = EngineProcess()
        logger.info("engine %d started, pid %d", self._client.epoch + 1, process.pid)
        try:
            ready = await self._client.start(process.sock, self._config, on_progress)
        except StartupError as error:
            returncode = await process.wait()
            if returncode is not None and returncode < 0:
                message = f"the engine did not load the model; {describe_exit(returncode)}"
                raise StartupError(message) from error
            raise
        self._watch = asyncio.create_task(self._report_end(process))
        return ready

    async def stop(self) -> None:
        """End the engine, if there is one. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
        await self._client.close()
        if self._process is not None:
            self._process.sock.close()
            await self._process.stop()

    async def _report_end(self, process: EngineProcess) -> None:
        """Say how the engine ended, when nobody asked it to."""
        await self._client.wait_closed()
        returncode = await process.wait()
        logger.error("engine %d is gone: %s", self._client.epoch, describe_exit(returncode))
