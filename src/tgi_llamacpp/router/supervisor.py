"""The engine's life as the server sees it: up, watched, down, and up again after a crash.

Owns which process is behind the EngineClient, and decides when another start is no use. Knows no
HTTP. Called by server.py, and by rollover.py when another model is to be served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.errors import EngineDiedError, StartupError
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router import safe_mode
from tgi_llamacpp.router.candidate import Candidate
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.engine_process import EngineProcess, describe_exit
from tgi_llamacpp.router.progress import LoadProgress
from tgi_llamacpp.router.recovery import BACKOFF_S, Patience
from tgi_llamacpp.router.safe_mode import SafeMode
from tgi_llamacpp.router.watchdog import Watchdog

logger = logging.getLogger(__name__)

_MAX_WATCH_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What engines are started with and held to.

    watchdog_s: that a step may take, see Watchdog. check: of every engine's Ready, may raise
    StartupError.
    """

    config: EngineConfig
    watchdog_s: float = 0.0
    check: Callable[[Ready], None] = lambda ready: None


class EngineSupervisor:
    """Starts and stops the engine behind `client`, and starts the next when one ends by itself.

    on_give_up: called with the reason when no engine will be started any more.
    """

    def __init__(
        self,
        client: EngineClient,
        settings: EngineSettings,
        *,
        on_give_up: Callable[[str], None] = lambda reason: None,
        start_process: Callable[[], EngineProcess] = EngineProcess,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self._client = client
        self.settings = settings
        self._on_give_up = on_give_up
        self._start_process = start_process
        self._backoff_s = backoff_s
        self._patience = Patience(backoff_s)
        self._safe_mode = SafeMode()
        self._process: EngineProcess | None = None
        self._ends: list[asyncio.Task[int | None]] = []  # of engines that another took over from
        self._ready_s = 0.0  # time.monotonic()
        self._last_end = ""  # what the last engine died of
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the engine, where there is one."""
        return self._process.pid if self._process is not None else None

    async def start(self, on_progress: Callable[[float], None] | None) -> Ready:
        """Start the first engine, wait until it has loaded the model, and look after it.

        on_progress gets the loaded fraction, 0 to 1.
        Raises StartupError.
        """
        try:
            ready = await self._start_engine(on_progress)
        except EngineDiedError as error:
            if not self._safe_mode.is_on:
                raise
            logger.error("engine %d did not come up: %s", self._client.epoch, error)
            ready = await self._start_engine(on_progress)
        self._task = asyncio.create_task(self._keep_alive())
        return ready

    async def stop(self) -> None:
        """End the engine, if there is one. Idempotent."""
        await self._look_away()
        await self._client.close()
        await self._end_process()
        await asyncio.gather(*self._ends)

    async def take_over(self, candidate: Candidate, settings: EngineSettings) -> None:
        """Put this engine in the place of what there is, and open requests with it.

        There is no await between that and the return. The engine before is left to end by itself.
        """
        await self._look_away()
        former, self._process = self._process, candidate.process
        if former is not None:
            self._ends.append(asyncio.create_task(former.end()))
        self.settings, self._patience = settings, Patience(self._backoff_s)
        self._safe_mode = SafeMode(is_on=candidate.config != settings.config)
        self._client.recovery.is_in_safe_mode = self._safe_mode.is_on
        self._ready_s = time.monotonic()
        if self._client.epoch:
            self._client.recovery.begin()
        self._client.take_over(candidate.engine)
        self._task = asyncio.create_task(self._keep_alive())

    async def pause(self) -> None:
        """End the engine. What is open waits, for `take_over` or `resume`."""
        await self._look_away()
        self._client.recovery.begin()
        await self._client.disconnect()
        await self._end_process()

    def resume(self) -> None:
        """After a pause: an engine with the settings of before is on its way."""
        self._patience = Patience(self._backoff_s)
        self._task = asyncio.create_task(self._keep_alive())

    async def _look_away(self) -> None:
        """Replace no engine for now, also none that has just ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _start_engine(self, on_progress: Callable[[float], None] | None) -> Ready:
        """Raises StartupError; EngineDiedError where the engine could not say why."""
        is_safe = self._safe_mode.is_on
        try:
            self._process = process = self._start_process()
        except OSError as error:
            raise EngineDiedError(f"the engine cannot be started: {error}") from error
        logger.info("engine %d started, pid %d", self._client.epochs.last + 1, process.pid)
        try:
            ready = await self._client.start(
                process.sock,
                self._safe_mode.apply(self.settings.config),
                on_progress,
                self.settings.check,
                is_doubted=self._patience.has_doubts,
            )
        except StartupError as error:
            returncode = await self._end_process()
            if returncode is not None and returncode < 0:
                cause = describe_exit(returncode)
                self._safe_mode.on_useless_end(self.settings.config, returncode, cause)
                message = f"the engine did not load the model; {cause}"
                if is_safe:
                    message += ", also without repacked weights"
                raise EngineDiedError(message, returncode) from error
            raise
        self._client.recovery.is_in_safe_mode = is_safe
        if is_safe:
            logger.warning("%s", safe_mode.warning(self._client.epoch, self._safe_mode.cause))
        self._ready_s = time.monotonic()
        return ready

    async def _end_process(self) -> int | None:
        """Wait for the engine, whose socket is closed; its exit status."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        return await process.end()

    async def _keep_alive(self) -> None:
        """Replace every engine that ends, until that is no use."""
        try:
            if self._process is None:
                await self._replace()
            while True:
                was_stuck = await self._watch()
                self._last_end = await self._bury(was_stuck)
                await self._replace()
        except _NoUseError as end:
            reason = str(end)
        except Exception:
            logger.exception("a bug of ours, in the supervision of the engine")
            reason = "The engine is gone, and the server failed to start another"
        logger.error("no other engine will be started: %s", reason)
        self._client.give_up(reason)
        self._on_give_up(reason)

    async def _watch(self) -> bool:
        """Return when the engine is gone; True for one that was stuck, and was killed for that."""
        assert self._process is not None
        limit_s = self.settings.watchdog_s
        watchdog = Watchdog(limit_s)
        interval_s = min(limit_s / 4 or _MAX_WATCH_INTERVAL_S, _MAX_WATCH_INTERVAL_S)
        gone = asyncio.ensure_future(self._client.wait_closed())
        try:
            while not (await asyncio.wait([gone], timeout=interval_s))[0]:
                watchdog.limit_s = self.settings.watchdog_s
                watchdog.look(self._process.page.read(), has_work=self._client.num_open > 0)
                self._client.is_stalled = watchdog.is_stalled
                if watchdog.is_stuck:
                    await self._kill_stuck(self._process, watchdog.still_s)
                    return True
            return False
        finally:
            gone.cancel()
            self._client.is_stalled = False

    async def _kill_stuck(self, process: EngineProcess, still_s: float) -> None:
        logger.error(
            "engine %d is stuck: nothing moved for %.1f s, with %d sequences open; it is killed,"
            " and the stacks of its threads follow",
            self._client.epoch,
            still_s,
            self._client.num_open,
        )
        await process.kill_stuck()
        await self._client.disconnect()

    async def _bury(self, was_stuck: bool) -> str:
        """Take down an engine that is gone, and find out of what it died; that in words."""
        assert self._process is not None
        self._client.recovery.begin()
        ready_s = time.monotonic() - self._ready_s
        page = self._process.page.read()
        had_work = self._client.num_open > 0
        returncode = await self._end_process()
        cause = describe_exit(returncode)
        if was_stuck:
            cause = "it stood still, and was killed"
        if self._client.last_words is not None:
            cause += f" ({self._client.last_words})"
        is_explained = self._client.blame(page.entries)
        logger.error(
            "engine %d is gone: %s; %d sequences wait for the next one",
            self._client.epoch,
            cause,
            self._client.num_open,
        )
        self._patience.on_crash(
            num_steps=page.num_steps,
            had_work=had_work,
            ready_s=ready_s,
            is_explained=is_explained,
        )
        if not self._patience.has_doubts:
            self._safe_mode.on_useful_end()
        elif not was_stuck:
            self._safe_mode.on_useless_end(self.settings.config, returncode, cause)
        return cause

    async def _replace(self) -> None:
        """Start engines until one serves.

        Raises _NoUseError.
        """
        while not self._patience.is_over:
            if self._patience.delay_s:
                logger.info("the next engine is started in %.1f s", self._patience.delay_s)
            await asyncio.sleep(self._patience.delay_s)
            try:
                await self._start_engine(LoadProgress(None).show)
                return
            except StartupError as error:
                logger.error("engine %d did not come up: %s", self._client.epoch, error)
                self._last_end = str(error)
                is_certain = not isinstance(error, EngineDiedError)
                if self._patience.on_failed_load(str(error), is_certain=is_certain):
                    raise _NoUseError(
                        f"The engine ended, and cannot load the model again: {error}"
                    ) from error
        num_ends = self._patience.num_useless
        raise _NoUseError(
            f"The engine ended {num_ends} times in a row without a completed step,"
            f" the last time: {self._last_end}"
        )


class _NoUseError(Exception):
    """Starting another engine would not help: one sentence for every request."""
