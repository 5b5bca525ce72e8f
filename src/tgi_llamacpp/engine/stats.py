"""What the engine counts, and the lines about it in the log.

Counters only grow. The scheduler and the loop add to them; the loop sends them as Stats.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace

from tgi_llamacpp.engine.planner import Batch
from tgi_llamacpp.messages import PrefixStats

SUMMARY_INTERVAL_S = 5.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PrefixCounters:
    """What admitted sequences found in others' cells, since the start."""

    num_hits: int = 0
    num_misses: dict[str, int] = field(default_factory=dict)  # by reason (PREFIX_MISSES)
    num_cached_tokens: int = 0
    num_evictions: int = 0

    def add(self, num_tokens: int, miss: str) -> None:
        """Count what a sequence found; `miss` is why, if that is nothing."""
        if num_tokens:
            self.num_hits += 1
            self.num_cached_tokens += num_tokens
        else:
            self.num_misses[miss] = self.num_misses.get(miss, 0) + 1

    def stats(self, num_parked_tokens: int) -> PrefixStats:
        """As the router gets it."""
        return PrefixStats(
            self.num_hits,
            dict(self.num_misses),
            self.num_cached_tokens,
            self.num_evictions,
            num_parked_tokens,
        )


@dataclass(slots=True)
class Counters:
    """Since the start."""

    num_steps: int = 0
    num_decode_tokens: int = 0
    num_prefill_tokens: int = 0
    num_shared_steps: int = 0  # steps that ran more than one sequence
    num_preempted: int = 0
    num_moves: int = 0
    num_dummy_rows: int = 0
    step_s: float = 0.0  # inside Runner.step and Runner.advance_aside
    prefix: PrefixCounters = field(default_factory=PrefixCounters)
    num_mixed_steps: int = 0  # steps that had prompt tokens beside decode rows,
    num_mixed_tokens: int = 0  # and how many prompt tokens
    mixed_error_s: float = 0.0  # of them, |measured - predicted|, summed
    num_late_steps: int = 0  # steps with decode rows that took longer than the latency target
    num_aside: int = 0  # prompts that were computed aside,
    aside_s: float = 0.0  # and what all slices took, of step_s

    def add_step(self, batch: Batch) -> None:
        """Count a step that was done."""
        self.num_steps += 1
        self.num_decode_tokens += batch.num_decode
        self.num_prefill_tokens += batch.num_prefill
        self.num_shared_steps += len(batch.segments) > 1
        self.num_dummy_rows += len(batch.dummy_slots)

    def add_time(self, batch: Batch, step_s: float, error_s: float, target_s: float) -> None:
        """Count what a step that was done took. A target of 0 is none."""
        if not batch.shape.width:
            return
        self.num_late_steps += 0 < target_s < step_s
        if batch.shape.chunks:
            self.num_mixed_steps += 1
            self.num_mixed_tokens += batch.shape.num_prompt_tokens
            self.mixed_error_s += abs(error_s)


class Summary:
    """One INFO line for each interval that had steps: what ran, and how much of it together."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._told = replace(counters)
        self._told_at_s = time.monotonic()

    def due_in_s(self) -> float | None:
        """Seconds until the next line, at least 0; None while there is nothing to tell."""
        if self._counters.num_steps == self._told.num_steps:
            return None
        return max(0.0, self._told_at_s + SUMMARY_INTERVAL_S - time.monotonic())

    def tell(self, num_running: int, num_waiting: int) -> None:
        """Write the line, if there was a step since the last."""
        now, then, now_s = self._counters, self._told, time.monotonic()
        if now.num_steps == then.num_steps:
            return
        log.info(
            "%d steps in %.1f s, %d shared by several sequences: %d tokens decoded, %d prefilled; "
            "%d running, %d waiting, %d preempted",
            now.num_steps - then.num_steps,
            now_s - self._told_at_s,
            now.num_shared_steps - then.num_shared_steps,
            now.num_decode_tokens - then.num_decode_tokens,
            now.num_prefill_tokens - then.num_prefill_tokens,
            num_running,
            num_waiting,
            now.num_preempted - then.num_preempted,
        )
        self._told, self._told_at_s = replace(now), now_s
