"""The seam between scheduler and native code: a Plan goes in, a StepResult comes out.

native.Runner is the real one, FakeRunner (fake_runner.py) the deterministic one. Neither knows
what a request, a budget or a queue is.
"""

from __future__ import annotations

import enum
import mmap
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tgi_llamacpp.config import MAX_TOP_TOKENS
from tgi_llamacpp.messages import SamplingParams

Buffer = bytearray | mmap.mmap
Int32s = npt.NDArray[np.int32]
Float32s = npt.NDArray[np.float32]

UNREAD = -1  # in Plan.samples: logits are computed and nobody reads them
NO_TOKEN = -1  # in StepResult.token_ids: the row had no finite logit, so its sequence must fail
NO_TARGET = -1  # in Plan.targets: the row is not scored


class StepStatus(enum.IntEnum):
    """What llama_decode said, as far as a scheduler can act on it. All else raises RunnerError."""

    OK = 0
    NO_KV_SPACE = 1  # nothing was changed: preempt or shrink, and plan again
    ABORTED = 2  # ask num_cells() what was done


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Fixed at load."""

    num_slots: int  # with one pool more than can run at once: the rest is for parked cells
    max_slot_tokens: int  # positions that one slot can hold
    max_pool_tokens: int  # cells of all slots together
    max_step_tokens: int  # rows of one plan
    max_step_outputs: int  # of them sampled or scored; at least num_slots
    num_vocab: int
    is_unified: bool  # one pool of cells; else each slot has max_slot_tokens of its own
    can_trim: bool  # trim() to a position > 0 works, and copy() of a part (not for recurrent ones)
    max_top_tokens: int = MAX_TOP_TOKENS
    cache_bytes: int = 0  # of all cells, or states
    can_cut_states: bool = True  # what load() gave can be cut as well (not with a sliding window)
    has_aside: bool = False  # a prompt can be computed beside the steps: begin_aside()
    aside_bytes: int = 0  # of the cells that it takes until then


def pooled_slots(max_running: int) -> int:
    """Slots of one pool: as many for parked cells as may run, and 32 in all where those are few.

    Each costs a row of logits. 256 is llama.cpp's limit.
    """
    return min(max(2 * max_running, 32), 256)


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of one step, as columns of equal length, grouped by slot, positions ascending.

    samples[i] is 1 for the rows whose logits are sampled: at most one a slot, its last. It is
    UNREAD for a dummy row that fills up a group of rows in the output matrix too. targets[i] is the
    id whose log-probability is wanted after row i, which is not sampled then, or NO_TARGET; None
    where no row is scored.
    """

    slots: Int32s
    positions: Int32s
    token_ids: Int32s
    samples: npt.NDArray[np.int8]
    targets: Int32s | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """One entry per scored row, in the order of the plan: log-probabilities as StepResult has them.

    logprobs is NaN where the row had no finite logit.
    """

    logprobs: Float32s  # [n]
    top_ids: Int32s  # [n, max_top]
    top_logprobs: Float32s  # [n, max_top]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One entry per sampled row, in the order of the plan. Arrays are valid until the next step.

    token_ids may hold NO_TOKEN. Of top_ids and top_logprobs, the first num_top_tokens of the slot's
    parameters are valid in a row.
    """

    status: StepStatus
    slots: Int32s  # [n]
    token_ids: Int32s  # [n]
    logprobs: Float32s  # [n]
    top_ids: Int32s  # [n, max_top]
    top_logprobs: Float32s  # [n, max_top]
    sampling_s: float = 0.0  # of the step, after its logits were there
    scores: Scores | None = None  # where the plan had targets


class Runner(Protocol):
    """One llama.cpp context with its samplers. Driven by one thread."""

    @property
    def limits(self) -> RunnerLimits: ...

    def open(
        self, slot: int, params: SamplingParams, prompt_ids: Int32s, generated_ids: Int32s
    ) -> None:
        """Bind a sequence's sampler to a slot without one: counts for penalties, seed, cuts.

        The slot may hold cells: of a beginning of these ids, computed for another sequence.
        """

    def step(self, plan: Plan) -> StepResult:
        """Decode every row, sample or score the marked ones, and count what was sampled.

        A row must sit at position num_cells(slot): no gaps, no overlaps.
        Raises RunnerError on a malformed plan or a dead backend.
        """

    def move(self, src: int, dst: int) -> None:
        """Make the empty slot dst what src is, sampler included, and empty src."""

    def copy(self, src: int, dst: int, num_tokens: int) -> bool:
        """Give dst, which has no cells, the first num_tokens cells of src.

        False where the memory cannot, or src lacks some of them; dst has no cells then.
        """

    def park(self, slot: int) -> None:
        """Unbind the slot's sampler; its cells stay."""

    def trim(self, slot: int, num_tokens: int) -> bool:
        """Forget positions [num_tokens, ...). False where the memory cannot; nothing is changed."""

    def drop(self, slot: int) -> None:
        """Empty the slot and unbind its sampler."""

    def state_bytes(self, slot: int) -> int:
        """Bytes that save will write of this slot's cells; 0 where they come with the next step.

        Copies and moves between slots of a split cache may be done as late as that.
        """

    def save(self, slot: int, buffer: Buffer) -> None:
        """Write the slot's cells to a buffer of state_bytes(slot) bytes."""

    def load(self, slot: int, buffer: Buffer, num_tokens: int) -> bool:
        """Give a slot, which has no cells, the num_tokens cells that save wrote of any slot.

        False where there is no room, or the slot still has to give or get cells with the next step;
        it has no cells then.
        """

    def begin_aside(self, token_ids: Int32s) -> None:
        """Take a prompt to compute beside the steps, from its beginning. One at a time.

        Raises RunnerError where there is one already, or more ids than a slot holds.
        """

    def advance_aside(self, max_s: float, max_rows: int) -> bool:
        """Go on with it for max_s, and what it takes to a next pause; True when it is over.

        max_rows: of a pass that begins now. Raises RunnerError on a dead backend.
        """

    def end_aside(self, slot: int) -> bool:
        """Give the cells of a prompt that is over to a slot that has none.

        False where it failed or there is no room: the slot is empty.
        """

    def cancel_aside(self) -> None:
        """Forget it; none is no error."""

    def num_cells(self, slot: int) -> int:
        """Positions that the slot holds, [0, num_cells)."""

    def num_reused_graphs(self) -> int:
        """Since load."""

    def close(self) -> None:
        """Free everything; idempotent."""
