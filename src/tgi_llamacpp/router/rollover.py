"""From one configuration and model to the next, while requests are answered.

Owns which of the ways is taken: the engine stays, open requests move to another one, they finish on
the old one, or they wait while one is stopped and the other started. Called by router/reload.py;
what fails raises, and everything is as it was.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable

from tgi_llamacpp.config import EngineConfig, ServerConfig
from tgi_llamacpp.errors import EngineDiedError, StartupError
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router import memory_need, safe_mode
from tgi_llamacpp.router.app import apply_limits
from tgi_llamacpp.router.candidate import Candidate, start_candidate
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.engine_process import EngineProcess
from tgi_llamacpp.router.metrics import ReloadOutcome
from tgi_llamacpp.router.preparation import Preparation, prepare_beside
from tgi_llamacpp.router.recovery import Recovery
from tgi_llamacpp.router.serving import Engine, Front, Serving, make_serving
from tgi_llamacpp.router.supervisor import EngineSupervisor
from tgi_llamacpp.router.text_workers import TextWorkers

logger = logging.getLogger(__name__)

_KEPT_SETTINGS = ("hostname", "port", "aip_http_port")


class Rollover:
    """Puts one serving in the place of another, and takes the former down when it has no requests.

    name: of the model, for clients, whatever the configuration says; or None. on_give_up: called
    for a client that will have no engine any more. on_switch: called with each configuration that
    is served from then on.
    """

    def __init__(
        self,
        front: Front,
        name: str | None,
        *,
        on_give_up: Callable[[EngineClient, str], None],
        on_switch: Callable[[ServerConfig], None],
        start_process: Callable[[], EngineProcess] = EngineProcess,
    ) -> None:
        self._front = front
        self._bound = front.serving.prepared.config  # says where the port is
        self._name = name
        self._on_give_up = on_give_up
        self._on_switch = on_switch
        self._start_process = start_process
        self._retiring: dict[Serving, asyncio.Task[None]] = {}

    async def apply(self, config: ServerConfig) -> ReloadOutcome:
        """Serve this configuration from now on.

        Raises StartupError and UsageError: it cannot be served, and nothing has changed.
        """
        old = self._front.serving
        new = await prepare_beside(config, self._name)
        workers = TextWorkers(new)
        try:
            await workers.prepare()
            outcome = await self._replace(old, new, workers)
        except BaseException:
            workers.close()
            raise
        self._warn_of_kept(config)
        return outcome

    def give_up(self, reason: str) -> None:
        """End every request with this reason."""
        for engine in self._engines():
            engine.client.give_up(reason)

    async def stop(self) -> None:
        """End every engine and every worker."""
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)
        await asyncio.gather(*(engine.supervisor.stop() for engine in self._engines()))
        for serving in (self._front.serving, *self._retiring):
            await serving.close()

    async def _replace(self, old: Serving, new: Preparation, workers: TextWorkers) -> ReloadOutcome:
        if _is_same_engine(old, new):
            self._keep_engine(old, new, workers)
            return "kept"
        may_move = _may_move(old, new)
        if _is_on_gpu(old):
            return await self._replace_on_gpu(old, new, workers, may_move)
        stats = old.engine.client.stats
        num_held_bytes = stats.host.num_bytes if stats is not None else 0
        pid = old.engine.supervisor.pid
        need = memory_need.second_engine(old.prepared, new, pid, num_held_bytes)
        if need.fits:
            return await self._start_beside(old, new, workers)
        if not may_move:
            raise StartupError(
                f"no room for a second engine: {need}; open requests cannot go on with the new"
                " model, and would end: restart the server to serve it"
            )
        logger.warning(
            "no room for a second engine: %s; open requests wait while another is started", need
        )
        return await self._start_in_turn(old, new, workers)

    async def _replace_on_gpu(
        self, old: Serving, new: Preparation, workers: TextWorkers, may_move: bool
    ) -> ReloadOutcome:
        """Whether a GPU holds both is known when it was tried."""
        try:
            return await self._start_beside(old, new, workers)
        except StartupError as error:
            if not may_move:
                raise
            logger.warning(
                "no second engine beside the first: %s; in case the GPU has no room for both, open"
                " requests wait while another is started",
                error,
            )
        return await self._start_in_turn(old, new, workers)

    def _keep_engine(self, old: Serving, new: Preparation, workers: TextWorkers) -> None:
        """Only the router's side changes."""
        ready = old.engine.client.ready
        assert ready is not None
        serving = self._make_serving(new, old.engine, ready, workers)
        old.engine.supervisor.settings = new.engine_settings
        self._switch(serving)
        logger.info("reloaded: the model and the engine's settings are as they were")

    async def _start_beside(
        self, old: Serving, new: Preparation, workers: TextWorkers
    ) -> ReloadOutcome:
        """A second engine takes over the open requests, or new ones alone."""
        candidate = await self._start_candidate(old, new)
        may_move = _may_move(old, new, candidate.ready)
        engine = old.engine if may_move else self._new_engine(old, new)
        num_open = old.engine.client.num_open
        await self._take_over(engine, candidate, new, workers)
        if may_move:
            logger.info("reloaded: %d sequences moved to engine %d", num_open, engine.client.epoch)
            return "moved"
        logger.info(
            "reloaded: new requests go to engine %d, %d sequences finish on engine %d",
            engine.client.epoch,
            num_open,
            old.engine.client.epoch,
        )
        return "drained"

    async def _start_in_turn(
        self, old: Serving, new: Preparation, workers: TextWorkers
    ) -> ReloadOutcome:
        """First the end of the one, then the start of the other; if that fails, the one again."""
        supervisor = old.engine.supervisor
        await supervisor.pause()
        try:
            candidate = await self._start_candidate(old, new)
            if not _may_move(old, new, candidate.ready):
                await candidate.end()
                raise StartupError(
                    "the new engine has less room for a sequence than open requests may take: raise"
                    " --max-batch-total-tokens, or restart the server to serve the model so"
                )
            await self._take_over(old.engine, candidate, new, workers)
        except BaseException:
            supervisor.resume()
            raise
        logger.info("reloaded: engine %d serves", old.engine.client.epoch)
        return "paused"

    async def _take_over(
        self, engine: Engine, candidate: Candidate, new: Preparation, workers: TextWorkers
    ) -> None:
        """The candidate is this engine's process from here on, and new requests go there."""
        try:
            serving = self._make_serving(new, engine, candidate.ready, workers)
            await engine.supervisor.take_over(candidate, new.engine_settings)
        except BaseException:
            await candidate.end()
            raise
        self._switch(serving)

    async def _start_candidate(self, old: Serving, new: Preparation) -> Candidate:
        """In safe mode where it dies of a fault without; see safe_mode.py."""
        try:
            candidate = await self._try_candidate(old, new, new.engine_config)
        except EngineDiedError as error:
            if not safe_mode.may_help(new.engine_config, error.returncode):
                raise
            safe_config = safe_mode.without_repack(new.engine_config)
            candidate = await self._try_candidate(old, new, safe_config)
            logger.warning("%s", safe_mode.warning(candidate.engine.epoch, str(error)))
        _log_notes(candidate.ready)
        return candidate

    async def _try_candidate(
        self, old: Serving, new: Preparation, config: EngineConfig
    ) -> Candidate:
        try:
            process = self._start_process()
        except OSError as error:
            raise StartupError(f"the engine cannot be started: {error}") from error
        return await start_candidate(
            process,
            old.engine.client.epochs.take(),
            config,
            watchdog_s=new.config.engine_watchdog_s,
            check=new.check,
        )

    def _new_engine(self, old: Serving, new: Preparation) -> Engine:
        former = old.engine.client
        client = EngineClient(former.epochs, Recovery(of=former.recovery))
        supervisor = EngineSupervisor(
            client,
            new.engine_settings,
            on_give_up=lambda reason: self._on_give_up(client, reason),
            start_process=self._start_process,
        )
        return Engine(client, supervisor)

    def _make_serving(
        self, new: Preparation, engine: Engine, ready: Ready, workers: TextWorkers
    ) -> Serving:
        former = self._front.serving
        return make_serving(new, engine, ready, workers, former.services.keys, former)

    def _switch(self, serving: Serving) -> None:
        """New requests go there from here on."""
        former, self._front.serving = self._front.serving, serving
        apply_limits(serving.services)
        self._retiring[former] = asyncio.create_task(self._retire(former))
        self._on_switch(serving.prepared.config)

    async def _retire(self, former: Serving) -> None:
        """Wait for its requests, and take it down, with its engine if that is not another's.

        `stop` knows it until all is done, and does what remains.
        """
        await former.wait_idle()
        await former.close()
        others = (self._front.serving, *(one for one in self._retiring if one is not former))
        if all(one.engine is not former.engine for one in others):
            await former.engine.supervisor.stop()
            logger.info("engine %d has finished its requests", former.engine.client.epoch)
        del self._retiring[former]
        gc.unfreeze()  # what the former had in memory can go,
        gc.collect()
        gc.freeze()  # and what is loaded now stays out of collections

    def _engines(self) -> set[Engine]:
        return {serving.engine for serving in (self._front.serving, *self._retiring)}

    def _warn_of_kept(self, config: ServerConfig) -> None:
        """Name what only a start can change. What is served remembers what was asked for."""
        for name in _KEPT_SETTINGS:
            asked = getattr(config, name)
            if asked != (has := getattr(self._bound, name)):
                logger.warning(
                    "%s stays %s until the server is restarted, not %s", name, has, asked
                )


def _is_same_engine(old: Serving, new: Preparation) -> bool:
    return (
        not old.engine.client.is_given_up
        and old.prepared.weights == new.weights
        and old.prepared.engine_config == new.engine_config
    )


def _may_move(old: Serving, new: Preparation, ready: Ready | None = None) -> bool:
    """Whether the old engine's requests, and those that were checked for it, can go on with the
    new one: tokens mean the same, and as many of them fit."""
    former = old.engine.client.ready
    assert former is not None
    if former.pieces_hash != new.pieces_hash:
        return False
    room = new.derived.max_total_tokens
    if ready is not None:
        room = min(room, ready.max_sequence_tokens, ready.max_batch_total_tokens)
    return room >= old.services.config.limits.max_total_tokens


def _is_on_gpu(old: Serving) -> bool:
    ready = old.engine.client.ready
    return ready is not None and ready.device != "CPU"


def _log_notes(ready: Ready) -> None:
    for note in ready.notes:
        logger.info("%s", note)
