"""The tokens of one request, from Submit to the last one, as text.

Owns the order of finishing (end of generation, stop string, length), the permits, and the abort
when a request ends early. Knows no wire format: router/tgi.py and router/openai.py fold over the
events. Rows come from router/mailbox.py.
"""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from tgi_llamacpp.errors import DeadlineError, SlowReaderError
from tgi_llamacpp.messages import Finish, SamplingParams
from tgi_llamacpp.router.deadline import Deadline
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.mailbox import NO_TOKEN, Alternatives, Mailbox, Row
from tgi_llamacpp.router.metrics import RequestTimes
from tgi_llamacpp.router.open_sequence import OpenSequence
from tgi_llamacpp.router.prompt_scores import PromptScores
from tgi_llamacpp.router.sampling import sequence_seed
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.stop_strings import StopMatcher
from tgi_llamacpp.router.validation import ValidRequest

_MAX_UNSENT_TOKENS = 4096
"""Of a sequence, that wait in the router for a client that does not take what it was sent."""


class FinishReason(enum.Enum):
    """Why a sequence ended, in TGI's words."""

    LENGTH = "length"
    EOS = "eos_token"
    STOP = "stop_sequence"


class TokenEvent(msgspec.Struct, frozen=True, gc=False):
    """One generated token.

    `text` is the token's own text; `visible` is what the client may now see more of the generated
    text: without special tokens, up to a stop string, and with the rest when it is the last.
    """

    choice: int
    id: int
    text: str
    logprob: float
    is_special: bool
    visible: str
    finish: FinishReason | None
    alternatives: Alternatives | None
    is_token: bool = True  # else an end without a token, with an id that can stand for it

    @property
    def num_characters(self) -> int:
        """Of the generated text, in which special tokens have none."""
        return 0 if self.is_special else len(self.text)


def mean_logprob(events: Sequence[TokenEvent]) -> float:
    """By what candidates are compared; -inf where it is not a number, or there are no tokens."""
    logprobs = [event.logprob for event in events if event.is_token]
    mean = sum(logprobs) / len(logprobs) if logprobs else -math.inf
    return -math.inf if math.isnan(mean) else mean


class SequenceText:
    """The text side of one sequence: token ids in, events out."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stop: list[str],
        *,
        keep_stop: bool,
        choice: int,
        min_tokens: int = 0,
    ) -> None:
        """min_tokens: stop strings are looked for from this token on."""
        self._stream = detokenizer.stream()
        self._special_ids = detokenizer.special_ids
        self._stops = StopMatcher(stop, keep_stop=keep_stop)
        self._choice = choice
        self._min_tokens = min_tokens
        self.num_tokens = 0
        self.finish: FinishReason | None = None

    def push(self, row: Row) -> TokenEvent:
        """What the next token adds. Nothing may follow an event with a finish."""
        self.num_tokens += 1
        text = self._stream.push(row.token_id)
        is_special = row.token_id in self._special_ids
        visible = ""
        if not is_special:
            may_stop = self.num_tokens >= self._min_tokens
            visible = self._stops.push(text) if may_stop else text
        if row.finish or self._stops.is_stopped:
            visible += self._end(row.finish)
        return TokenEvent(
            self._choice,
            row.token_id,
            text,
            row.logprob,
            is_special,
            visible,
            self.finish,
            row.alternatives,
        )

    def end_empty(self) -> None:
        """There is no token: none was asked for."""
        self.finish = FinishReason.LENGTH

    def end_early(self, end_id: int) -> TokenEvent:
        """There is no time for more: what was held back, and the end."""
        visible = self._end(Finish.LENGTH)
        return TokenEvent(
            self._choice, end_id, visible, 0.0, True, visible, self.finish, None, is_token=False
        )

    def _end(self, finish: int) -> str:
        """Settle the reason; returns text that was still held back."""
        visible = "" if self._stops.is_stopped else self._stops.push(self._stream.flush())
        if finish == Finish.EOG:
            self.finish = FinishReason.EOS
        elif self._stops.is_stopped:
            self.finish = FinishReason.STOP
        else:
            self.finish = FinishReason.LENGTH
        return visible + self._stops.flush()


@dataclass(frozen=True, slots=True)
class Planned:
    """One sequence that a request wants: what to run, and the seed of this choice."""

    request: ValidRequest
    seed: int  # as a client would send it
    seed_choice: int = 0  # which of the choices under that seed

    def params(self) -> SamplingParams:
        seed = sequence_seed(self.seed, self.seed_choice)
        return msgspec.structs.replace(self.request.params, seed=seed)


class RunningSequence:
    """A planned sequence and what has become of it."""

    __slots__ = ("finished_s", "open", "plan", "queued_s", "scores", "text")

    def __init__(
        self,
        plan: Planned,
        opened: OpenSequence,
        text: SequenceText,
        scores: PromptScores | None,
    ) -> None:
        """scores: of the prompt, which may be another sequence's too."""
        self.plan = plan
        self.scores = scores
        self.open = opened
        self.text = text
        self.queued_s = time.perf_counter()
        self.finished_s: float | None = None

    @property
    def reported_seed(self) -> int | None:
        """What a client would send to draw the same again; None where nothing was drawn."""
        return self.plan.seed if self.plan.request.is_sampled else None

    def times(self, started_s: float) -> RequestTimes:
        """Where the time went since the handler started, for a finished sequence."""
        assert self.finished_s is not None
        admitted_s = self.open.admitted_s or self.queued_s
        inference_s = self.finished_s - admitted_s
        return RequestTimes(
            total_s=self.finished_s - started_s,
            validation_s=self.queued_s - started_s,
            queue_s=admitted_s - self.queued_s,
            inference_s=inference_s,
            time_per_token_s=inference_s / max(self.text.num_tokens, 1),
        )


