"""SIGHUP: the configuration is read again, whoever asked hears of it, then it is served.

Owns the order, and that of any number of requests while one runs a single other one follows. How a
model takes another's place is rollover.py's affair. Knows no signal and no file. Called by
server.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError, UsageError
from tgi_llamacpp.router.metrics import ReloadOutcome

logger = logging.getLogger(__name__)

OnReload = Callable[[ServerConfig], None]
Apply = Callable[[ServerConfig], Awaitable[ReloadOutcome]]


class Reload:
    """One reload at a time. `on_reload` gets each configuration that could be read.

    What an entry of `on_reload` raises (StartupError, UsageError) is logged, and stops no other.
    read_config: reads the command line, the environment and the file anew, in another thread.
    """

    def __init__(self, read_config: Callable[[], ServerConfig]) -> None:
        self.on_reload: list[OnReload] = []
        self._read_config = read_config
        self._apply: Apply | None = None
        self._count: Callable[[ReloadOutcome], None] = lambda outcome: None
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None

    def open(self, apply: Apply, count: Callable[[ReloadOutcome], None]) -> None:
        """Reload from here on, and now where it was asked for before.

        apply: serves a configuration, or raises StartupError or UsageError.
        """
        self._apply, self._count = apply, count
        if self._is_wanted:
            self.request()

    def request(self) -> None:
        """Reload now, or once more when the reload under way is done, or when the server is up."""
        is_running = self._task is not None and not self._task.done()
        if is_running:
            logger.info("another reload follows the one that runs")
        self._is_wanted = True
        if self._apply is not None and not is_running:
            self._task = asyncio.create_task(self._run(self._apply))

    async def stop(self) -> None:
        """End a reload that is under way, and begin no other. Idempotent."""
        self._apply = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, apply: Apply) -> None:
        while self._is_wanted:
            self._is_wanted = False
            outcome: ReloadOutcome = "failed"
            try:
                outcome = await self._reload(apply)
            except (StartupError, UsageError) as error:
                logger.error("not reloaded: %s; what was served is served on", error)
            except Exception:
                logger.exception("a bug of ours, in a reload")
            self._count(outcome)

    async def _reload(self, apply: Apply) -> ReloadOutcome:
        logger.info("reloading")
        config = await asyncio.to_thread(self._read_config)
        for callback in self.on_reload:
            try:
                callback(config)
            except (StartupError, UsageError) as error:
                logger.error("not all is reloaded: %s", error)
        return await apply(config)
