"""A Scheduler over a FakeRunner, turn by turn: checked after every turn, and its texts kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import numpy as np

from tests.engine.runner_contract import (
    NOTHING,
    generate,
    ids_of,
    plan_of,
    rows_of,
    scored_plan_of,
)
from tgi_llamacpp.engine.cost_model import StepShape, WidthCurve
from tgi_llamacpp.engine.fake_runner import FakeRunner
from tgi_llamacpp.engine.limits import EngineLimits
from tgi_llamacpp.engine.planner import Batch
from tgi_llamacpp.engine.runner import Int32s, Plan, RunnerLimits, StepResult, StepStatus
from tgi_llamacpp.engine.scheduler import Scheduler
from tgi_llamacpp.messages import Finish, SamplingParams, StepOut, Submit

NUM_VOCAB = 256
EOG = NUM_VOCAB - 1

SPLIT = RunnerLimits(
    num_slots=4,
    max_slot_tokens=64,
    max_pool_tokens=256,
    max_step_tokens=16,
    max_step_outputs=16,
    num_vocab=NUM_VOCAB,
    is_unified=False,
    can_trim=True,
)
UNIFIED = replace(SPLIT, is_unified=True)
WIDE = replace(SPLIT, max_slot_tokens=4096, max_pool_tokens=4 * 4096, max_step_tokens=512)


def engine_limits(runner: RunnerLimits, **changes: float | frozenset[int] | None) -> EngineLimits:
    limits = EngineLimits(
        max_running=min(runner.num_slots, runner.max_step_tokens),
        max_sequence_tokens=runner.max_slot_tokens,
        max_budget_tokens=runner.max_pool_tokens,
        max_step_tokens=runner.max_step_tokens,
        max_top_tokens=runner.max_top_tokens,
        num_vocab=runner.num_vocab,
        eog_ids=frozenset({EOG}),
        min_prefix_tokens=4,
    )
    return replace(limits, **changes)  # type: ignore[arg-type]


def prompt_of(seed: int, length: int) -> Int32s:
    return np.random.default_rng(seed + 1000).integers(0, EOG, length).astype(np.int32)


def submit_of(
    seq_id: int,
    prompt: Int32s | int,
    max_new_tokens: int,
    *,
    generated: Seq[int] = (),
    params: SamplingParams | None = None,
    ignore_eog: bool = False,
    scope: int = 0,
    prompt_logprobs: bool = False,
    num_scored: int = 0,
    takes_prefix: bool = True,
) -> Submit:
    """A Submit; an int as prompt is a length."""
    ids = prompt_of(seq_id, prompt) if isinstance(prompt, int) else prompt
    return Submit(
        seq_id=seq_id,
        prompt_ids=ids.tobytes(),
        generated_ids=ids_of(*generated).tobytes(),
        max_new_tokens=max_new_tokens,
        params=params or SamplingParams(),
        ignore_eog=ignore_eog,
        scope=scope,
        prompt_logprobs=prompt_logprobs,
        num_scored=num_scored,
        takes_prefix=takes_prefix,
    )


def text_alone(submit: Submit, *, eog_chance: float = 0.0) -> list[int]:
    """The output of this sequence with a runner to itself and no scheduler at all."""
    prompt = np.frombuffer(submit.prompt_ids, np.int32)
    num_tokens = len(prompt) + submit.max_new_tokens
    limits = replace(
        SPLIT,
        num_slots=1,
        max_slot_tokens=num_tokens,
        max_step_tokens=num_tokens,
        max_pool_tokens=num_tokens,
    )
    runner = FakeRunner(limits, eog_chance=eog_chance)
    runner.open(0, submit.params, prompt, NOTHING)
    if not submit.max_new_tokens:
        return []
    ids: list[int] = runner.step(plan_of(rows_of(0, 0, prompt.tolist()))).token_ids.tolist()
    while len(ids) < submit.max_new_tokens and (ids[-1] != EOG or submit.ignore_eog):
        ids += generate(runner, 0, ids[-1], 1)
    return ids


def scores_alone(submit: Submit) -> tuple[list[float], list[int]]:
    """The log-probabilities of its prompt that it asks for, and their alternatives, alone."""
    prompt = np.frombuffer(submit.prompt_ids, np.int32)
    runner = FakeRunner(replace(SPLIT, num_slots=1, max_slot_tokens=len(prompt)))
    runner.open(0, submit.params, prompt, NOTHING)
    logprobs: list[float] = []
    top_ids: list[int] = []
    for row in range(len(prompt) - 1):
        plan = scored_plan_of([(0, row, int(prompt[row]), 0)], [int(prompt[row + 1])])
        scores = runner.step(plan).scores
        assert scores is not None
        if row >= submit.num_scored:
            logprobs += scores.logprobs.tolist()
            top_ids += scores.top_ids[0].tolist()
    return logprobs, top_ids


class UnrulyRunner(FakeRunner):
    """Refuses or cuts short the steps of these numbers, as a full or interrupted backend does."""

    refuses: frozenset[int] = frozenset()  # NO_KV_SPACE, where more than one sequence is open
    cuts: dict[int, int] = {}  # noqa: RUF012  # step → rows that are done before it is ABORTED
    num_calls = 0

    def step(self, plan: Plan) -> StepResult:
        call, self.num_calls = self.num_calls, self.num_calls + 1
        num_open = sum(slot.sampler is not None for slot in self._slots)
        if call in self.refuses and num_open > 1:
            return self._result(StepStatus.NO_KV_SPACE, [])
        if call not in self.cuts:
            return super().step(plan)
        rows = min(self.cuts[call], len(plan.slots))
        if rows:
            done = Plan(
                plan.slots[:rows],
                plan.positions[:rows],
                plan.token_ids[:rows],
                plan.samples[:rows] * 0,
            )
            super().step(replace(done, samples=done.samples.astype(np.int8)))
        return self._result(StepStatus.ABORTED, [])


class Simulation:
    """`turn` is one turn of the engine's loop; what it gave is in the attributes."""

    def __init__(
        self,
        runner: FakeRunner,
        limits: EngineLimits | None = None,
        *,
        curve: WidthCurve | None = None,
        time_of: Callable[[StepShape], float] | None = None,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """time_of: the seconds that steps are said to have taken; without it nothing is said.

        now_s: what saves and loads are timed by.
        """
        self.runner = runner
        self.time_of = time_of
        self.scheduler = Scheduler(
            runner, limits or engine_limits(runner.limits), curve=curve, now_s=now_s
        )
        self.texts: dict[int, list[int]] = {}
        self.scores: dict[int, list[float]] = {}
        self.num_scored_before: dict[int, int] = {}
        self.score_top_ids: dict[int, list[int]] = {}
        self.finishes: dict[int, Finish] = {}
        self.failures: dict[int, str] = {}
        self.finished_at: dict[int, int] = {}
        self.admitted: list[int] = []
        self.cached: dict[int, int] = {}
        self.batches: list[Batch] = []
        self.num_turns = 0

    def submit(self, *submits: Submit) -> None:
        for submit in submits:
            self.scheduler.submit(submit)
            self.texts.setdefault(submit.seq_id, [])
            self.scores.setdefault(submit.seq_id, [])
            self.num_scored_before.setdefault(submit.seq_id, submit.num_scored)
            self.score_top_ids.setdefault(submit.seq_id, [])
        self._collect_failures()

    def turn(self, *, may_admit: bool = True) -> StepOut | None:
        self.num_turns += 1
        batch = self.scheduler.schedule(may_admit=may_admit)
        self.scheduler.check_integrity()
        if batch is None:
            self._collect_scores()
            self.scheduler.aside.advance(0.0)
            return None
        self.batches.append(batch)
        result = self.runner.step(batch.plan)
        if self.time_of and result.status is StepStatus.OK:
            self.scheduler.learn(batch, self.time_of(batch.shape))
        out = self.scheduler.commit(batch, result)
        self.scheduler.aside.advance(0.02)
        self.scheduler.check_integrity()
        self._collect_failures()
        self._collect_scores()
        if out is not None:
            self._collect(out)
        return out

    def run(self, max_turns: int = 10_000) -> None:
        while self.has_work:
            self.turn()
            assert self.num_turns < max_turns, "it does not end"

    @property
    def has_work(self) -> bool:
        return self.scheduler.num_running + self.scheduler.num_waiting > 0

    def _collect(self, out: StepOut) -> None:
        self.admitted += np.frombuffer(out.admitted, np.int64).tolist()
        cached_ids = np.frombuffer(out.cached_seq_ids, np.int64).tolist()
        cached_counts = np.frombuffer(out.cached_counts, np.int32).tolist()
        for seq_id, num_tokens in zip(cached_ids, cached_counts, strict=True):
            assert seq_id not in self.cached, "a prefix is told twice"
            assert not self.texts[seq_id], "a prefix is told after the first token"
            self.cached[seq_id] = num_tokens
        seq_ids = np.frombuffer(out.seq_ids, np.int64).tolist()
        token_ids = np.frombuffer(out.token_ids, np.int32).tolist()
        assert len(seq_ids) == len(token_ids) == len(out.finishes) == len(out.logprobs) // 4
        for seq_id, token_id, finish in zip(seq_ids, token_ids, out.finishes, strict=True):
            assert seq_id not in self.finishes, "a token after the finish"
            self.texts[seq_id].append(token_id)
            if finish:
                self.finishes[seq_id] = Finish(finish)
                self.finished_at[seq_id] = self.num_turns

    def _collect_scores(self) -> None:
        for message in self.scheduler.take_prompt_logprobs():
            assert message.seq_id not in self.finishes, "a score after the finish"
            assert not self.texts[message.seq_id], "a score after a token"
            scores = self.scores[message.seq_id]
            start = 1 + self.num_scored_before[message.seq_id] + len(scores)
            assert message.start == start, "scores twice, or not in order"
            scores += np.frombuffer(message.logprobs, np.float32).tolist()
            self.score_top_ids[message.seq_id] += np.frombuffer(message.top_ids, np.int32).tolist()
            assert len(message.top_ids) == len(message.top_logprobs)
            if message.finish:
                self.finishes[message.seq_id] = Finish(message.finish)
                self.finished_at[message.seq_id] = self.num_turns

    def _collect_failures(self) -> None:
        for seq_id, reason in self.scheduler.take_failures():
            assert seq_id not in self.failures, "two failures of one sequence"
            self.failures[seq_id] = reason
