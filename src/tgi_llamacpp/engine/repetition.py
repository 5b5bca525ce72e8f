"""The plan of the last step again: while nobody comes or goes, only ids and positions change.

Streams wait for planning, and its code and data come from memory at every step, since the weights
have gone through the caches in between. Called by the scheduler.
"""

from __future__ import annotations

import numpy as np

from tgi_llamacpp.engine.planner import Batch
from tgi_llamacpp.engine.slots import SlotTable

# Then it is planned anew: what may be parked beside a dummy row changes with the streams' lengths.
MAX_REPEATS = 32


class Repetition:
    """At most one batch, of decode rows alone, with what it was planned on."""

    def __init__(self, table: SlotTable, *, is_unified: bool) -> None:
        self._table = table
        self._is_unified = is_unified
        self._batch: Batch | None = None
        self._num_changes = -1  # of the table, when it was planned
        self._rows: list[int] = []  # that are sampled
        self._positions = self._token_ids = memoryview(b"")
        self._num_left = 0
        self._is_advanced = False

    def remember(self, batch: Batch | None) -> None:
        """A batch that was just planned. One that leaves somebody out, or reads prompts, is not
        repeated, nor one with dummy rows in a pool, which may have no cells for them next time."""
        self._is_advanced = False
        self._batch = batch if batch is not None and self._is_repeatable(batch) else None
        self._num_changes = self._table.num_changes
        self._num_left = MAX_REPEATS
        if self._batch is not None:
            plan = self._batch.plan
            self._rows = np.flatnonzero(plan.samples > 0).tolist()
            # A few rows through these are quicker than numpy with cold caches.
            self._positions, self._token_ids = plan.positions.data, plan.token_ids.data

    def _is_repeatable(self, batch: Batch) -> bool:
        is_everyone = len(batch.segments) == self._table.num_running
        has_cells = not (batch.dummy_slots and self._is_unified)
        return is_everyone and has_cells and not batch.shape.chunks

    def advance(self, batch: Batch, token_ids: list[int]) -> None:
        """A step was done and gave these ids, a row each: in place, it becomes the next one."""
        if batch is not self._batch or self._num_changes != self._table.num_changes:
            return
        positions, next_ids = self._positions, self._token_ids
        for row, token_id in zip(self._rows, token_ids, strict=True):
            positions[row] += 1
            next_ids[row] = token_id
        self._num_left -= 1
        self._is_advanced = True

    def take(self) -> Batch | None:
        """The next batch; None where it has to be planned."""
        is_due, self._is_advanced = self._is_advanced, False
        if is_due and self._num_left and self._num_changes == self._table.num_changes:
            return self._batch
        return None