def _has_begun(sequence: RunningSequence) -> bool:
    return sequence.text.num_tokens > 0 or sequence.finished_s is not None


class Generation:
    """All sequences of one request, submitted together; leaves nothing running behind.

    Use as a context manager. Choice i of the events is `plans[i]`. At its deadline what is not
    finished ends for its length.
    """

    def __init__(
        self,
        services: Services,
        plans: list[Planned],
        *,
        keep_stop: bool,
        deadline: Deadline | None = None,
    ) -> None:
        """Raises DeadlineError where there is no time left."""
        self._services = services
        self._engine = services.engine
        self._mailbox = Mailbox(_MAX_UNSENT_TOKENS * len(plans), self._on_full)
        self._deadline = deadline
        self._is_late = False
        self._timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            self._set_timer(deadline)
        self._num_unfinished = len(plans)
        self.sequences: list[RunningSequence] = []
        try:
            for choice, plan in enumerate(plans):
                text = SequenceText(
                    services.text.detokenizer,
                    plan.request.stop,
                    keep_stop=keep_stop,
                    choice=choice,
                    min_tokens=plan.request.min_tokens,
                )
                self.sequences.append(self._start(plan, choice, text))
        except BaseException:
            self.__exit__(None, None, None)
            raise

    @property
    def is_finished(self) -> bool:
        return self._num_unfinished == 0

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts; one that several sequences share is counted once."""
        return sum(sequence.plan.request.num_prompt for sequence in self._firsts())

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that the engine did not compute, as the first sequence of each met them."""
        return sum(sequence.open.num_cached_tokens for sequence in self._firsts())

    @property
    def num_generated_tokens(self) -> int:
        """Of all sequences, up to now."""
        return sum(sequence.text.num_tokens for sequence in self.sequences)

    def _firsts(self) -> Iterable[RunningSequence]:
        """The first sequence of every prompt."""
        return {id(s.plan.request): s for s in reversed(self.sequences)}.values()

    async def next_events(self) -> list[TokenEvent]:
        """What arrived since the last call, in order; waits for the next step if nothing did.

        Raises:
            TgiError: a sequence can give no more tokens.
            DeadlineError: there was no time for a single one.
        """
        rows = self._mailbox.take_now() if self._is_late else await self._mailbox.take()
        events = self._push(rows)
        if self._is_late and not self.is_finished:
            events += self._end_early()
        return events

    def _push(self, rows: Iterable[Row]) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        for row in rows:
            sequence = self.sequences[row.choice]
            if sequence.finished_s is not None:
                continue  # decoded past a stop string
            if row.token_id == NO_TOKEN:
                sequence.text.end_empty()
                self._finish(sequence, row)
                continue
            event = sequence.text.push(row)
            if event.finish is not None:
                self._finish(sequence, row)
            events.append(event)
        return events

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._abort_all()

    def _on_full(self) -> None:
        """The client reads so slowly that memory would fill with what it did not take."""
        self._services.metrics.count_slow_reader()
        self._mailbox.fail(SlowReaderError(_MAX_UNSENT_TOKENS))
        self._abort_all()

    def _set_timer(self, deadline: Deadline) -> None:
        if not deadline.left_s:
            raise self._deadline_error(deadline)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(deadline.left_s, self._on_deadline)

    def _on_deadline(self) -> None:
        """Leave the engine now, and wake the task, which may be busy with its client."""
        self._is_late = True
        self._abort_all()
        self._mailbox.poke()

    def _end_early(self) -> list[TokenEvent]:
        """The ends of all that is not finished, where there is something to show."""
        assert self._deadline is not None
        has_scores = all(one.scores is None or one.scores.is_complete for one in self.sequences)
        if not has_scores or not any(map(_has_begun, self.sequences)):
            raise self._deadline_error(self._deadline)
        self._services.metrics.count_partial()
        ready = self._engine.ready
        end_id = next(iter(ready.eog_ids), 0) if ready is not None else 0
        unfinished = [one for one in self.sequences if one.finished_s is None]
        for sequence in unfinished:
            sequence.finished_s = time.perf_counter()
        self._num_unfinished = 0
        return [sequence.text.end_early(end_id) for sequence in unfinished]

    def _deadline_error(self, deadline: Deadline) -> DeadlineError:
        return DeadlineError(deadline.timeout_s, self._services.permits.retry_after_s(1))

    def _start(self, plan: Planned, choice: int, text: SequenceText) -> RunningSequence:
        """Submit a sequence. Of those with one prompt the first has it scored for all."""
        first = next((one for one in self.sequences if one.plan.request is plan.request), None)
        opened = self._submit(plan, choice, plan.request.prompt_logprobs and first is None)
        scores = opened.scores if first is None else first.scores
        return RunningSequence(plan, opened, text, scores)

    def _submit(self, plan: Planned, choice: int, prompt_logprobs: bool) -> OpenSequence:
        request = plan.request
        is_last = choice + 1 == self._num_unfinished
        return self._engine.submit(
            self._mailbox,
            request.prompt_ids,
            request.max_new_tokens,
            plan.params(),
            choice=choice,
            ignore_eog=request.ignore_eog,
            scope=self._services.cache_scope,
            prompt_logprobs=prompt_logprobs,
            more_follow=not is_last or self._services.text.pool.num_encoding > 0,
            takes_prefix=request.takes_prefix,
        )

    def _finish(self, sequence: RunningSequence, row: Row) -> None:
        sequence.finished_s = time.perf_counter()
        self._num_unfinished -= 1
        if not row.finish:
            self._engine.abort([sequence.open])

    def _abort_all(self) -> None:
        self._engine.abort(sequence.open for sequence in self.sequences)
