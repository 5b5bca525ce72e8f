"""The log-probabilities of prompts on their way out: from the rows of a step to messages.

Keeps how far each sequence is scored, so that one that was preempted or resumed reports nothing
twice. Knows no queue and no socket; the scheduler calls it, and the loop sends what it gives.
"""

from __future__ import annotations

from tgi_llamacpp.engine.planner import Batch
from tgi_llamacpp.engine.runner import Scores
from tgi_llamacpp.engine.sequence import Sequence
from tgi_llamacpp.messages import Finish, PromptLogprobs


class PromptScores:
    """Messages that wait to be taken, in the order of their rows."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._messages: list[PromptLogprobs] = []

    def add(self, batch: Batch, scores: Scores) -> list[Sequence]:
        """Take the scores of a step before its rows count as computed.

        Returns the sequences that may produce nothing, and so have ended.
        """
        ended: list[Sequence] = []
        start = 0
        for sequence, num_rows in batch.segments:
            if count := len(sequence.positions_to_score(num_rows)):
                self._add_one(sequence, scores, slice(start, start + count))
                start += count
                if sequence.is_over:
                    ended.append(sequence)
        assert start == len(scores.logprobs), "rows were scored that nobody asked for"
        return ended

    def end(self, sequence: Sequence) -> None:
        """End a sequence that is over before it ran: it may produce nothing and scores nothing."""
        start = 1 + sequence.num_scored
        message = PromptLogprobs(self._epoch, sequence.seq_id, start, b"", finish=Finish.LENGTH)
        self._messages.append(message)

    def take(self) -> list[PromptLogprobs]:
        """All messages since the last call."""
        messages, self._messages = self._messages, []
        return messages

    def _add_one(self, sequence: Sequence, scores: Scores, rows: slice) -> None:
        num_top = sequence.params.num_top_tokens
        start = 1 + sequence.num_scored
        sequence.num_scored += rows.stop - rows.start
        self._messages.append(
            PromptLogprobs(
                self._epoch,
                sequence.seq_id,
                start,
                scores.logprobs[rows].tobytes(),
                scores.top_ids[rows, :num_top].tobytes(),
                scores.top_logprobs[rows, :num_top].tobytes(),
                Finish.LENGTH if sequence.is_over else Finish.NONE,
            )
        )
