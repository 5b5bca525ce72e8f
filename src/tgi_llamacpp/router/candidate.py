"""An engine beside the one that serves: it loads, computes a token, and waits to take over.

Owns that engine until a supervisor takes it. What it cannot do is found out here, where nobody's
request is in it. Called by router/rollover.py.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.errors import EngineDiedError, StartupError
from tgi_llamacpp.messages import (
    Failed,
    FromEngine,
    Ready,
    SamplingParams,
    SequenceFailed,
    StepOut,
    Submit,
)
from tgi_llamacpp.router.engine_link import ConnectedEngine, connect
from tgi_llamacpp.router.engine_process import EngineProcess, describe_exit
from tgi_llamacpp.router.progress import LoadProgress

logger = logging.getLogger(__name__)

_PROBE_ID = 0  # of a sequence; those of requests begin at 1
_FIRST_STEP = 4  # of the watchdog's times, as in router/watchdog.py


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that serves nobody yet. Whoever has it ends it, or hands it to a supervisor."""

    process: EngineProcess
    engine: ConnectedEngine
    config: EngineConfig

    @property
    def ready(self) -> Ready:
        return self.engine.ready

    async def end(self) -> None:
        """It is not needed."""
        self.engine.link.detach()
        await self.process.end()


async def start_candidate(
    process: EngineProcess,
    epoch: int,
    config: EngineConfig,
    *,
    watchdog_s: float,
    check: Callable[[Ready], None],
) -> Candidate:
    """Load the model and compute a token.

    Raises StartupError, with no engine left; EngineDiedError where a signal ended it.
    """
    logger.info("engine %d started, pid %d", epoch, process.pid)
    engine: ConnectedEngine | None = None
    try:
        engine = await connect(process.sock, epoch, config, LoadProgress(None).show, check)
        await _probe(engine, watchdog_s)
    except BaseException as error:
        if engine is not None:
            engine.link.detach()
        returncode = await process.end()
        if isinstance(error, StartupError) and returncode is not None and returncode < 0:
            message = f"{error}; {describe_exit(returncode)}"
            raise EngineDiedError(message, returncode) from error
        raise
    return Candidate(process, engine, config)


async def _probe(engine: ConnectedEngine, watchdog_s: float) -> None:
    """Have it compute a token, which a broken engine would not.

    Raises StartupError.
    """
    outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def settle(reason: str | None) -> None:
        if not outcome.done():
            outcome.set_result(reason)

    def on_message(message: FromEngine) -> None:
        if isinstance(message, StepOut) and message.seq_ids:
            settle(None)
        elif isinstance(message, Failed | SequenceFailed):
            settle(message.message)

    engine.link.attach(on_message, lambda: settle("it ended"))
    token = array("i", [engine.ready.bos_id or 0]).tobytes()
    engine.link.send(Submit(_PROBE_ID, token, b"", 1, SamplingParams(), True))
    try:
        async with asyncio.timeout(_FIRST_STEP * watchdog_s or None):
            reason = await outcome
    except TimeoutError:
        reason = f"no step in {_FIRST_STEP * watchdog_s:.0f} s"
    if engine.link.closed.done():
        reason = reason or "it ended"
    if reason is not None:
        raise StartupError(f"the engine loaded the model, and could not compute a token: {reason}")
