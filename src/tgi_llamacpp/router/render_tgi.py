"""TGI's answers as text, key by key in TGI's order.

Pure functions from events and finished sequences to JSON. Called by router/tgi.py for every token,
so the streamed event is put together by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.generation import (
    FinishReason,
    RunningSequence,
    TokenEvent,
    mean_logprob,
)
from tgi_llamacpp.router.json_format import dumps, float32, plain_float, quote
from tgi_llamacpp.router.mailbox import Alternatives
from tgi_llamacpp.router.metrics import RequestTimes
from tgi_llamacpp.router.prompt_scores import PromptScores
from tgi_llamacpp.router.tokenizer import TokenSpan

Header = tuple[bytes, bytes]


def token(token_id: int, text: str, logprob: float, is_special: bool) -> str:
    """One token as every TGI answer shows it."""
    special = "true" if is_special else "false"
    return (
        f'{{"id":{token_id},"text":{quote(text)},"logprob":{float32(logprob)},"special":{special}}}'
    )


def token_spans(spans: Sequence[TokenSpan]) -> str:
    """The tokens of a text with their places in it, as /tokenize shows them."""
    parts = (
        f'{{"id":{span.id},"text":{quote(span.text)},"start":{span.start},"stop":{span.stop}}}'
        for span in spans
    )
    return f"[{','.join(parts)}]"


def event_token(event: TokenEvent) -> str:
    """The token of an event, with the text it adds; a special token has its own text."""
    text = event.text if event.is_special else event.visible
    return token(event.id, text, event.logprob, event.is_special)


def alternative_tokens(alternatives: Alternatives, detokenizer: Detokenizer) -> str:
    """`top_tokens` of one position."""
    parts = (
        token(i, detokenizer.token_text(i), logprob, detokenizer.is_special(i))
        for i, logprob in alternatives
    )
    return f"[{','.join(parts)}]"


def prefill_tokens(scores: PromptScores | None, detokenizer: Detokenizer) -> str:
    """`prefill`: the prompt's tokens where they were asked for, else none."""
    if scores is None:
        return "[]"
    parts = (
        f'{{"id":{token.id},"text":{quote(detokenizer.token_text(token.id))},'
        f'"logprob":{float32(token.logprob)}}}'
        for token in scores.tokens()
    )
    return f"[{','.join(parts)}]"


def stream_event(
    index: int, event: TokenEvent, detokenizer: Detokenizer, generated_text: str, details: str
) -> str:
    """One event of a stream; the last two are JSON, `null` before the end."""
    tops = ""
    if event.alternatives:
        tops = f'"top_tokens":{alternative_tokens(event.alternatives, detokenizer)},'
    return (
        f'{{"index":{index},"token":{event_token(event)},{tops}'
        f'"generated_text":{generated_text},"details":{details}}}'
    )


def stream_details(sequence: RunningSequence) -> str:
    """`details` of the last event."""
    return dumps({**_outcome(sequence), "input_length": sequence.plan.request.num_prompt})


class FinishedSequence:
    """One generated sequence with its events, for the answers that show it whole."""

    def __init__(self, sequence: RunningSequence, events: Sequence[TokenEvent]) -> None:
        self.sequence = sequence
        self.text = "".join(event.visible for event in events)
        self._events = [event for event in events if event.is_token]

    @property
    def mean_logprob(self) -> float:
        return mean_logprob(self._events)

    def details(self, detokenizer: Detokenizer, others: Sequence[FinishedSequence]) -> str:
        """The `details` object; `others` are the candidates that lost, with their full texts."""
        best_of = ",".join(other.as_candidate(detokenizer) for other in others)
        best_of_part = f',"best_of_sequences":[{best_of}]' if others else ""
        return f"{{{self._body(detokenizer, best_of_part)}}}"

    def as_candidate(self, detokenizer: Detokenizer) -> str:
        """One item of `best_of_sequences`."""
        return f'{{"generated_text":{quote(self.text)},{self._body(detokenizer, "")}}}'

    def _body(self, detokenizer: Detokenizer, best_of_part: str) -> str:
        outcome = dumps(_outcome(self.sequence))[1:-1]
        tokens = ",".join(map(event_token, self._events))
        tops = ""
        if any(event.alternatives for event in self._events):
            rows = (alternative_tokens(e.alternatives or [], detokenizer) for e in self._events)
            tops = f',"top_tokens":[{",".join(rows)}]'
        prefill = prefill_tokens(self.sequence.scores, detokenizer)
        return f'{outcome},"prefill":{prefill},"tokens":[{tokens}]{best_of_part}{tops}'


def generate_response(text: str, details: str | None) -> str:
    """The answer of `/generate`."""
    tail = "" if details is None else f',"details":{details}'
    return f'{{"generated_text":{quote(text)}{tail}}}'


def compute_headers(compute_type: str, num_characters: int) -> list[Header]:
    """The two headers that every generating route sends."""
    return [
        (b"x-compute-type", compute_type.encode("latin-1", "replace")),
        (b"x-compute-characters", b"%d" % num_characters),
    ]


def time_headers(times: RequestTimes, num_prompt: int, num_generated: int) -> list[Header]:
    """The timing headers of a whole answer: milliseconds, cut off."""

    def ms(seconds: float) -> bytes:
        return b"%d" % int(seconds * 1000)

    return [
        (b"x-compute-time", plain_float(times.total_s).encode()),
        (b"x-total-time", ms(times.total_s)),
        (b"x-validation-time", ms(times.validation_s)),
        (b"x-queue-time", ms(times.queue_s)),
        (b"x-inference-time", ms(times.inference_s)),
        (b"x-time-per-token", ms(times.time_per_token_s)),
        (b"x-prompt-tokens", b"%d" % num_prompt),
        (b"x-generated-tokens", b"%d" % num_generated),
    ]


def _outcome(sequence: RunningSequence) -> dict[str, object]:
    finish: FinishReason | None = sequence.text.finish
    assert finish is not None
    return {
        "finish_reason": finish.value,
        "generated_tokens": sequence.text.num_tokens,
        "seed": sequence.reported_seed,
    }
