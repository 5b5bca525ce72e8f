"""One sequence: its ids, its counters, and where it is between queue and finish.

Knows no queue, no budget and no runner; the scheduler owns every instance. Positions are half-open:
the slot's cells hold ids [0, num_computed) of prompt + output.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tgi_llamacpp.engine.runner import Int32s
from tgi_llamacpp.messages import Finish, SamplingParams


class Status(enum.Enum):
    """Where a sequence is. Finished ones are forgotten, so there is no status for them."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"


@dataclass(slots=True, eq=False)
class Sequence:
    """One generation. `generated_ids` is not empty at the start when it is resumed.

    `num_arrival` orders sequences by the moment they came; a preempted one keeps its number.
    """

    seq_id: int
    prompt_ids: Int32s
    generated_ids: array[int]  # "i": 4 bytes a token
    max_new_tokens: int
    params: SamplingParams
    ignore_eog: bool
    num_arrival: int
    submitted_s: float
    scope: int = 0  # prefixes are shared within it alone
    wants_prompt_logprobs: bool = False  # so its prompt is computed here, whoever had it before
    takes_prefix: bool = True  # of what others have computed
    num_scored: int = 0  # log-probabilities reported: of the prompt ids [1, 1 + num_scored)

    slot: int | None = None
    num_computed: int = 0
    is_following: bool = False  # waits for another to compute what both begin with
    is_aside: bool = False  # and waits, as its prompt is computed aside
    num_preempted: int = 0
    admitted_s: float = 0.0
    num_tokens: int = field(init=False)  # prompt and output so far
    num_reserved: int = field(init=False)  # of the budget: the most it can come to
    last_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_tokens = len(self.prompt_ids) + len(self.generated_ids)
        self.num_reserved = len(self.prompt_ids) + self.max_new_tokens
        self.last_id = self.generated_ids[-1] if self.generated_ids else int(self.prompt_ids[-1])

    @property
    def status(self) -> Status:
        if self.slot is None:
            return Status.WAITING
        return Status.PREFILLING if self.num_to_prefill else Status.DECODING

    @property
    def num_to_prefill(self) -> int:
        """Ids to compute before the last one, which is the row that gets sampled."""
        return self.num_tokens - 1 - self.num_computed

    @property
    def num_remaining(self) -> int:
        """Tokens it may still produce; at least one while it lives, if it may produce any."""
        return self.max_new_tokens - len(self.generated_ids)

    @property
    def num_to_score(self) -> int:
        """Prompt ids whose log-probabilities are wanted and not reported yet."""
        if not self.wants_prompt_logprobs:
            return 0
        return len(self.prompt_ids) - 1 - self.num_scored

    @property
    def is_over(self) -> bool:
        """It may produce nothing, and nothing of its prompt is wanted."""
        return not self.max_new_tokens and not self.num_to_score

    def positions_to_score(self, num_rows: int) -> range:
        """Of its next num_rows rows, those with the log-probability of the id that follows."""
        if not self.wants_prompt_logprobs:
            return range(0)
        start = max(self.num_computed, self.num_scored)
        return range(start, min(self.num_computed + num_rows, len(self.prompt_ids) - 1))

    def ids(self, start: int, stop: int) -> list[int]:
        """Ids [start, stop) of prompt + output."""
        num_prompt = len(self.prompt_ids)
        if stop <= num_prompt:
            return self.prompt_ids[start:stop].tolist()  # type: ignore[no-any-return]
        head = self.prompt_ids[start:num_prompt].tolist()
        tail = self.generated_ids[max(start - num_prompt, 0) : stop - num_prompt]
        return [*head, *tail]

    def output_ids(self) -> Int32s:
        """A copy of the ids produced so far."""
        return np.array(self.generated_ids, dtype=np.int32)

    def sampling(self, eog_ids: frozenset[int]) -> SamplingParams:
        """The parameters of its next token, which may be no end until it has its least output."""
        if len(self.generated_ids) >= self.params.min_new_tokens:
            return self.params
        banned = np.array(sorted(eog_ids), np.int32)
        values = np.full(len(banned), -np.inf, np.float32)
        return msgspec.structs.replace(
            self.params,
            bias_ids=self.params.bias_ids + banned.tobytes(),
            bias_values=self.params.bias_values + values.tobytes(),
        )

    def append(self, token_id: int, eog_ids: frozenset[int]) -> Finish:
        """Take a sampled id, and say whether it was the last."""
        self.generated_ids.append(token_id)
        self.num_tokens += 1
        self.last_id = token_id
        if token_id in eog_ids and not self.ignore_eog:
            return Finish.EOG
        if len(self.generated_ids) >= self.max_new_tokens:
            return Finish.LENGTH
        return Finish.NONE
