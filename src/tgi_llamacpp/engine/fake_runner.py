"""A Runner without a model, which is as strict as llama.cpp and whose text shows every mistake.

The next id is a hash of the ids in the slot's cells, in order, and of what the sampler was opened
with, so a sequence gets the ids of running alone if and only if scheduling is right. It raises
RunnerError wherever llama.cpp would return -1 or assert. For tests and benchmarks; as a process,
`python -m tgi_llamacpp.engine.fake_runner --fd N` is an engine for measuring the router.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np

from tgi_llamacpp.config import MIN_STEP_OUTPUTS, EngineConfig
from tgi_llamacpp.engine.fake_slots import FakeSampler, FakeSlot, cells_of, fold, mix, score
from tgi_llamacpp.engine.model import Load, Model, OnProgress
from tgi_llamacpp.engine.process import main
from tgi_llamacpp.engine.runner import (
    NO_TARGET,
    Buffer,
    Float32s,
    Int32s,
    Plan,
    Runner,
    RunnerLimits,
    Scores,
    StepResult,
    StepStatus,
    pooled_slots,
)
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.messages import SamplingParams

_Output = tuple[int, int, float]  # slot, id, log-probability


def _logprobs_of(outputs: list[_Output]) -> Float32s:
    return np.array([row[2] for row in outputs], np.float32)


@dataclass(frozen=True, slots=True)
class FakeModel:
    """The facts that a loaded model has. Its last id ends generation."""

    num_vocab: int = 512
    bos_id: int | None = None
    pieces_hash: str = "fake"
    context_length: int = 1 << 20
    description: str = "fake model"
    device: str = "none"

    @property
    def eog_ids(self) -> frozenset[int]:
        return frozenset({self.num_vocab - 1})

    def close(self) -> None:
        """There is nothing to free."""


class FakeRunner:
    """See the module. `eog_chance` is the probability that a sampled id ends generation.

    `step_s` makes a step take that long; `num_withheld_cells` are missing from a unified pool, so
    that it runs out although the limits say otherwise.
    """

    def __init__(
        self,
        limits: RunnerLimits,
        *,
        eog_chance: float = 0.0,
        step_s: float = 0.0,
        num_withheld_cells: int = 0,
    ) -> None:
        self.limits = limits
        self._eog_chance = eog_chance
        self._step_s = step_s
        self._num_pool_cells = limits.max_pool_tokens - num_withheld_cells
        self._slots = [FakeSlot() for _ in range(limits.num_slots)]
        self._num_placed = 0
        self._read: set[int] = set()  # slots that the next step copies from,
        self._written: set[int] = set()  # and to
        self._aside_ids: list[int] = []
        self._num_aside: int | None = None  # of them computed; None where there are none
        self._last_result: StepResult | None = None

    def open(
        self, slot: int, params: SamplingParams, prompt_ids: Int32s, generated_ids: Int32s
    ) -> None:
        target = self._slot(slot)
        if target.sampler:
            raise RunnerError(f"open: slot {slot} is in use")
        history = fold([*prompt_ids.tolist(), *generated_ids.tolist()], state=1)  # not the cells'
        target.sampler = FakeSampler(params, history)

    def step(self, plan: Plan) -> StepResult:
        if self._last_result is not None:  # its arrays were lent: show who still looks at them
            self._last_result.token_ids.fill(-1)
            self._last_result.slots.fill(-1)
            if self._last_result.scores is not None:
                self._last_result.scores.logprobs.fill(1)
        rows = list(
            zip(
                plan.slots.tolist(),
                plan.positions.tolist(),
                plan.token_ids.tolist(),
                plan.samples.tolist(),
                strict=True,
            )
        )
        self._check(plan, rows)
        targets = self._checked_targets(plan)
        if self._step_s:
            time.sleep(self._step_s)
        self._read.clear()
        self._written.clear()
        if not self._has_room(len(rows)):
            return self._result(StepStatus.NO_KV_SPACE, [])
        sampled, scored = [], []
        for (slot, _, token_id, is_sampled), next_id in zip(rows, targets, strict=True):
            target = self._slots[slot]
            target.cells.append(mix(target.cells[-1], token_id + 1))
            if self.limits.is_unified:
                self._num_placed += 1
                target.places.append(self._num_placed)
            if is_sampled > 0:
                sampled.append((slot, *self._sample(target)))
            elif next_id != NO_TARGET:
                scored.append((slot, next_id, score(target, next_id)))
        return self._result(StepStatus.OK, sampled, None if plan.targets is None else scored)

    def move(self, src: int, dst: int) -> None:
        source, target = self._slot(src), self._slot(dst)
        if target.num_cells or target.sampler:
            raise RunnerError(f"move: slot {dst} is in use")
        if not source.num_cells and not source.sampler:
            raise RunnerError(f"move: slot {src} is empty")
        self._slots[src], self._slots[dst] = target, source
        self._copy_later(src, dst)

    def copy(self, src: int, dst: int, num_tokens: int) -> bool:
        source, target = self._slot(src), self._slot(dst)
        if target.num_cells:
            raise RunnerError(f"copy: slot {dst} has {target.num_cells} cells")
        if src == dst or not 0 < num_tokens <= source.num_cells:
            raise RunnerError(f"copy: slot {src} has {source.num_cells} cells, not {num_tokens}")
        if num_tokens < source.num_cells and not self._can_cut(source, num_tokens):
            return False
        target.cells = source.cells[: num_tokens + 1]
        target.places = source.places[:num_tokens] if self.limits.is_unified else []
        target.num_loaded = source.num_loaded
        self._copy_later(src, dst)
        return True

    def _copy_later(self, src: int, dst: int) -> None:
        if not self.limits.is_unified or not self.limits.can_trim:
            self._read.add(src)
            self._written.add(dst)

    def _can_cut(self, slot: FakeSlot, num_tokens: int) -> bool:
        is_whole = self.limits.can_cut_states or not slot.num_loaded
        return self.limits.can_trim and (
            is_whole or (not self.limits.is_unified and slot.num_loaded <= num_tokens)
        )

    def park(self, slot: int) -> None:
        target = self._slot(slot)
        if target.sampler is None:
            raise RunnerError(f"park: slot {slot} is not open")
        target.sampler = None

    def trim(self, slot: int, num_tokens: int) -> bool:
        target = self._slot(slot)
        if not 0 <= num_tokens <= target.num_cells:
            raise RunnerError(f"trim: slot {slot} has {target.num_cells} cells, not {num_tokens}")
        if num_tokens not in (0, target.num_cells) and not self._can_cut(target, num_tokens):
            return False
        del target.cells[num_tokens + 1 :], target.places[num_tokens:]
        target.num_loaded *= num_tokens > 0
        return True

    def drop(self, slot: int) -> None:
        self._slot(slot)
        self._slots[slot] = FakeSlot()

    def state_bytes(self, slot: int) -> int:
        target = self._slot(slot)
        if not target.num_cells or slot in self._written:
            return 0
        return len(target.state())

    def save(self, slot: int, buffer: Buffer) -> None:
        target = self._slot(slot)
        if not self.state_bytes(slot) or len(buffer) != self.state_bytes(slot):
            raise RunnerError(
                f"save: slot {slot} has {target.num_cells} cells, which do not make"
                f" {len(buffer)} bytes now"
            )
        buffer[:] = target.state()

    def load(self, slot: int, buffer: Buffer, num_tokens: int) -> bool:
        target = self._slot(slot)
        if target.num_cells:
            raise RunnerError(f"load: slot {slot} has {target.num_cells} cells")
        cells = cells_of(bytes(buffer))
        if len(cells) != num_tokens + 1:
            raise RunnerError(f"load: {len(buffer)} bytes are not {num_tokens} cells")
        if slot in self._read or slot in self._written or not self._has_room(num_tokens):
            return False
        target.cells, target.num_loaded = cells, num_tokens
        if self.limits.is_unified:
            target.places = list(range(self._num_placed + 1, self._num_placed + num_tokens + 1))
            self._num_placed += num_tokens
        return True

    def begin_aside(self, token_ids: Int32s) -> None:
        if not self.limits.has_aside or self._num_aside is not None:
            raise RunnerError("begin_aside: there is one already, or there can be none")
        self._aside_ids, self._num_aside = token_ids.tolist(), 0

    def advance_aside(self, max_s: float, max_rows: int) -> bool:
        assert self._num_aside is not None
        self._num_aside += max_rows
        return self._num_aside >= len(self._aside_ids)

    def end_aside(self, slot: int) -> bool:
        target = self._slot(slot)
        if not self._aside_ids or target.num_cells:
            raise RunnerError(f"end_aside: there is none, or slot {slot} has cells")
        for token_id in self._aside_ids:
            target.cells.append(mix(target.cells[-1], token_id + 1))
        self._num_aside = None
        return True

    def cancel_aside(self) -> None:
        self._num_aside = None

    def num_cells(self, slot: int) -> int:
        return self._slot(slot).num_cells

    def num_reused_graphs(self) -> int:
        return 0

    def close(self) -> None:
        """There is nothing to free."""

    def _slot(self, slot: int) -> FakeSlot:
        if not 0 <= slot < len(self._slots):
            raise RunnerError(f"slot {slot} is outside [0, {len(self._slots)})")
        return self._slots[slot]

    def _check(self, plan: Plan, rows: list[tuple[int, int, int, int]]) -> None:
        """Every reason to refuse a plan, before anything is changed."""
        columns = (plan.slots, plan.positions, plan.token_ids)
        if any(column.dtype != np.int32 for column in columns) or plan.samples.dtype != np.int8:
            raise RunnerError("step: columns must be int32, samples int8")
        if not all(column.flags.c_contiguous for column in (*columns, plan.samples)):
            raise RunnerError("step: columns must be contiguous")
        if not 0 < len(rows) <= self.limits.max_step_tokens:
            raise RunnerError(f"step: {len(rows)} rows, not 1 to {self.limits.max_step_tokens}")
        done: set[int] = set()
        previous = None
        next_position = 0
        was_sampled = 0
        for slot, position, token_id, is_sampled in rows:
            if slot != previous:
                if slot in done:
                    raise RunnerError(f"step: rows of slot {slot} are not together")
                next_position, was_sampled, previous = self._slot(slot).num_cells, 0, slot
                done.add(slot)
            if position != next_position:
                raise RunnerError(f"step: slot {slot} at {position} and not {next_position}")
            if position >= self.limits.max_slot_tokens:
                raise RunnerError(f"step: slot {slot} holds {position} tokens and is full")
            if not 0 <= token_id < self.limits.num_vocab:
                raise RunnerError(f"step: token id {token_id} is not in the vocabulary")
            if was_sampled:
                raise RunnerError(f"step: a row that is not the last of slot {slot} is sampled")
            if is_sampled > 0 and self._slots[slot].sampler is None:
                raise RunnerError(f"step: slot {slot} is sampled and was not opened")
            next_position, was_sampled = next_position + 1, is_sampled

    def _checked_targets(self, plan: Plan) -> list[int]:
        """The targets of a plan whose rows are good, or as many times NO_TARGET."""
        if plan.targets is None:
            return [NO_TARGET] * len(plan.slots)
        if plan.targets.dtype != np.int32 or not plan.targets.flags.c_contiguous:
            raise RunnerError("step: targets must be int32 and contiguous")
        if len(plan.targets) != len(plan.slots):
            raise RunnerError(f"step: {len(plan.targets)} targets of {len(plan.slots)} rows")
        scored = np.flatnonzero(plan.targets != NO_TARGET)
        ids = plan.targets[scored]
        if np.any((ids < 0) | (ids >= self.limits.num_vocab)):
            raise RunnerError("step: a target is not in the vocabulary")
        if np.any(plan.samples[scored]):
            raise RunnerError("step: a row is sampled and scored")
        if any(self._slots[slot].sampler is None for slot in plan.slots[scored].tolist()):
            raise RunnerError("step: a slot is scored and was not opened")
        num_outputs = len(scored) + np.count_nonzero(plan.samples)
        if num_outputs > self.limits.max_step_outputs:
            raise RunnerError(f"step: {num_outputs} outputs, over {self.limits.max_step_outputs}")
        targets: list[int] = plan.targets.tolist()
        return targets

    def _has_room(self, num_rows: int) -> bool:
        if not self.limits.is_unified:
            return True
        num_used = len(set().union(*(slot.places for slot in self._slots)))
        return num_used + num_rows <= self._num_pool_cells

    def _sample(self, target: FakeSlot) -> tuple[int, float]:
        """(id, logprob); greedy ignores the seed, as it should."""
        sampler = target.sampler
        assert sampler is not None
        seed = sampler.params.seed if sampler.params.temperature else 0
        state = mix(mix(target.cells[-1], sampler.history), seed)
        num_vocab = self.limits.num_vocab
        token_id = (state >> 8) % (num_vocab - 1)
        if (state >> 44) / (1 << 20) < self._eog_chance:
            token_id = num_vocab - 1
        sampler.history = mix(sampler.history, token_id + 1)
        return token_id, score(target, token_id)

    def _result(
        self, status: StepStatus, sampled: list[_Output], scored: list[_Output] | None = None
    ) -> StepResult:
        scores = None
        if scored is not None:
            scores = Scores(_logprobs_of(scored), *self._alternatives(scored))
        self._last_result = StepResult(
            status,
            np.array([row[0] for row in sampled], np.int32),
            np.array([row[1] for row in sampled], np.int32),
            _logprobs_of(sampled),
            *self._alternatives(sampled),
            scores=scores,
        )
        return self._last_result

    def _alternatives(self, outputs: list[_Output]) -> tuple[Int32s, Float32s]:
        tops = [self._num_top(slot) for slot, _, _ in outputs]
        top_ids = np.zeros((len(outputs), max(tops, default=0)), np.int32)
        top_logprobs = np.zeros(top_ids.shape, np.float32)
        for i, (_, token_id, logprob) in enumerate(outputs):
            for k in range(tops[i]):  # the token itself, then its neighbours
                top_ids[i, k] = (token_id + k) % self.limits.num_vocab
                top_logprobs[i, k] = logprob - k
        return top_ids, top_logprobs

    def _num_top(self, slot: int) -> int:
        sampler = self._slots[slot].sampler
        return sampler.params.num_top_tokens if sampler else 0


def fake_limits(config: EngineConfig, num_vocab: int) -> RunnerLimits:
    """What a context made for this configuration would have."""
    num_slots = config.max_batch_size
    is_unified = config.is_kv_unified(config.max_total_tokens)
    pool = config.max_batch_total_tokens if is_unified else num_slots * config.max_total_tokens
    if is_unified and config.prefix_cache:
        num_slots = pooled_slots(num_slots)
    return RunnerLimits(
        num_slots=num_slots,
        max_slot_tokens=config.max_total_tokens,
        max_pool_tokens=pool,
        max_step_tokens=config.max_physical_batch_total_tokens,
        max_step_outputs=max(num_slots, MIN_STEP_OUTPUTS),
        num_vocab=num_vocab,
        is_unified=is_unified,
        can_trim=True,
    )


def fake_load(model: FakeModel, *, eog_chance: float = 0.0, step_s: float = 0.0) -> Load:
    """A loader for process.main that needs no file."""

    def load(config: EngineConfig, on_progress: OnProgress) -> tuple[Model, Runner]:
        on_progress(1.0)
        limits = fake_limits(config, model.num_vocab)
        return model, FakeRunner(limits, eog_chance=eog_chance, step_s=step_s)

    return load


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description="An engine without a model; --fd goes through.")
    _parser.add_argument("--num-vocab", type=int, default=512)
    _parser.add_argument("--bos-id", type=int)
    _parser.add_argument("--pieces-hash", default="fake")
    _parser.add_argument("--eog-chance", type=float, default=0.0)
    _parser.add_argument("--step-ms", type=float, default=0.0)
    _own, _rest = _parser.parse_known_args()
    _model = FakeModel(_own.num_vocab, _own.bos_id, _own.pieces_hash)
    _load = fake_load(_model, eog_chance=_own.eog_chance, step_s=_own.step_ms / 1000)
    sys.exit(main(_rest, _load))
