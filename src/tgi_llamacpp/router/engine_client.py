"""The engine as the router sees it: one socket, and a log of every open sequence.

Owns the sequence ids, the epoch, the frames in both directions and the record (prompt ids,
parameters, ids so far) from which a sequence can be submitted again. Knows no text and no HTTP.
Called by router/generation.py for requests and by the supervisor for the engine's life.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from array import array
from collections.abc import Callable, Iterable

from tgi_llamacpp import __version__
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.errors import (
    EngineUnavailable,
    GenerationError,
    IncompleteError,
    StartupError,
)
from tgi_llamacpp.messages import (
    PROTOCOL_VERSION,
    Abort,
    Failed,
    FromEngine,
    Progress,
    Ready,
    SamplingParams,
    SequenceFailed,
    Start,
    Stats,
    StepOut,
    Submit,
)
from tgi_llamacpp.router.engine_link import EngineLink
from tgi_llamacpp.router.mailbox import Alternatives, Mailbox, Row

logger = logging.getLogger(__name__)


class OpenSequence:
    """One generation between Submit and its end, with all that is needed to submit it again."""

    __slots__ = (
        "admitted_s",
        "choice",
        "generated_ids",
        "ignore_eog",
        "mailbox",
        "max_new_tokens",
        "num_cached_tokens",
        "params",
        "prompt_ids",
        "seq_id",
    )

    def __init__(
        self,
        seq_id: int,
        mailbox: Mailbox,
        choice: int,
        prompt_ids: bytes,
        max_new_tokens: int,
        params: SamplingParams,
        ignore_eog: bool,
    ) -> None:
        self.seq_id = seq_id
        self.mailbox = mailbox
        self.choice = choice
        self.prompt_ids = prompt_ids
        self.generated_ids = array("i")
        self.max_new_tokens = max_new_tokens
        self.params = params
        self.ignore_eog = ignore_eog
        self.admitted_s: float | None = None  # time.perf_counter() when it left the queue
        self.num_cached_tokens = 0  # of the prompt, which the engine had computed before

    def to_submit(self) -> Submit:
        """The frame that starts this sequence, or resumes it where it stands."""
        return Submit(
            self.seq_id,
            self.prompt_ids,
            self.generated_ids.tobytes(),
            self.max_new_tokens,
            self.params,
            self.ignore_eog,
        )


class EngineClient:
    """One engine process as the router sees it. Every method runs on the event loop's thread."""

    def __init__(self) -> None:
        self.epoch = 0  # of the engine now running; the first start makes it 1
        self.ready: Ready | None = None
        self.stats: Stats | None = None
        self._open: dict[int, OpenSequence] = {}
        self._next_seq_id = itertools.count(1)
        self._link: EngineLink | None = None

    @property
    def is_healthy(self) -> bool:
        """An engine has said Ready and its socket is open."""
        return self._link is not None and not self._link.closed.done() and self.ready is not None

    @property
    def num_open(self) -> int:
        """Sequences submitted and not yet finished, failed or aborted."""
        return len(self._open)

    async def start(
        self,
        sock: socket.socket,
        config: EngineConfig,
        on_progress: Callable[[float], None] | None = None,
    ) -> Ready:
        """Hand the engine its configuration and wait until it serves. Takes `sock` over.

        Raises:
            StartupError: the engine failed, closed its end, or speaks another version.
        """
        assert not self.is_healthy
        self.epoch += 1
        self.ready = None
        loop = asyncio.get_running_loop()
        link = EngineLink(self._on_message, self._on_lost, on_progress)
        sock.setblocking(False)
        await loop.create_unix_connection(lambda: link, sock=sock)
        self._link = link
        link.send(Start(self.epoch, config))
        try:
            self.ready = _checked(await link.started)
            self.stats = Stats.of_nothing(self.epoch)
        except BaseException:
            await self.close()
            raise
        return self.ready

    async def close(self) -> None:
        """Close the socket; the engine sees end-of-file and exits. Idempotent."""
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
    ) -> OpenSequence:
        """Start one sequence; its rows arrive in `mailbox` under `choice`.

        Raises:
            EngineUnavailable: there is no engine.
        """
        if not self.is_healthy or self._link is None:
            raise EngineUnavailable("The engine is not running; try again later")
        sequence = OpenSequence(
            next(self._next_seq_id), mailbox, choice, prompt_ids, max_new_tokens, params, ignore_eog
        )
        self._open[sequence.seq_id] = sequence
        self._link.send(sequence.to_submit())
        return sequence

    def abort(self, sequences: Iterable[OpenSequence]) -> None:
        """Forget these sequences; those already ended are no error."""
        seq_ids = [s.seq_id for s in sequences if self._open.pop(s.seq_id, None) is not None]
        if seq_ids and self._link is not None:
            self._link.send(Abort(seq_ids))

    def _on_message(self, message: FromEngine) -> None:
        if isinstance(message, Progress) or message.epoch != self.epoch:
            return
        if isinstance(message, StepOut):
            self._on_step(message)
        elif isinstance(message, Stats):
            self.stats = message
        elif isinstance(message, SequenceFailed):
            sequence = self._open.pop(message.seq_id, None)
            if sequence is not None:
                sequence.mailbox.fail(GenerationError(message.message))
        elif isinstance(message, Failed):
            logger.error("the engine failed: %s", message.message)

    def _on_step(self, step: StepOut) -> None:
        sequences = self._open
        if step.admitted:
            now = time.perf_counter()
            for seq_id in memoryview(step.admitted).cast("q"):
                if (sequence := sequences.get(seq_id)) is not None:
                    sequence.admitted_s = now
        if step.cached_seq_ids:
            self._on_cached(step)
        seq_ids = memoryview(step.seq_ids).cast("q").tolist()
        token_ids = memoryview(step.token_ids).cast("i").tolist()
        logprobs = memoryview(step.logprobs).cast("f").tolist()
        alternatives = _alternatives(step)
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

    def _on_cached(self, step: StepOut) -> None:
        counts = memoryview(step.cached_counts).cast("i")
        for seq_id, count in zip(memoryview(step.cached_seq_ids).cast("q"), counts, strict=True):
            if (sequence := self._open.get(seq_id)) is not None:
                sequence.num_cached_tokens = count

    def _on_lost(self) -> None:
        """The engine is gone: every open request ends now."""
        lost, self._open = self._open, {}
        if self.stats is not None:
            self.stats = self.stats.at_rest()
        if lost:
            logger.error("the engine is gone; num_open=%d sequences end incomplete", len(lost))
        for sequence in lost.values():
            sequence.mailbox.fail(IncompleteError())


def _alternatives(step: StepOut) -> list[Alternatives] | None:
    """Per row, the alternatives of the step's flat columns."""
    if not step.top_counts:
        return None
    pairs: Alternatives = list(
        zip(
            memoryview(step.top_ids).cast("i").tolist(),
            memoryview(step.top_logprobs).cast("f").tolist(),
            strict=True,
        )
    )
    ends = list(itertools.accumulate(step.top_counts))
    return [pairs[end - count : end] for end, count in zip(ends, step.top_counts, strict=True)]


def _checked(ready: Ready) -> Ready:
    if ready.protocol_version != PROTOCOL_VERSION or ready.package_version != __version__:
        raise StartupError(
            f"the engine is version {ready.package_version} (protocol {ready.protocol_version}), "
            f"the router {__version__} (protocol {PROTOCOL_VERSION}): "
            "the package was changed on disk, restart the server"
        )
    return ready
