"""The engine's turn: drain the inbox, plan, step, commit, send one StepOut.

Owns the order of things and when to wait; decides nothing about sequences (scheduler.py) and
nothing about bytes (transport.py). Called by process.py, in the one thread that drives the runner.
"""

from __future__ import annotations

import logging
import time

from tgi_llamacpp.engine.curve_upkeep import CurveUpkeep
from tgi_llamacpp.engine.planner import Batch
from tgi_llamacpp.engine.runner import Runner, StepStatus
from tgi_llamacpp.engine.scheduler import Scheduler
from tgi_llamacpp.engine.sequence import Sequence
from tgi_llamacpp.engine.stats import Summary
from tgi_llamacpp.engine.step_times import StepTimes
from tgi_llamacpp.engine.transport import Channel
from tgi_llamacpp.messages import Abort, FrameError, FromRouter, SequenceFailed, Stats, Submit
from tgi_llamacpp.step_page import StepPage

STATS_INTERVAL_S = 0.25
PREPARE_AFTER_S = 0.02  # without work: who asks again at once is not kept waiting by it
MAX_GATHER_S = 0.05  # that a sequence waits for those that come with it,
MAX_PAUSE_S = 0.01  # for the next of them where the router knows of one,
MAX_DOUBT_S = 0.001  # and else, if that is no more than
DOUBT_SHARE = 0.02  # of the time that its prompt takes
_ID_BYTES = 4

log = logging.getLogger(__name__)


