"""Turns running sequences into the rows of one step: decode rows first, then prompt chunks.

Pure: it changes nothing and calls nobody. Rows come by ascending slot, which is the order in which
llama.cpp joins slots into one pass. Called by the scheduler once a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgi_llamacpp.engine.runner import Plan
from tgi_llamacpp.engine.sequence import Sequence
from tgi_llamacpp.engine.slots import SlotTable

MAX_CHUNK_TOKENS = 256  # of prompts, in a step that others decode in


@dataclass(frozen=True, slots=True)
class Batch:
    """A plan, and what the scheduler needs to commit it."""

    plan: Plan
    segments: list[tuple[Sequence, int]]  # each sequence with rows, and how many
    dummy_slots: list[int]
    num_decode: int  # rows that are sampled
    num_prefill: int


def prefill_share(num_decode: int, max_step_tokens: int) -> int:
    """Rows of this step that prompts may take: the one place that trades prompts against streams.

    Nobody waits in a step without decode rows; else a chunk bounds how long the streams stop.
    """
    room = max_step_tokens - num_decode
    return min(room, MAX_CHUNK_TOKENS) if num_decode else room


def plan_step(table: SlotTable, max_step_tokens: int) -> Batch | None:
    """The next step for all that run; None when nothing does."""
    running = table.computing()
    if not running:
        return None
    prefilling = [sequence for sequence in running if sequence.num_to_prefill]
    num_decoding = len(running) - len(prefilling)
    room = prefill_share(num_decoding, max_step_tokens)
    if len(prefilling) < len(running):
        # What the bridges take must leave a row to the oldest prompt.
        dummies, bridging = table.bridge(
            [one.slot for one in running if not one.num_to_prefill and one.slot is not None],
            max_step_tokens - num_decoding - bool(prefilling),
        )
        room = min(room, max_step_tokens - num_decoding - len(dummies))
    else:
        dummies, bridging = [], []
    chunks = _share_rows(prefilling, room, bridging, with_last=num_decoding == 0)
    return _build(running, chunks, [(slot, table.num_parked(slot)) for slot in dummies])


def _share_rows(
    prefilling: list[Sequence], room: int, bridging: list[int], *, with_last: bool
) -> dict[int, int]:
    """Rows per slot: one for each bridge, the rest first come first served.

    The last id of a prompt is a decode row of the next step; where nobody decodes (with_last), it
    ends the chunk instead, which saves a pass.
    """
    chunks = dict.fromkeys(bridging, 1)
    room -= len(chunks)
    for sequence in sorted(prefilling, key=lambda one: one.num_arrival):
        if room <= 0:
            break
        assert sequence.slot is not None
        num_given = chunks.get(sequence.slot, 0)
        num_more = min(sequence.num_to_prefill + with_last - num_given, room)
        chunks[sequence.slot] = num_given + num_more
        room -= num_more
    return chunks


def _build(
    running: list[Sequence], chunks: dict[int, int], dummies: list[tuple[int, int]]
) -> Batch:
    slots: list[int] = []
    positions: list[int] = []
    token_ids: list[int] = []
    samples: list[int] = []
    segments: list[tuple[Sequence, int]] = []
    for sequence in running:
        slot, start = sequence.slot, sequence.num_computed
        assert slot is not None
        if not sequence.num_to_prefill:
            slots.append(slot)
            positions.append(start)
            token_ids.append(sequence.last_id)
            samples.append(1)
            segments.append((sequence, 1))
        elif num_rows := chunks.get(slot, 0):
            slots += [slot] * num_rows
            positions += range(start, start + num_rows)
            token_ids += sequence.ids(start, start + num_rows)
            samples += [0] * (num_rows - 1)
            samples.append(int(num_rows > sequence.num_to_prefill))
            segments.append((sequence, num_rows))
    num_decode = sum(samples)
    num_prefill = len(slots) - num_decode
    plan = _columns(slots, positions, token_ids, samples, dummies)
    return Batch(plan, segments, [slot for slot, _ in dummies], num_decode, num_prefill)


def _columns(
    slots: list[int],
    positions: list[int],
    token_ids: list[int],
    samples: list[int],
    dummies: list[tuple[int, int]],
) -> Plan:
    if not dummies:
        return Plan(
            np.array(slots, np.int32),
            np.array(positions, np.int32),
            np.array(token_ids, np.int32),
            np.array(samples, np.int8),
        )
    # A dummy is token 0 after the cells of a slot that has no row of its own, which is taken back.
    zeros = [0] * len(dummies)
    slots += [slot for slot, _ in dummies]
    positions += [position for _, position in dummies]
    columns = np.array([slots, positions, token_ids + zeros, samples + zeros], np.int32)
    # take, and not an index, which would leave the rows strided: the runner reads plain arrays.
    columns = columns.take(np.argsort(columns[0], kind="stable"), axis=1)
    return Plan(columns[0], columns[1], columns[2], columns[3].astype(np.int8))
