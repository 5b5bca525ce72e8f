"""Who may run: the queue, the budget, and who has to give way.

First come first served and strict: nothing overtakes the oldest that waits. A sequence claims the
most tokens that it can come to of the budget. With optimistic admission it claims what it will
probably come to, and before the tokens that are there exceed the budget, the youngest gives way.
Knows no slots and no cells; called by the scheduler.
"""

from __future__ import annotations

from collections import OrderedDict

from tgi_llamacpp.engine.limits import EngineLimits
from tgi_llamacpp.engine.output_forecast import OutputForecast
from tgi_llamacpp.engine.sequence import Sequence

# How far claims lie between the forecast and the most. Each preemption moves them so far up and
# each end so far down, so that in the long run there is one preemption for twenty ends at most.
MORE_CAUTION = 0.1
LESS_CAUTION = 0.005


class Admission:
    """Every sequence between its Submit and its end, waiting or running."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self.running: dict[int, Sequence] = {}
        self._waiting: OrderedDict[int, Sequence] = OrderedDict()  # by num_arrival
        self.num_reserved_tokens = 0  # the most that the running ones can come to
        self.forecast = OutputForecast()
        self._caution = 0.0
        # After a preemption nothing is admitted until a running sequence has ended: what was taken
        # from the youngest would go back to it, and be taken again.
        self._is_held = False

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self.running or seq_id in self._waiting

    def enqueue(self, sequence: Sequence) -> None:
        """The youngest of all comes to the end of the queue."""
        self._waiting[sequence.seq_id] = sequence

    def forget_waiting(self, seq_id: int) -> bool:
        """Take it out of the queue; False if it is not there."""
        return self._waiting.pop(seq_id, None) is not None

    def next(self) -> Sequence | None:
        """The oldest that waits, if it may run now, taken out of the queue."""
        if not self._waiting or (self._is_held and self.running):
            return None
        head = next(iter(self._waiting.values()))
        if not self._fits(head):
            return None
        del self._waiting[head.seq_id]
        return head

    def _fits(self, sequence: Sequence) -> bool:
        if len(self.running) >= self._limits.max_running:
            return False
        budget = self._limits.max_budget_tokens
        if self.num_reserved_tokens + sequence.num_reserved <= budget:
            return True
        if not self._limits.is_optimistic:
            return False
        return sum(map(self._claim, self.running.values())) + self._claim(sequence) <= budget

    def _claim(self, sequence: Sequence) -> float:
        """Tokens that it takes of the budget, by a forecast."""
        expected = self.forecast.remaining(len(sequence.generated_ids), sequence.max_new_tokens)
        doubt = self._caution * (sequence.num_remaining - expected)
        return sequence.num_tokens + expected + doubt

    def start(self, sequence: Sequence) -> None:
        self.running[sequence.seq_id] = sequence
        self.num_reserved_tokens += sequence.num_reserved

    def end(self, sequence: Sequence) -> None:
        """A running sequence is gone for good."""
        self._stop(sequence)
        self._is_held = False
        self._caution = max(0.0, self._caution - LESS_CAUTION)
        if sequence.max_new_tokens:
            self.forecast.learn(
                len(sequence.generated_ids),
                is_cut=not sequence.num_remaining,
                still_open=[len(one.generated_ids) for one in self.running.values()],
            )

    def requeue(self, sequence: Sequence) -> None:
        """A running sequence is preempted: back into the queue, by age."""
        self._stop(sequence)
        self._is_held = True
        self._caution = min(1.0, self._caution + MORE_CAUTION)
        self._waiting[sequence.seq_id] = sequence
        by_age = sorted(self._waiting.values(), key=lambda one: one.num_arrival)
        self._waiting = OrderedDict((one.seq_id, one) for one in by_age)

    def _stop(self, sequence: Sequence) -> None:
        del self.running[sequence.seq_id]
        self.num_reserved_tokens -= sequence.num_reserved

    def youngest(self) -> Sequence:
        """Of the running ones: whose work is the least loss."""
        return max(self.running.values(), key=lambda one: one.num_arrival)

    def surplus(self) -> Sequence | None:
        """Who gives way, where the next step could take all beyond the budget. Never a lone one."""
        budget = self._limits.max_budget_tokens
        if self.num_reserved_tokens <= budget or self.num_present_tokens <= budget:
            return None
        return self.youngest()

    @property
    def num_present_tokens(self) -> int:
        """Of the running ones, with those that the next step may sample."""
        return sum(one.num_tokens + (one.num_remaining > 0) for one in self.running.values())

    @property
    def num_tokens_ahead(self) -> int:
        """Tokens to compute, at most, until all that run or wait have ended."""
        everyone = (*self.running.values(), *self._waiting.values())
        return sum(sequence.num_reserved - sequence.num_computed for sequence in everyone)

    def check_integrity(self) -> None:
        """Raises AssertionError where queue and budget disagree: a bug of ours."""
        reserved = sum(sequence.num_reserved for sequence in self.running.values())
        assert reserved == self.num_reserved_tokens, "budget leaks"
        present = sum(sequence.num_tokens for sequence in self.running.values())
        most = present if self._limits.is_optimistic else reserved
        assert most <= self._limits.max_budget_tokens, "the budget is exceeded"
        assert not self.running.keys() & self._waiting.keys(), "a sequence waits and runs"
        assert all(sequence.slot is None for sequence in self._waiting.values())
        arrivals = [sequence.num_arrival for sequence in self._waiting.values()]
        assert arrivals == sorted(arrivals), "the queue is out of order"
