"""SIGHUP: the configuration is read again, and whoever asked to hear of it does.

Owns the order, and that of any number of requests while one runs a single other one follows. Knows
no signal and no file. Called by server.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError, UsageError

logger = logging.getLogger(__name__)

OnReload = Callable[[ServerConfig], None]


class Reload:
    """One reload at a time. `on_reload` gets each configuration that could be read.

    What an entry of `on_reload` raises (StartupError, UsageError) is logged, and stops no other.
    read_config: reads the command line, the environment and the file anew, in another thread.
    """

    def __init__(self, read_config: Callable[[], ServerConfig]) -> None:
        self.on_reload: list[OnReload] = []
        self._read_config = read_config
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Reload now, or once more when the reload under way is done."""
        if self._task is not None and not self._task.done():
            logger.info("another reload follows the one that runs")
            self._is_wanted = True
            return
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End a reload that is under way. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        self._is_wanted = True
        while self._is_wanted:
            self._is_wanted = False
            try:
                await self._reload()
            except (StartupError, UsageError) as error:
                logger.error("not reloaded: %s", error)
            except Exception:
                logger.exception("a bug of ours, in a reload")

    async def _reload(self) -> None:
        logger.info("reloading")
        config = await asyncio.to_thread(self._read_config)
        for callback in self.on_reload:
            try:
                callback(config)
            except (StartupError, UsageError) as error:
                logger.error("not all is reloaded: %s", error)
