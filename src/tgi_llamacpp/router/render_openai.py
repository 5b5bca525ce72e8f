"""OpenAI's answers as text: chat completions, completions, their chunks, and errors.

Keys come in TGI's order, values follow OpenAI. Chunks are put together by hand, because there is
one for every token. Called by router/openai_chat.py and router/openai_completions.py.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tgi_llamacpp import __version__
from tgi_llamacpp.errors import BodyError, LengthError, TgiError
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.generation import FinishReason, Generation, TokenEvent
from tgi_llamacpp.router.json_format import dumps, float32, quote
from tgi_llamacpp.router.mailbox import Alternatives
from tgi_llamacpp.router.sse import event as sse_event
from tgi_llamacpp.router.token_names import chat_name, completion_names

SYSTEM_FINGERPRINT = f"{__version__}-native"
_FINISH = {FinishReason.LENGTH: "length", FinishReason.EOS: "stop", FinishReason.STOP: "stop"}
_NAMED = re.compile(r"(?:Input validation error: |[^:]*: )?`(\w+)`")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {"overloaded": "rate_limit_exceeded", "authentication": "invalid_api_key"}


class Head:
    """What an answer and each of its chunks begin with: kind, id, time and model."""

    def __init__(self, kind: str, id_prefix: str, model: str) -> None:
        self.text = (
            f'"object":{quote(kind)},"id":"{id_prefix}{secrets.token_hex(12)}",'
            f'"created":{int(time.time())},"model":{quote(model)},'
            f'"system_fingerprint":{quote(SYSTEM_FINGERPRINT)}'
        )

    def whole(self, choices: Iterable[str], usage: str) -> str:
        """The answer, or the last chunk: choices and usage."""
        return f'{{{self.text},"choices":[{",".join(choices)}],"usage":{usage}}}'

    def chunk(self, choice: str) -> str:
        """The event of a chunk on the way. Usage is null, as OpenAI has it; TGI leaves it out."""
        return sse_event(f'{{{self.text},"choices":[{choice}],"usage":null}}')


def usage(generation: Generation) -> str:
    """The token counts so far. A prompt is counted once, whatever the number of its choices."""
    num_prompt, num_generated = generation.num_prompt_tokens, generation.num_generated_tokens
    return (
        f'{{"prompt_tokens":{num_prompt},"completion_tokens":{num_generated},'
        f'"total_tokens":{num_prompt + num_generated},'
        f'"prompt_tokens_details":{{"cached_tokens":{generation.num_cached_tokens}}}}}'
    )


def finish_reason(finish: FinishReason | None) -> str:
    """OpenAI's word for it, as JSON."""
    return "null" if finish is None else f'"{_FINISH[finish]}"'


def chat_choice(index: int, content: str, logprobs: str, finish: FinishReason | None) -> str:
    """One choice of a whole chat answer."""
    return (
        f'{{"index":{index},"message":{{"role":"assistant","content":{quote(content)}}},'
        f'"logprobs":{logprobs},"finish_reason":{finish_reason(finish)}}}'
    )


def chat_delta(
    index: int, delta: str, logprobs: str = "null", finish: FinishReason | None = None
) -> str:
    """One choice of a chat chunk; `delta` is JSON."""
    return (
        f'{{"index":{index},"delta":{delta},'
        f'"logprobs":{logprobs},"finish_reason":{finish_reason(finish)}}}'
    )


def text_choice(index: int, text: str, logprobs: str, finish: FinishReason | None) -> str:
    """One choice of a completion, whole or a chunk."""
    return (
        f'{{"index":{index},"text":{quote(text)},'
        f'"logprobs":{logprobs},"finish_reason":{finish_reason(finish)}}}'
    )


def chat_logprobs(events: Iterable[TokenEvent], detokenizer: Detokenizer, num_top: int) -> str:
    """`logprobs` of a chat choice: one item a token, with `num_top` alternatives."""
    items = (_chat_logprob(event, detokenizer, num_top) for event in events if event.is_token)
    return f'{{"content":[{",".join(items)}],"refusal":null}}'


def _chat_logprob(event: TokenEvent, detokenizer: Detokenizer, num_top: int) -> str:
    tops = (
        f"{{{_token_logprob(token_id, logprob, detokenizer)}}}"
        for token_id, logprob in (event.alternatives or [])[:num_top]
    )
    own = _token_logprob(event.id, event.logprob, detokenizer)
    return f'{{{own},"top_logprobs":[{",".join(tops)}]}}'


def _token_logprob(token_id: int, logprob: float, detokenizer: Detokenizer) -> str:
    text, data = chat_name(token_id, detokenizer), detokenizer.token_bytes(token_id)
    numbers = "null" if data is None else f"[{','.join(map(str, data))}]"
    return f'"token":{quote(text)},"logprob":{float32(logprob)},"bytes":{numbers}'


class TextLogprob(NamedTuple):
    """A token of a completion. `alternatives` None: nothing is known of the first of a prompt."""

    id: int
    logprob: float
    alternatives: Alternatives | None
    offset: int  # in the choice's text, in characters


def generated_logprobs(events: Iterable[TokenEvent], offset: int) -> Iterator[TextLogprob]:
    """`offset` is the first token's."""
    for event in events:
        if not event.is_token:
            continue
        yield TextLogprob(event.id, event.logprob, event.alternatives or [], offset)
        offset += event.num_characters


def text_logprobs(entries: Iterable[TextLogprob], detokenizer: Detokenizer, num_top: int) -> str:
    """`logprobs` of a completion choice."""
    tokens: list[str] = []
    logprobs: list[str] = []
    tops: list[str] = []
    offsets: list[str] = []
    for entry in entries:
        alternatives = (entry.alternatives or [])[:num_top]
        name, names = completion_names(entry.id, (one for one, _ in alternatives), detokenizer)
        tokens.append(quote(name))
        logprobs.append(float32(entry.logprob))
        is_first = entry.alternatives is None
        tops.append("null" if is_first else _top_map(alternatives, names))
        offsets.append(str(entry.offset))
    return (
        f'{{"tokens":[{",".join(tokens)}],"token_logprobs":[{",".join(logprobs)}],'
        f'"top_logprobs":[{",".join(tops)}],"text_offset":[{",".join(offsets)}]}}'
    )


def _top_map(alternatives: Alternatives, names: dict[int, str]) -> str:
    members = (f"{quote(names[one])}:{float32(logprob)}" for one, logprob in alternatives)
    return f"{{{','.join(members)}}}"


def error_text(error: TgiError) -> str:
    """OpenAI's error object, with TGI's error_type beside it."""
    status = error.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 424 else "server_error")
    details = {
        "message": error.message,
        "type": kind,
        "param": _param(error),
        "code": _code(error),
    }
    return dumps({"error": details, "error_type": error.error_type})


def _param(error: TgiError) -> str | None:
    if error.param is not None:
        return error.param
    named = _NAMED.match(error.message) if _names_a_field(error) else None
    return None if named is None else named[1]


def _names_a_field(error: TgiError) -> bool:
    return error.http_status == 422 and not isinstance(error, BodyError)


def _code(error: TgiError) -> str:
    if isinstance(error, LengthError):
        return "context_length_exceeded"
    return _CODES.get(error.error_type, error.error_type)
