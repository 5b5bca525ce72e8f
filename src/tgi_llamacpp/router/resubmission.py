"""Which of the open sequences the engine has: all of them, or one suspect at a time.

Owns the order after a crash. It shares the table of open sequences with EngineClient, which tells
it when an engine has come or gone and when something arrived; knows neither socket nor process.
"""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from tgi_llamacpp.errors import GenerationError
from tgi_llamacpp.messages import Abort, FromRouter, SamplingParams
from tgi_llamacpp.router.mailbox import Mailbox
from tgi_llamacpp.router.open_sequence import OpenSequence
from tgi_llamacpp.step_page import StepEntry

logger = logging.getLogger(__name__)


class Resubmission:
    """Sequences on their way into the engine.

    open_sequences: by id, in EngineClient's hands. new_ids: for one that goes in again beside its
    own remains. send: to the engine that runs now.
    """

    def __init__(
        self,
        open_sequences: dict[int, OpenSequence],
        new_ids: Iterator[int],
        send: Callable[[FromRouter], None],
    ) -> None:
        self._open = open_sequences
        self._new_ids = new_ids
        self._send = send
        self._suspects: deque[OpenSequence] = deque()
        self._probe: OpenSequence | None = None  # of nobody: one token, to see an engine do a step
        self._alone: OpenSequence | None = None  # the suspect that has the engine for itself
        self._num_alone_generated = 0  # tokens that it went in with

    def add(self, sequence: OpenSequence) -> None:
        """A new sequence: it goes in, unless a suspect has the engine for itself."""
        if self._alone is None:
            self._submit(sequence)

    def resume(self, probe_id: int | None) -> int:
        """A new engine serves: what is open goes in. Returns how many another engine had before.

        probe_id: a token that the engine has to decode first, or None where nobody doubts it; what
        it dies of after that is not itself.
        """
        num_again = 0
        for sequence in self._open.values():
            num_again += sequence.is_submitted
            sequence.is_submitted = False
            if not sequence.generated_ids:  # what the engine before had found was of no use
                sequence.num_cached_tokens = 0
        self._suspects = deque(s for s in self._open.values() if s.crashes.is_suspect)
        if self._suspects:
            logger.warning(
                "engines died at the same place of %d sequences twice: each runs alone, until it is"
                " one token further",
                len(self._suspects),
            )
        if probe_id is not None:
            self._suspects.appendleft(self._make_probe(probe_id))
        self._submit_next()
        return num_again

    def _make_probe(self, token_id: int) -> OpenSequence:
        seq_id, prompt_ids = next(self._new_ids), array("i", [token_id]).tobytes()
        self._probe = OpenSequence(seq_id, Mailbox(), 0, prompt_ids, 1, SamplingParams(), True)
        self._open[seq_id] = self._probe
        return self._probe

    def blame(self, entries: Iterable[StepEntry]) -> bool:
        """An engine died while it ran these; True where one of them is open.

        A sequence ends that was alone in the engine, and had been in two such crashes before.
        """
        alone, self._alone = self._alone, None
        is_anyone = False
        if self._probe is not None:
            self._open.pop(self._probe.seq_id, None)
        for seq_id, position in entries:
            sequence = self._open.get(seq_id)
            if sequence is None:
                continue
            is_anyone = True
            sequence.crashes.count(position, len(sequence.generated_ids))
            if sequence is alone and sequence.crashes.is_suspect:
                self._end(sequence)
        return is_anyone

    def advance(self) -> None:
        """Tokens came, or sequences ended: if that was the suspect's, it is the next one's turn."""
        alone = self._alone
        if alone is None:
            return
        if alone.seq_id in self._open:
            if len(alone.generated_ids) == self._num_alone_generated:
                return
            alone.crashes.clear()
            if self._suspects:
                self._set_aside(alone)
        self._submit_next()

    def _submit_next(self) -> None:
        """The next suspect alone; everything that waits, when there is none."""
        self._alone = None
        while self._suspects:
            suspect = self._suspects.popleft()
            if suspect.seq_id in self._open:
                self._alone = suspect
                self._num_alone_generated = len(suspect.generated_ids)
                self._submit(suspect)
                return
        for sequence in sorted(self._open.values(), key=lambda one: one.num_arrival):
            if not sequence.is_submitted:
                self._submit(sequence)

    def _submit(self, sequence: OpenSequence) -> None:
        sequence.is_submitted = True
        self._send(sequence.to_submit())

    def _set_aside(self, sequence: OpenSequence) -> None:
        """Take it out of the engine for now, by another id: rows under way must not count twice."""
        del self._open[sequence.seq_id]
        self._send(Abort([sequence.seq_id]))
        sequence.seq_id = next(self._new_ids)
        sequence.is_submitted = False
        self._open[sequence.seq_id] = sequence

    def _end(self, sequence: OpenSequence) -> None:
        num_crashes = sequence.crashes.num_crashes
        logger.error(
            "sequence %d ends: %d engines died at the same place of it, the last one alone with it",
            sequence.seq_id,
            num_crashes,
        )
        del self._open[sequence.seq_id]
        reason = f"the engine died of this request {num_crashes} times, the last time alone with it"
        sequence.mailbox.fail(GenerationError(reason))
