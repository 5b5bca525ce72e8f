"""The engine as the router sees it: one socket, and a log of every open sequence.

Owns the sequence ids, the epoch, the frames in both directions and the record (prompt ids,
parameters, ids so far) from which a sequence is submitted again when its engine has died. Knows no
text and no HTTP. Called by router/generation.py for requests and by the supervisor for the engine's
life.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Callable, Iterable

import msgspec

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.errors import (
    EngineUnavailable,
    GenerationError,
    IncompleteError,
    TgiError,
)
from tgi_llamacpp.messages import (
    Abort,
    Failed,
    FromEngine,
    FromRouter,
    Progress,
    PromptLogprobs,
    Ready,
    SamplingParams,
    SequenceFailed,
    Stats,
    StepOut,
)
from tgi_llamacpp.router.engine_link import ConnectedEngine, EngineLink, connect
from tgi_llamacpp.router.forecast import Forecast
from tgi_llamacpp.router.mailbox import NO_TOKEN, Alternatives, Mailbox, Row
from tgi_llamacpp.router.open_sequence import OpenSequence
from tgi_llamacpp.router.prompt_scores import PromptScores
from tgi_llamacpp.router.recovery import Recovery
from tgi_llamacpp.router.resubmission import Resubmission
from tgi_llamacpp.step_page import StepEntry

logger = logging.getLogger(__name__)


class Epochs:
    """The numbers of a server's engines, in the order of their start."""

    def __init__(self) -> None:
        self.last = 0

    def take(self) -> int:
        self.last += 1
        return self.last


