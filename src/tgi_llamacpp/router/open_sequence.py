"""One generation as the router remembers it, from Submit to its end.

Knows no socket and no text. router/engine_client.py fills it, router/resubmission.py decides when
the engine has it, router/generation.py keeps it for its request.
"""

from __future__ import annotations

from array import array

from tgi_llamacpp.messages import SamplingParams, Submit
from tgi_llamacpp.router.blame import CrashRecord
from tgi_llamacpp.router.mailbox import Mailbox
from tgi_llamacpp.router.prompt_scores import PromptScores


class OpenSequence:
    """One generation between Submit and its end, with all that is needed to submit it again."""

    __slots__ = (
        "admitted_s",
        "choice",
        "crashes",
        "generated_ids",
        "ignore_eog",
        "is_submitted",
        "mailbox",
        "max_new_tokens",
        "more_follow",
        "num_arrival",
        "num_cached_tokens",
        "params",
        "prompt_ids",
        "scope",
        "scores",
        "seq_id",
        "takes_prefix",
    )

    def __init__(
        self,
        seq_id: int,
        mailbox: Mailbox,
        choice: int,
        prompt_ids: bytes,
        max_new_tokens: int,
        params: SamplingParams,
        ignore_eog: bool,
        scope: int = 0,
    ) -> None:
        self.seq_id = seq_id
        self.mailbox = mailbox
        self.choice = choice
        self.prompt_ids = prompt_ids
        self.generated_ids = array("i")
        self.max_new_tokens = max_new_tokens
        self.params = params
        self.ignore_eog = ignore_eog
        self.scope = scope  # prefixes are shared among sequences of one scope
        self.admitted_s: float | None = None  # time.perf_counter() when it first left the queue
        self.num_cached_tokens = 0  # of the prompt, which the engine had computed before
        self.num_arrival = seq_id  # which stays, while each engine may know it by another id
        self.is_submitted = False  # to the engine that runs now
        self.crashes = CrashRecord()
        self.takes_prefix = True  # from sequences of its scope
        self.more_follow = False  # when it is submitted first, others are about to be
        self.scores: PromptScores | None = None  # where the prompt's log-probabilities are wanted

    def to_submit(self) -> Submit:
        """The frame that starts this sequence, or resumes it where it stands."""
        return Submit(
            self.seq_id,
            self.prompt_ids,
            self.generated_ids.tobytes(),
            self.max_new_tokens,
            self.params,
            self.ignore_eog,
            self.scope,
            prompt_logprobs=self.scores is not None,
            num_scored=self.scores.num_scored if self.scores is not None else 0,
            more_follow=self.more_follow,
            takes_prefix=self.takes_prefix,
        )