class EngineLoop:
    """Runs until the router is gone (RouterGoneError) or something is beyond repair."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        channel: Channel,
        epoch: int,
        page: StepPage | None = None,
        upkeep: CurveUpkeep | None = None,
        *,
        is_checked: bool = False,  # the scheduler, after every turn and not only when work ends
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._channel = channel
        self._epoch = epoch
        self._is_checked = is_checked
        self._page = page or StepPage()
        scheduler.on_start = lambda sequence: self._page.begin((sequence.seq_id, 0), 0)
        self._summary = Summary(scheduler.counters)
        self._times = StepTimes()
        self._stats_at_s = 0.0
        self._upkeep = upkeep
        self._is_idle = True
        self._prepare_at_s = self._upkeep_at_s()  # when to save ahead or measure; None: never

    def run(self) -> None:
        """Raises RouterGoneError, FrameError, RunnerError."""
        try:
            while True:
                self._receive()
                self._turn()
                self._send_failures()  # now: the next receive may wait for long
                self._report()
                self._prepare_one()
        finally:
            self._summary.tell(self._scheduler.num_running, self._scheduler.num_waiting)

    def _receive(self) -> None:
        # A router that reads nothing gets nothing more to read: no step, and no inbox either,
        # since its messages could be answered by failures.
        while self._channel.is_full:
            self._channel.drain(None)
        messages = self._channel.receive(self._patience_s())
        self._dispatch(messages)
        if not self._scheduler.num_running:
            self._gather(messages)
        self._send_failures()

    def _patience_s(self) -> float | None:
        """How long to wait for a message; None: for ever."""
        if self._can_step():
            return 0.0
        summary_s = self._summary.due_in_s()
        if self._prepare_at_s is None or not self._is_idle:
            return summary_s
        rest_s = max(0.0, self._prepare_at_s - time.monotonic())
        return rest_s if summary_s is None else min(rest_s, summary_s)

    def _prepare_one(self) -> None:
        """Save one parked sequence, or measure a pass, when it is time; then look for messages."""
        if self._prepare_at_s is None or not self._is_idle or time.monotonic() < self._prepare_at_s:
            return
        if self._scheduler.prepare_one() or (self._upkeep and self._upkeep.advance()):
            return
        self._prepare_at_s = self._upkeep_at_s()
        self._send_stats()

    def _upkeep_at_s(self) -> float | None:
        due_in_s = self._upkeep.due_in_s() if self._upkeep else None
        return None if due_in_s is None else time.monotonic() + max(due_in_s, PREPARE_AFTER_S)

    def _gather(self, messages: list[FromRouter]) -> None:
        """At rest: await those who come together, else all but the first wait for a step of it."""
        deadline_s = time.perf_counter() + MAX_GATHER_S
        while messages and isinstance(last := messages[-1], Submit):
            left_s = min(deadline_s - time.perf_counter(), self._pause_s(last))
            if left_s <= 0:
                return
            messages = self._channel.receive(left_s)
            self._dispatch(messages)

    def _pause_s(self, submit: Submit) -> float:
        """How long to wait for who may follow a sequence."""
        if submit.more_follow:
            return MAX_PAUSE_S
        num_tokens = len(submit.prompt_ids) // _ID_BYTES
        return min(MAX_DOUBT_S, DOUBT_SHARE * self._scheduler.costs.prompt_s([(0, num_tokens)]))

    def _send_failures(self) -> None:
        for seq_id, reason in self._scheduler.take_failures():
            self._channel.send(SequenceFailed(self._epoch, seq_id, reason))

    def _send_prompt_logprobs(self) -> None:
        for message in self._scheduler.take_prompt_logprobs():
            self._channel.send(message)

    def _can_step(self) -> bool:
        may_admit = not self._channel.is_congested
        return self._scheduler.num_running > 0 or (self._scheduler.num_waiting > 0 and may_admit)

    def _dispatch(self, messages: list[FromRouter]) -> None:
        for message in messages:
            if isinstance(message, Submit):
                self._page.begin((message.seq_id, 0), 0)
                self._scheduler.submit(message)
                self._page.end(self._scheduler.counters.num_steps)
            elif isinstance(message, Abort):
                self._scheduler.abort(message.seq_ids)
            else:
                raise FrameError("a second Start arrived: an engine loads one model")

    def _turn(self) -> None:
        batch = self._scheduler.schedule(may_admit=not self._channel.is_congested)
        if batch is None:
            self._page.end(self._scheduler.counters.num_steps)
            self._send_prompt_logprobs()
        step_s = self._step(batch) if batch is not None else 0.0
        if self._scheduler.aside.sequence is not None:
            self._compute_aside(self._scheduler.aside.sequence, step_s)

    def _compute_aside(self, sequence: Sequence, step_s: float) -> None:
        self._is_idle = False
        self._page.begin((sequence.seq_id, 0), sequence.num_to_prefill)
        self._scheduler.aside.advance(step_s)
        self._page.end(self._scheduler.counters.num_steps)

    def _step(self, batch: Batch) -> float:
        """Compute a batch and hand out what it gives; seconds until that was done."""
        self._is_idle = False
        self._page.begin(_whereabouts(batch), len(batch.plan.slots))
        started_s = time.perf_counter()
        result = self._runner.step(batch.plan)
        stepped_s = time.perf_counter()
        self._scheduler.counters.step_s += stepped_s - started_s
        if result.status is StepStatus.OK:
            self._scheduler.learn(batch, stepped_s - started_s)
        out = self._scheduler.commit(batch, result)
        self._send_prompt_logprobs()
        if out is not None:
            self._channel.send(out)
        # After the send: a sequence that is blamed for a crash must not have got its token.
        self._page.end(self._scheduler.counters.num_steps)
        delivery_s = time.perf_counter() - stepped_s
        self._times.add(batch, result, stepped_s - started_s, delivery_s)
        if log.isEnabledFor(logging.DEBUG):
            _log_step(batch, result.status.name)
        return stepped_s - started_s + delivery_s

    def _report(self) -> None:
        """Stats and log lines when they are due, and a check whenever work has run out."""
        scheduler = self._scheduler
        if self._is_checked:
            scheduler.check_integrity()
        has_work = scheduler.num_running > 0 or scheduler.num_waiting > 0
        is_due = time.monotonic() >= self._stats_at_s + STATS_INTERVAL_S
        if not has_work and not self._is_idle:
            self._is_idle = True
            self._prepare_at_s = time.monotonic() + PREPARE_AFTER_S
            scheduler.check_integrity()
            self._send_stats()
        elif has_work and is_due and not self._channel.is_congested:
            self._send_stats()
        if self._summary.due_in_s() == 0:
            self._summary.tell(scheduler.num_running, scheduler.num_waiting)

    def _send_stats(self) -> None:
        scheduler, counters = self._scheduler, self._scheduler.counters
        self._stats_at_s = time.monotonic()
        self._channel.send(
            Stats(
                epoch=self._epoch,
                num_steps=counters.num_steps,
                num_decode_tokens=counters.num_decode_tokens,
                num_prefill_tokens=counters.num_prefill_tokens,
                num_waiting=scheduler.num_waiting,
                num_running=scheduler.num_running,
                num_reserved_tokens=scheduler.num_reserved_tokens,
                num_shared_steps=counters.num_shared_steps,
                num_reused_graphs=self._runner.num_reused_graphs(),
                step_s=counters.step_s,
                prefill=self._times.prefill.stats(),
                decode=self._times.decode.stats(),
                admissions=scheduler.admissions.stats(),
                prefix=counters.prefix.stats(scheduler.num_parked_tokens),
                num_mixed_steps=counters.num_mixed_steps,
                num_mixed_tokens=counters.num_mixed_tokens,
                mixed_error_s=counters.mixed_error_s,
                num_late_steps=counters.num_late_steps,
                num_tokens_ahead=scheduler.num_tokens_ahead,
                host=scheduler.host_stats(),
                num_preempted=counters.num_preempted,
                num_aside=counters.num_aside,
                aside_s=counters.aside_s,
                num_curves=self._upkeep.num_measured if self._upkeep else 0,
            )
        )


def _whereabouts(batch: Batch) -> list[int]:
    """Sequence id and first position of each, as the page takes them."""
    words: list[int] = []
    for sequence, _ in batch.segments:
        words += (sequence.seq_id, sequence.num_computed)
    return words


def _log_step(batch: Batch, status: str) -> None:
    log.debug(
        "step: %d rows, %d decode, %d prefill, %d dummy, of %d sequences: %s",
        len(batch.plan.slots),
        batch.num_decode,
        batch.num_prefill,
        len(batch.dummy_slots),
        len(batch.segments),
        status.lower(),
    )