class EngineClient:
    """One engine process as the router sees it. Every method runs on the event loop's thread.

    Open sequences outlive an engine: without one, submit queues. Whoever starts the engine starts
    another when it ends, or calls `give_up`.
    """

    def __init__(self, epochs: Epochs | None = None, recovery: Recovery | None = None) -> None:
        """epochs: numbers of engines, where several clients are in one server."""
        self.epoch = 0  # of the engine now running
        self.ready: Ready | None = None  # what the last engine said that served
        self.stats: Stats | None = None
        self.recovery = recovery or Recovery()
        self.forecast = Forecast()
        self.is_stalled = False  # there is work and no step: the supervisor's finding
        self.epochs = epochs or Epochs()
        self._open: dict[int, OpenSequence] = {}
        self._next_seq_id = itertools.count(1)
        self._link: EngineLink | None = None
        self._is_serving = False
        self.last_words: str | None = None  # of the engine that runs now, or ran last
        self._end_reason: str | None = None  # why there will be no engine any more
        self._resubmission = Resubmission(self._open, self._next_seq_id, self._send)

    @property
    def is_healthy(self) -> bool:
        """An engine has said Ready, its socket is open, and it moves when there is work."""
        return self._is_serving and not self.is_stalled and self._end_reason is None

    @property
    def is_given_up(self) -> bool:
        """No engine will come, unless one takes over."""
        return self._end_reason is not None

    def check_not_given_up(self) -> None:
        """Raises EngineUnavailable: there will be no engine, and this is why."""
        if self._end_reason is not None:
            raise EngineUnavailable(self._end_reason)

    @property
    def num_open(self) -> int:
        """Sequences submitted and not yet finished, failed or aborted."""
        return len(self._open)

    def stats_now(self) -> Stats | None:
        """What the engine said last; what waits for an engine is in the queue too."""
        if self.stats is None:
            return None
        num_outside = sum(
            not (self._is_serving and sequence.is_submitted) for sequence in self._open.values()
        )
        num_waiting = self.stats.num_waiting + num_outside
        return msgspec.structs.replace(self.stats, num_waiting=num_waiting)

    async def start(
        self,
        sock: socket.socket,
        config: EngineConfig,
        on_progress: Callable[[float], None] | None = None,
        check: Callable[[Ready], None] = lambda ready: None,
        *,
        is_doubted: bool = False,
    ) -> Ready:
        """Hand the engine its configuration and wait until it serves. Takes `sock` over.

        What is open goes to it, as soon as `check` has found nothing wrong with it and, where it
        is doubted, it has done a step.

        Raises:
            StartupError: the engine failed, closed its end, or is of another version; or `check`'s.
        """
        assert not self._is_serving
        self.recovery.num_restarts += self.epoch > 0
        self.epoch = self.epochs.take()
        self.last_words = None
        engine = await connect(sock, self.epoch, config, on_progress, check)
        self.take_over(engine, is_doubted=is_doubted)
        return engine.ready

    def take_over(self, engine: ConnectedEngine, *, is_doubted: bool = False) -> None:
        """From here on this engine serves; what is open goes to it.

        One that serves now is disconnected, which ends it. What it sent and nobody has read yet is
        computed again.
        """
        if self._link is not None:
            self._link.detach()
        self._link, self.epoch, self.ready = engine.link, engine.epoch, engine.ready
        self.last_words = self._end_reason = None
        self.stats = Stats.of_nothing(self.epoch)
        engine.link.attach(self._on_message, self._on_lost)
        self._resume(engine.ready, is_doubted)

    async def close(self) -> None:
        """Disconnect, and end what is open. Idempotent."""
        await self.disconnect()
        self._end_all(IncompleteError())

    async def disconnect(self) -> None:
        """Close the socket, so that the engine exits; what is open waits. Idempotent."""
        if self._link is not None:
            self._link.close()
            await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return when there is no engine behind this client any more."""
        if self._link is not None:
            await asyncio.shield(self._link.closed)

    def submit(
        self,
        mailbox: Mailbox,
        prompt_ids: bytes,
        max_new_tokens: int,
        params: SamplingParams,
        *,
        choice: int = 0,
        ignore_eog: bool = False,
        scope: int = 0,
        prompt_logprobs: bool = False,
        more_follow: bool = False,
        takes_prefix: bool = True,
    ) -> OpenSequence:
        """Start one sequence; its rows arrive in `mailbox` under `choice`.

        Without an engine it waits for the next one. Prefixes are shared within a `scope`,
        unless it is not to take one.
        more_follow: others come in a moment, for whom an engine at rest had better wait.

        Raises:
            EngineUnavailable: there will be no other.
        """
        self.check_not_given_up()
        sequence = OpenSequence(
            next(self._next_seq_id),
            mailbox,
            choice,
            prompt_ids,
            max_new_tokens,
            params,
            ignore_eog,
            scope,
        )
        if prompt_logprobs:
            sequence.scores = PromptScores(prompt_ids, params.num_top_tokens)
        sequence.more_follow = more_follow
        sequence.takes_prefix = takes_prefix
        self._open[sequence.seq_id] = sequence
        if self._is_serving:
            self._resubmission.add(sequence)
        return sequence

    def abort(self, sequences: Iterable[OpenSequence]) -> None:
        """Forget these sequences; those already ended are no error."""
        seq_ids = [s.seq_id for s in sequences if self._open.pop(s.seq_id, None) is not None]
        if seq_ids and self._link is not None:
            self._link.send(Abort(seq_ids))
            self._resubmission.advance()

    def give_up(self, reason: str) -> None:
        """No other engine will come: end what is open, and refuse what comes. One sentence."""
        self._end_reason = reason
        self._end_all(EngineUnavailable(reason))

    def _end_all(self, error: TgiError) -> None:
        while self._open:
            _, sequence = self._open.popitem()
            sequence.mailbox.fail(error)

    def _send(self, message: FromRouter) -> None:
        if self._link is not None:
            self._link.send(message)

    def blame(self, entries: Iterable[StepEntry]) -> bool:
        """The engine died while it ran these; True where one of them is open.

        A sequence ends that was alone in the engine, and had been in two such crashes before.
        """
        return self._resubmission.blame(entries)

    def _resume(self, ready: Ready, is_doubted: bool) -> None:
        """A new engine serves: it gets what is open."""
        assert self._link is not None
        probe_id = (ready.bos_id or 0) if is_doubted else None
        self._is_serving = not self._link.closed.done()
        self.recovery.num_resubmitted += self._resubmission.resume(probe_id)
        is_serving = self._is_serving
        num_waiting = sum(is_serving and one.is_submitted for one in self._open.values())
        self.stats = Stats.of_nothing(self.epoch, num_waiting)  # until it says so itself
        if not self._open and self.recovery.is_under_way:
            self._tell_recovered()

    def _on_message(self, message: FromEngine) -> None:
        if isinstance(message, Progress) or message.epoch != self.epoch:
            return
        if isinstance(message, StepOut):
            self._on_step(message)
        elif isinstance(message, PromptLogprobs):
            self._on_prompt_logprobs(message)
        elif isinstance(message, Stats):
            self.stats = message
            self.forecast.on_stats(message)
        elif isinstance(message, SequenceFailed):
            sequence = self._open.pop(message.seq_id, None)
            if sequence is not None:
                sequence.mailbox.fail(GenerationError(message.message))
                self._resubmission.advance()
        elif isinstance(message, Failed):
            self.last_words = message.message

    def _on_step(self, step: StepOut) -> None:
        sequences = self._open
        if step.admitted:
            now = time.perf_counter()
            for seq_id in memoryview(step.admitted).cast("q"):
                sequence = sequences.get(seq_id)
                if sequence is not None and sequence.admitted_s is None:
                    sequence.admitted_s = now
        if step.cached_seq_ids:
            self._on_cached(step)
        seq_ids = memoryview(step.seq_ids).cast("q").tolist()
        token_ids = memoryview(step.token_ids).cast("i").tolist()
        logprobs = memoryview(step.logprobs).cast("f").tolist()
        alternatives = _alternatives(step) if step.top_counts else None
        for row, seq_id in enumerate(seq_ids):
            sequence = sequences.get(seq_id)
            if sequence is None:  # aborted while the step ran
                continue
            finish = step.finishes[row]
            if finish:
                del sequences[seq_id]
            sequence.generated_ids.append(token_ids[row])
            tops = alternatives[row] if alternatives is not None else None
            sequence.mailbox.put(Row(sequence.choice, token_ids[row], logprobs[row], finish, tops))

        if self.recovery.is_under_way:
            self._tell_recovered()
        self._resubmission.advance()

    def _tell_recovered(self) -> None:
        duration_s = self.recovery.finish()
        logger.info("engine %d goes on, %.2f s after the one before", self.epoch, duration_s)

    def _on_prompt_logprobs(self, message: PromptLogprobs) -> None:
        sequence = self._open.get(message.seq_id)
        if sequence is None:  # aborted while the step ran
            return
        if sequence.admitted_s is None:
            sequence.admitted_s = time.perf_counter()
        if sequence.scores is not None:
            sequence.scores.add(message)
        if message.finish:
            del self._open[message.seq_id]
            sequence.mailbox.put(Row(sequence.choice, NO_TOKEN, 0.0, message.finish, None))
            self._resubmission.advance()

    def _on_cached(self, step: StepOut) -> None:
        counts = memoryview(step.cached_counts).cast("i")
        for seq_id, count in zip(memoryview(step.cached_seq_ids).cast("q"), counts, strict=True):
            sequence = self._open.get(seq_id)
            if sequence is not None and not sequence.generated_ids:  # else an engine died between
                sequence.num_cached_tokens = count

    def _on_lost(self) -> None:
        """The engine is gone; what is open waits for the next."""
        if self.stats is not None:
            self.stats = self.stats.at_rest()
        if self._is_serving:
            self._is_serving = False
            self.recovery.begin()


def _alternatives(step: StepOut) -> list[Alternatives]:
    """Per row, the alternatives of the step's flat columns."""
    pairs: Alternatives = list(
        zip(
            memoryview(step.top_ids).cast("i").tolist(),
            memoryview(step.top_logprobs).cast("f").tolist(),
            strict=True,
        )
    )
    ends = list(itertools.accumulate(step.top_counts))
    return [pairs[end - count : end] for end, count in zip(ends, step.top_counts, strict=True)]
