"""What a sequence goes through: submit, start, commit of its steps, finish, preemption, abort.

Knows ids and counts, no text, no socket and no model. One turn of the loop is `schedule`, the
runner's step, `commit`. Who may run is admission.py's affair, where they sit placement.py's.
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections.abc import Callable

import numpy as np

from tgi_llamacpp.engine.admission import Admission
from tgi_llamacpp.engine.aside import Aside
from tgi_llamacpp.engine.cost_model import CostModel, WidthCurve
from tgi_llamacpp.engine.host_cache import HostCache
from tgi_llamacpp.engine.host_tier import HostTier, ready_buffers
from tgi_llamacpp.engine.limits import EngineLimits, check_ids, check_submit
from tgi_llamacpp.engine.placement import Placement
from tgi_llamacpp.engine.planner import Batch, plan_step, spare_s
from tgi_llamacpp.engine.prompt_scores import PromptScores
from tgi_llamacpp.engine.repetition import Repetition
from tgi_llamacpp.engine.runner import NO_TOKEN, Runner, StepResult, StepStatus
from tgi_llamacpp.engine.sequence import Sequence
from tgi_llamacpp.engine.stats import Counters
from tgi_llamacpp.engine.step_times import Admissions
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import Finish, HostStats, PromptLogprobs, StepOut, Submit

MIN_TARGET_S = 1e-6  # what is left of a target that was used up; 0 would be none

log = logging.getLogger(__name__)


def _nobody_asks(sequence: Sequence) -> None:
    pass


class Scheduler:
    """Owns every sequence between its Submit and its end."""

    def __init__(
        self,
        runner: Runner,
        limits: EngineLimits,
        epoch: int = 0,
        curve: WidthCurve | None = None,  # as measured; None to learn from the steps alone
        now_s: Callable[[], float] = time.perf_counter,  # that saves and loads are timed by
    ) -> None:
        # Engine
        self.limits = limits
        self.counters = Counters()
        self.admissions = Admissions()
        self.costs = CostModel(curve or WidthCurve({}))
        self._runner = runner
        self._epoch = epoch
        # Sequences
        self._host_tier = self._make_host_tier(now_s)
        self._placement = Placement(
            runner, limits.min_prefix_tokens, self.counters, self._host_tier, limits.eog_ids
        )
        self._slots = self._placement.table
        self.aside = Aside(runner, self._slots, self.counters, limits)
        self._admission = Admission(limits)
        self._repetition = Repetition(self._slots, is_unified=runner.limits.is_unified)
        self._running = self._admission.running
        self._num_arrivals = 0
        self._transfers_s = 0.0  # that saves and loads took before the step at hand
        self.on_start: Callable[[Sequence], None] = _nobody_asks  # before one gets its slot
        # To be told
        self._admitted: list[int] = []
        self._failures: list[tuple[int, str]] = []
        self._scores = PromptScores(epoch)

    def _make_host_tier(self, now_s: Callable[[], float]) -> HostTier | None:
        limits, runner = self.limits, self._runner
        if limits.min_prefix_tokens is None or not limits.max_host_cache_bytes:
            return None
        can_cut = runner.limits.can_trim and runner.limits.can_cut_states
        cache = HostCache(
            limits.max_host_cache_bytes,
            limits.min_prefix_tokens,
            can_cut=can_cut,
            buffers=ready_buffers(runner.limits, limits.max_host_cache_bytes),
            is_resident=lambda scope, ids: self._placement.has_cells(scope, ids),
        )
        return HostTier(runner, cache, self.costs, self._spare_s, now_s, limits.target_itl_s)

    def _spare_s(self) -> float:
        """Seconds that this turn has beside running streams."""
        width = sum(not one.num_to_prefill for one in self._running.values())
        if not width or not self.limits.target_itl_s:
            return math.inf
        return spare_s(self.costs, self.limits.target_itl_s, width)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return self._admission.num_waiting

    @property
    def num_reserved_tokens(self) -> int:
        """The most that the running sequences can come to."""
        return self._admission.num_reserved_tokens

    @property
    def num_tokens_ahead(self) -> int:
        """Tokens to compute, at most, until all that run or wait have ended."""
        return self._admission.num_tokens_ahead

    @property
    def num_parked_tokens(self) -> int:
        """Cells of finished sequences; they count as free."""
        return self._placement.num_parked_tokens

    def prepare_one(self) -> bool:
        """While nothing runs or waits: save one parked sequence, or ready a buffer for one.

        False if nothing is left to do.
        """
        return self._placement.prepare_one()

    def host_stats(self) -> HostStats:
        """What the host-memory tier holds and has done."""
        return self._host_tier.stats() if self._host_tier else HostStats()

    def submit(self, submit: Submit) -> None:
        """Queue a sequence; one that cannot be run ends in take_failures()."""
        try:
            sequence = self._accept(submit)
        except ValueError as refusal:
            self._failures.append((submit.seq_id, str(refusal)))
            return
        self._admission.enqueue(sequence)

    def _accept(self, submit: Submit) -> Sequence:
        """Raises ValueError with one sentence for the client."""
        if submit.seq_id in self._admission:
            raise ValueError(f"sequence {submit.seq_id} is open already: ids are never used twice")
        if reason := check_submit(submit, self.limits):
            raise ValueError(reason)
        ids = np.frombuffer(submit.prompt_ids + submit.generated_ids, "<i4").astype(np.int32)
        if reason := check_ids(int(ids.min()), int(ids.max()), self.limits.num_vocab):
            raise ValueError(reason)
        num_prompt = len(submit.prompt_ids) // ids.itemsize
        self._num_arrivals += 1
        return Sequence(
            seq_id=submit.seq_id,
            prompt_ids=ids[:num_prompt],
            generated_ids=array("i", ids[num_prompt:].tolist()),
            max_new_tokens=submit.max_new_tokens,
            params=submit.params,
            ignore_eog=submit.ignore_eog,
            num_arrival=self._num_arrivals,
            submitted_s=time.monotonic(),
            scope=submit.scope,
            wants_prompt_logprobs=submit.prompt_logprobs,
            num_scored=submit.num_scored,
            takes_prefix=submit.takes_prefix,
        )

    def abort(self, seq_ids: list[int]) -> None:
        """Forget sequences and free what they hold; unknown ids are no error."""
        for seq_id in seq_ids:
            if not self._admission.forget_waiting(seq_id) and seq_id in self._running:
                self._leave(self._running[seq_id], keep=True)

    def take_failures(self) -> list[tuple[int, str]]:
        """Sequences that ended without a finish since the last call: (seq_id, sentence)."""
        failures, self._failures = self._failures, []
        return failures

    def take_prompt_logprobs(self) -> list[PromptLogprobs]:
        """What the last turn gave of them. To be told before the turn's StepOut."""
        return self._scores.take()

    def schedule(self, *, may_admit: bool = True) -> Batch | None:
        """Admit what fits, keep the slots dense, and plan the next step; None if nothing runs."""
        while surplus := self._admission.surplus():
            self._preempt(surplus, keep=True)
        if may_admit and self.num_waiting:
            num_running, started_s = len(self._running), time.perf_counter()
            self._admit()
            num_admitted = len(self._running) - num_running
            self.admissions.add(num_admitted, num_running, time.perf_counter() - started_s)
        batch = self._repetition.take()
        if batch is None:
            self._placement.arrange()
        self._transfers_s = self._host_tier.take_spent_s() if self._host_tier else 0.0
        if batch is None:
            batch = self._plan()
            self._repetition.remember(batch)
        return batch

    def _plan(self) -> Batch | None:
        target_s = self.limits.target_itl_s
        spent_s = self._transfers_s + self.aside.spent_s  # of the gap that the step ends
        self.aside.consider()
        return plan_step(
            self._slots,
            self.limits.max_step_tokens,
            self._runner.limits.max_step_outputs,
            self.costs,
            max(target_s - spent_s, MIN_TARGET_S) if target_s else 0.0,
            may_prefill=self.aside.sequence is None,
        )

    def learn(self, batch: Batch, step_s: float) -> None:
        """Take in how long a step took that was done."""
        error_s = step_s - self.costs.predict_s(batch.shape) if batch.shape.chunks else 0.0
        gap_s = step_s + self._transfers_s + self.aside.take_spent_s()
        self.counters.add_time(batch, gap_s, error_s, self.limits.target_itl_s)
        if batch.plan.targets is None:  # the costs know no prompt tokens that are scored
            self.costs.learn(batch.shape, step_s)

    def _admit(self) -> None:
        while self._slots.num_free and (head := self._admission.next()):
            if head.is_over:
                self._scores.end(head)
            else:
                self._start(head)

    def _start(self, sequence: Sequence) -> None:
        self._admission.start(sequence)
        if not sequence.num_preempted:
            sequence.admitted_s = time.monotonic()
            self._admitted.append(sequence.seq_id)
        self.on_start(sequence)
        try:
            self._placement.place(sequence)
        except RunnerError as refusal:  # of this sequence: nothing was decoded
            self._fail(sequence, str(refusal))

    def _leave(self, sequence: Sequence, *, keep: bool) -> None:
        """End a running sequence. keep: its cells may serve others, until they are needed."""
        self._admission.end(sequence)
        self.aside.leave(sequence)
        self._placement.release(sequence, keep=keep)

    def commit(self, batch: Batch, result: StepResult) -> StepOut | None:
        """Take what a step gave. None where it has to be planned again."""
        self._placement.take_back(batch.dummy_slots)
        if result.status is StepStatus.NO_KV_SPACE:
            self._make_room(len(batch.plan.slots))
            return None
        if result.status is StepStatus.ABORTED:
            self._resync(batch)
            return None
        scored_out = self._scores.add(batch, result.scores) if result.scores else []
        for sequence, num_rows in batch.segments:
            sequence.num_computed += num_rows
        for sequence in scored_out:
            self._finish(sequence, Finish.LENGTH)
        self.counters.add_step(batch)
        token_ids = result.token_ids.tolist()
        if NO_TOKEN in token_ids:
            result = self._fail_unsampled(result)
            token_ids = result.token_ids.tolist()
        out = self._take_tokens(result, token_ids)
        self._repetition.advance(batch, token_ids)
        return out

    def _fail_unsampled(self, result: StepResult) -> StepResult:
        """End the sequences whose rows had nothing to choose from; the rows of the others."""
        is_good = result.token_ids != NO_TOKEN
        for slot in result.slots[~is_good].tolist():
            sequence = self._slots[slot]
            assert sequence is not None, f"slot {slot} was sampled and is empty"
            reason = "its weights or its file may be broken"
            if sequence.params.bias_ids:
                reason = (
                    f"the request's logit_bias bans every token that it could give, or {reason}"
                )
            self._fail(
                sequence,
                f"the model gave no finite logit after {sequence.num_tokens} tokens: {reason}",
            )
        return StepResult(
            result.status,
            result.slots[is_good],
            result.token_ids[is_good],
            result.logprobs[is_good],
            result.top_ids[is_good],
            result.top_logprobs[is_good],
        )

    def _take_tokens(self, result: StepResult, token_ids: list[int]) -> StepOut:
        eog_ids = self.limits.eog_ids
        sequences: list[Sequence] = []
        finishes = bytearray()
        for slot, token_id in zip(result.slots.tolist(), token_ids, strict=True):
            sequence = self._slots[slot]
            assert sequence is not None, f"slot {slot} was sampled and is empty"
            sequences.append(sequence)
            finishes.append(sequence.append(token_id, eog_ids))
            if len(sequence.generated_ids) == sequence.params.min_new_tokens and not finishes[-1]:
                self._placement.reopen(sequence)  # from here on it may end
        out = self._step_out(result, sequences, bytes(finishes))
        if any(finishes):
            for sequence, finish in zip(sequences, finishes, strict=True):
                if finish:
                    self._finish(sequence, Finish(finish))
        return out

    def _step_out(self, result: StepResult, sequences: list[Sequence], finishes: bytes) -> StepOut:
        admitted, self._admitted = self._admitted, []
        found = self._placement.take_found()
        counts = [sequence.params.num_top_tokens for sequence in sequences]
        top_counts = top_ids = top_logprobs = b""
        if any(counts):
            columns = np.arange(result.top_ids.shape[1])
            is_wanted = columns < np.array(counts)[:, None]
            top_counts = bytes(counts)
            top_ids = result.top_ids[is_wanted].tobytes()
            top_logprobs = result.top_logprobs[is_wanted].tobytes()
        return StepOut(
            epoch=self._epoch,
            seq_ids=array("q", [one.seq_id for one in sequences]).tobytes(),
            token_ids=result.token_ids.tobytes(),
            logprobs=result.logprobs.tobytes(),
            finishes=finishes,
            admitted=np.array(admitted, np.int64).tobytes() if admitted else b"",
            top_counts=top_counts,
            top_ids=top_ids,
            top_logprobs=top_logprobs,
            cached_seq_ids=np.array([one for one, _ in found], np.int64).tobytes()
            if found
            else b"",
            cached_counts=np.array([num for _, num in found], np.int32).tobytes() if found else b"",
        )

    def _finish(self, sequence: Sequence, finish: Finish) -> None:
        self._leave(sequence, keep=True)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "sequence %d ended (%s): %d prompt and %d output tokens, waited %.3f s, ran %.3f s",
                sequence.seq_id,
                finish.name.lower(),
                len(sequence.prompt_ids),
                len(sequence.generated_ids),
                sequence.admitted_s - sequence.submitted_s,
                time.monotonic() - sequence.admitted_s,
            )

    def _make_room(self, num_cells: int) -> None:
        """The KV cache is full: what is parked goes, then the youngest, or a lone one ends."""
        if self._placement.evict(num_cells):
            return
        victim = self._admission.youngest()
        if len(self._running) > 1:
            self._preempt(victim, keep=False)
            return
        self._fail(
            victim,
            f"the KV cache of {self._runner.limits.max_pool_tokens} cells has no room for this"
            f" sequence of {victim.num_tokens} tokens alone: shorten it, or raise"
            " --max-batch-total-tokens",
        )

    def _fail(self, sequence: Sequence, reason: str) -> None:
        self._leave(sequence, keep=False)
        self._failures.append((sequence.seq_id, reason))

    def _preempt(self, sequence: Sequence, *, keep: bool) -> None:
        """Back into the queue, by age; it resumes with the ids it has, and the cells if kept."""
        self._admission.requeue(sequence)
        self.aside.leave(sequence)
        self._placement.release(sequence, keep=keep)
        sequence.num_preempted += 1
        self.counters.num_preempted += 1

    def _resync(self, batch: Batch) -> None:
        """A step was cut short: believe the cells that are there; sample and score nothing."""
        for sequence, _ in batch.segments:
            assert sequence.slot is not None
            # Logits are gone with the step: what they are wanted of has to be computed again.
            keep = sequence.num_scored if sequence.num_to_score else sequence.num_tokens - 1
            sequence.num_computed = min(self._runner.num_cells(sequence.slot), keep)
            is_past = self._runner.num_cells(sequence.slot) > keep
            if is_past and not self._runner.trim(sequence.slot, keep):
                self._preempt(sequence, keep=False)

    def check_integrity(self) -> None:
        """Raises AssertionError where queue, slots, budget and cells disagree: a bug of ours."""
        self._placement.check_integrity(list(self._running.values()))
        self._admission.check_integrity()
