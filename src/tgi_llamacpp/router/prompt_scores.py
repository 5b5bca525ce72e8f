"""The log-probabilities of one prompt, as they arrive from the engine and as answers show them.

Owns the columns of a sequence's PromptLogprobs and the tokens that they belong to. Knows no wire
format: router/render_tgi.py and router/render_openai.py do. Filled by router/engine_client.py.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from tgi_llamacpp.messages import PromptLogprobs
from tgi_llamacpp.router.mailbox import Alternatives


class ScoredToken(NamedTuple):
    """One token of a prompt. Of the first nothing is known: NaN, and no alternatives at all."""

    id: int
    logprob: float
    alternatives: Alternatives | None


class PromptScores:
    """All of them once `is_complete`; 4 bytes a token, and 8 for each alternative."""

    def __init__(self, prompt_ids: bytes, num_top: int) -> None:
        """prompt_ids: int32[num_prompt]."""
        self._ids = memoryview(prompt_ids).cast("i")
        self._num_top = num_top
        self._logprobs = array("f")
        self._top_ids = array("i")
        self._top_logprobs = array("f")

    @property
    def num_scored(self) -> int:
        """Tokens after the first whose log-probability is there."""
        return len(self._logprobs)

    @property
    def is_complete(self) -> bool:
        return self.num_scored == len(self._ids) - 1

    def add(self, message: PromptLogprobs) -> None:
        """Take the next tokens."""
        assert message.start == 1 + self.num_scored, "log-probabilities come in order"
        self._logprobs.frombytes(message.logprobs)
        self._top_ids.frombytes(message.top_ids)
        self._top_logprobs.frombytes(message.top_logprobs)

    def tokens(self) -> Iterator[ScoredToken]:
        """Every token of the prompt, in order."""
        yield ScoredToken(self._ids[0], math.nan, None)
        for index, logprob in enumerate(self._logprobs):
            tops = slice(index * self._num_top, (index + 1) * self._num_top)
            pairs = zip(self._top_ids[tops], self._top_logprobs[tops], strict=True)
            yield ScoredToken(self._ids[index + 1], logprob, list(pairs))
