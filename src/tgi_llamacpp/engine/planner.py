"""Turns running sequences into the rows of one step: decode rows and prompt chunks.

Decode rows always run; prompts share what is left of the latency target, by the cost model. Pure:
it changes nothing. Rows come in the order of the passes that llama.cpp is to make of them. Called
by the scheduler once a step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from tgi_llamacpp.engine.cost_model import (
    LONG_CHUNK,
    LONG_FROM,
    LONG_GROUP,
    CostModel,
    StepShape,
)
from tgi_llamacpp.engine.runner import NO_TARGET, UNREAD, Int32s, Plan
from tgi_llamacpp.engine.sequence import Sequence
from tgi_llamacpp.engine.slots import SlotTable

# What prompts get where the target leaves less or nothing: they come forward, whatever it costs.
MIN_CHUNK_TOKENS = 9  # a group of eight rows, and the one that joins the decode rows
MIN_PROMPT_SHARE = 0.25  # of the time that the step's decode rows take
NEVER = 2**31  # rows, of which no chunk has as many
MAX_MARGIN = 0.2  # of the target, kept for what the cost model gets wrong


@dataclass(frozen=True, slots=True)
class Batch:
    """A plan, and what the scheduler needs to commit it."""

    plan: Plan
    segments: list[tuple[Sequence, int]]  # each sequence with rows, and how many
    dummy_slots: list[int]
    num_decode: int  # rows that are sampled
    num_prefill: int
    shape: StepShape  # what its time depends on


def prefill_share(
    costs: CostModel, target_itl_s: float, width: int, prompts: list[tuple[int, int]], room: int
) -> int:
    """Prompt tokens beside `width` decode rows: the one place that trades prompts against streams.

    prompts: (positions before, tokens left) of each, oldest first; they get `room` at most. The
    step is to end within the target, less what the model's predictions are usually off by. Where
    the decode rows alone leave less than a quarter of their own time, prompts get that quarter, and
    MIN_CHUNK_TOKENS at least.
    """
    limit_s = max(spare_s(costs, target_itl_s, width), MIN_PROMPT_SHARE * costs.pass_s(width))
    num_tokens = min(max(costs.num_tokens_within(limit_s, prompts), MIN_CHUNK_TOKENS), room)
    return num_tokens - _num_cut_off(prompts, num_tokens, costs.curve.row_group)


def spare_s(costs: CostModel, target_itl_s: float, width: int) -> float:
    """What the target leaves beside `width` decode rows, for prompts, saves and loads."""
    margin_s = min(costs.error_share, MAX_MARGIN) * target_itl_s
    return target_itl_s - margin_s - costs.pass_s(width)


def _num_cut_off(prompts: list[tuple[int, int]], num_tokens: int, row_group: int) -> int:
    """Tokens to leave out, so that the chunk of a prompt that is cut fills groups of rows.

    One of its tokens runs in the pass of the decode rows. A chunk that ends its prompt stays whole.
    A long prompt is not begun behind others that fill more than half of the step: cut into two
    short chunks it takes longer, and one whole prompt a step is the shorter gap.
    """
    num_before = 0
    for start, num_left in prompts:
        num_own = num_tokens - num_before
        if num_own <= num_left:
            if not 0 < num_own < num_left:
                return 0
            if num_left >= LONG_CHUNK and num_before >= max(num_own, LONG_CHUNK):
                return num_own
            is_long = start >= LONG_FROM and num_own >= LONG_CHUNK
            return (num_own - 1) % (LONG_GROUP if is_long else row_group)
        num_before += num_left
    return 0


def plan_step(
    table: SlotTable,
    max_step_tokens: int,
    max_step_outputs: int,
    costs: CostModel,
    target_itl_s: float = 0.0,
    *,
    may_prefill: bool = True,
) -> Batch | None:
    """The next step for all that run; None when nothing does. target_itl_s of 0 is no target.

    Without may_prefill no prompt takes time from the decode rows, where there are any.
    max_step_outputs is at least the number of slots, so a prompt that is scored always moves on.
    """
    running = table.computing()
    if not running:
        return None
    prefilling = sorted(
        (sequence for sequence in running if sequence.num_to_prefill),
        key=lambda one: one.num_arrival,
    )
    decoding = [one.slot for one in running if not one.num_to_prefill and one.slot is not None]
    # What the bridges take must leave a row to the oldest prompt.
    room, outputs = max_step_tokens - len(decoding), max_step_outputs - len(decoding)
    dummies, bridging = table.bridge(decoding, room - bool(prefilling))
    room -= len(dummies)
    width = len(decoding) + len(dummies)
    ends_from = NEVER if decoding else 0
    if prefilling and decoding and target_itl_s:
        prompts = [(one.num_computed, _num_left(one, LONG_CHUNK)) for one in prefilling]
        share = prefill_share(costs, target_itl_s, width, prompts, room) if may_prefill else 0
        # Bridges run in the decode rows' pass; were they all of a share, the oldest would wait.
        room = max(share, min(len(bridging) + MIN_CHUNK_TOKENS, room)) if bridging else share
        if room < sum(num_left for _, num_left in prompts):
            ends_from = LONG_CHUNK
        if any(one.num_to_score for one in prefilling):
            outputs = min(outputs, score_share(costs, target_itl_s, width, outputs))
    pads: list[int] = []
    if not prefilling and (num_pads := costs.curve.num_pads(width)) and num_pads <= room:
        pads = table.pads(num_pads, [*decoding, *dummies])
    chunks = _share_rows(prefilling, room, outputs, bridging, ends_from)
    dummy_rows = {slot: (table.num_parked(slot), 0) for slot in dummies}
    dummy_rows |= {slot: (table.num_parked(slot), UNREAD) for slot in pads}
    slots = by_pass([*decoding, *dummy_rows], chunks, _read_to_end(prefilling, chunks))
    return _build(table, slots, dict.fromkeys(decoding, 1) | chunks, dummy_rows)


def _read_to_end(prefilling: list[Sequence], chunks: dict[int, int]) -> list[int]:
    """Slots of prompts whose chunk ends them, and has rows for a block of attention."""
    return [
        slot
        for one in prefilling
        if (slot := one.slot) in chunks and chunks[slot] >= max(LONG_GROUP, one.num_to_prefill)
    ]


def by_pass(joined: list[int], prompts: Iterable[int], apart: Collection[int]) -> list[int]:
    """Slots in the order of their rows. Those of `joined` have a row each, in one pass.

    llama.cpp goes through the rows once for a pass, and joins a slot only to the one right below
    it. So those of the prompts that are to be `apart` come first where they are above the joined
    ones, and last where they are below, and no row of theirs joins: ggml's attention skips what is
    ahead of a block of 64 rows, if they are counted from the prompt's first one, and one row more
    among the others seldom fills a group. What lies beyond the nearest of them is kept from it too.
    """
    low, high = min(joined, default=0), max(joined, default=math.inf)
    below = max((slot for slot in apart if slot < low), default=-1)
    above = min((slot for slot in apart if slot > high), default=math.inf)

    def rank(slot: int) -> tuple[int, int]:
        side = (slot <= below) - (slot >= above)
        return side * (1 if slot in apart else 2), slot

    return sorted([*joined, *prompts], key=rank)


def score_share(costs: CostModel, target_itl_s: float, width: int, room: int) -> int:
    """Rows of prompts to score beside `width` decode rows: each costs what a decode row costs.

    At most `room`, and MIN_CHUNK_TOKENS at least where there is that room.
    """
    limit_s = max(target_itl_s - costs.pass_s(width), MIN_PROMPT_SHARE * costs.pass_s(width))
    num_rows = room
    while num_rows > MIN_CHUNK_TOKENS and (
        costs.pass_s(width + num_rows) - costs.pass_s(width) > limit_s
    ):
        num_rows -= 1
    return num_rows


def _share_rows(
    prefilling: list[Sequence], room: int, outputs: int, bridging: list[int], ends_from: int
) -> dict[int, int]:
    """Rows per slot: one for each bridge, the rest first come first served, the oldest first.

    The last id of a prompt is a decode row of the next step, or ends a chunk of ends_from rows or
    more: any where nobody decodes, which saves a pass, and a long one where the next step has
    prompts too, for which a first token would wait. In a short one logits take too much of the
    time. `outputs` limits what is sampled or scored.
    """
    if outputs <= len(bridging):  # any bridge may be scored, and one output is for the oldest
        bridging = []
    chunks = dict.fromkeys(bridging, 1)
    room -= len(chunks)
    outputs -= len(chunks)
    for sequence in prefilling:
        if room <= 0:
            break
        assert sequence.slot is not None
        num_given = chunks.get(sequence.slot, 0)
        num_rows = _num_fitting(sequence, num_given + room, num_given + outputs, ends_from)
        if num_rows:
            chunks[sequence.slot] = num_rows
        room -= num_rows - num_given
        outputs -= _num_outputs(sequence, num_rows) - num_given
    return chunks


def _num_left(sequence: Sequence, ends_from: int) -> int:
    """Rows of its prompt, with the one that is sampled if they are ends_from or more."""
    num_rows = sequence.num_to_prefill + (sequence.max_new_tokens > 0)
    return num_rows if num_rows >= ends_from else sequence.num_to_prefill


def _num_fitting(sequence: Sequence, room: int, outputs: int, ends_from: int) -> int:
    """Rows of its prompt that a step with this room can take."""
    num_rows = max(0, min(_num_left(sequence, ends_from), room))
    scored = sequence.positions_to_score(num_rows)
    if len(scored) > outputs:
        return scored.start + outputs - sequence.num_computed
    return num_rows - (_num_outputs(sequence, num_rows) > outputs)


def _num_outputs(sequence: Sequence, num_rows: int) -> int:
    """Of its next rows, those that are scored, and the one that is sampled."""
    return len(sequence.positions_to_score(num_rows)) + (num_rows > sequence.num_to_prefill)


def _build(
    table: SlotTable,
    slots: list[int],
    num_rows: dict[int, int],
    dummies: dict[int, tuple[int, int]],
) -> Batch:
    """A batch with the rows of these slots, in their order.

    dummies: (position, sample) of rows behind what is parked in slots without a sequence that
    computes. Each is token 0, and is taken back.
    """
    rows = _Rows()
    segments: list[tuple[Sequence, int]] = []
    parts: list[tuple[int, int]] = []
    for slot in slots:
        if slot in dummies:
            position, sample = dummies[slot]
            rows.add(slot, position, [0], sample)
        else:
            sequence, count = table[slot], num_rows[slot]
            assert sequence is not None
            start, num_to_prefill = sequence.num_computed, sequence.num_to_prefill
            if sequence.num_to_score:
                rows.score(sequence, count)
            rows.add(slot, start, sequence.ids(start, start + count), int(count > num_to_prefill))
            segments.append((sequence, count))
            if num_to_prefill:
                parts.append((start, count))
    num_decode = sum(sample > 0 for sample in rows.samples)
    num_prefill = len(rows.slots) - len(dummies) - num_decode
    shape = StepShape(len(segments) - len(parts) + len(dummies), tuple(parts))
    return Batch(rows.plan(), segments, list(dummies), num_decode, num_prefill, shape)


class _Rows:
    """The columns of a plan, slot after slot."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.positions: list[int] = []
        self.token_ids: list[int] = []
        self.samples: list[int] = []
        self._scored: list[tuple[int, Int32s]] = []  # the first row, and the ids after it

    def add(self, slot: int, start: int, token_ids: list[int], last_sample: int) -> None:
        """One row for each id, of which the last may be sampled."""
        count = len(token_ids)
        self.slots += [slot] * count
        self.positions += range(start, start + count)
        self.token_ids += token_ids
        self.samples += [0] * (count - 1)
        self.samples.append(last_sample)

    def score(self, sequence: Sequence, count: int) -> None:
        """Of the next `count` rows, which are this sequence's, some may be scored."""
        if scored := sequence.positions_to_score(count):
            first = len(self.slots) + scored.start - sequence.num_computed
            self._scored.append((first, sequence.prompt_ids[scored.start + 1 : scored.stop + 1]))

    def plan(self) -> Plan:
        return Plan(
            np.array(self.slots, np.int32),
            np.array(self.positions, np.int32),
            np.array(self.token_ids, np.int32),
            np.array(self.samples, np.int8),
            self._targets(),
        )

    def _targets(self) -> Int32s | None:
        """The column of ids to score; None where none is."""
        if not self._scored:
            return None
        targets = np.full(len(self.slots), NO_TARGET, np.int32)
        for first, next_ids in self._scored:
            targets[first : first + len(next_ids)] = next_ids
        return targets
