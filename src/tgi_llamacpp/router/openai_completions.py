"""`/v1/completions`: prompts in, one text for each of them and each choice out.

Owns the completion route's own checks, echo, the legacy log-probabilities and its chunks. The rest
of the order is router/openai.py's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from tgi_llamacpp.errors import TgiError, ValidationError
from tgi_llamacpp.router import render_openai, render_tgi
from tgi_llamacpp.router.aliases import wanted_length
from tgi_llamacpp.router.echo import NO_ECHO, Echo, make_echo
from tgi_llamacpp.router.exchange import Exchange
from tgi_llamacpp.router.fields_refused import REFUSED_IN_COMPLETIONS
from tgi_llamacpp.router.generation import FinishReason, Generation, TokenEvent, mean_logprob
from tgi_llamacpp.router.openai import (
    check_supported,
    collect,
    model_name,
    plan_choices,
    stream_chunks,
    to_parameters,
    to_rules,
)
from tgi_llamacpp.router.schemas_openai import COMPLETION, CompletionRequest
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.sse import event as sse_event
from tgi_llamacpp.router.validation import ValidRequest, validate

MAX_LOGPROBS = 5


class SuffixNotSupported(TgiError):
    """TGI's own error for this field."""

    error_type = "suffix not supported"
    http_status = 422


class BatchSizeExceeded(TgiError):
    """TGI's own error for too many prompts."""

    error_type = "batch size exceeded"
    http_status = 422


async def completions(exchange: Exchange) -> None:
    """POST /v1/completions"""
    await answer_completion(exchange, await exchange.read(COMPLETION))


async def answer_completion(exchange: Exchange, request: CompletionRequest) -> None:
    """Generate for every prompt, and answer whole or in chunks."""
    services = exchange.services
    for _ in request.prompt:
        services.metrics.count_request()
    num_choices = _check(request, services)
    await exchange.while_connected(_run(exchange, request, num_choices))


async def _run(exchange: Exchange, request: CompletionRequest, num_choices: int) -> None:
    services = exchange.services
    num_drawn = num_choices if request.best_of is None else request.best_of
    with services.permits.hold(num_drawn * len(request.prompt)):
        prompts = await _validate(request, services)
        plans = [plan for valid in prompts for plan in plan_choices(valid, num_drawn)]
        texts = [_prompt_text(prompt, services) for prompt in request.prompt]
        headers = render_tgi.compute_headers(
            services.config.compute_type, sum(len(text) for text in texts)
        )
        echoes = await _echoes(request, prompts, texts, services)
        echoed = [echo for echo in echoes for _ in range(num_choices)]
        with exchange.generate(plans, keep_stop=False) as generation:
            if request.stream:
                fold = _CompletionFold(services, request, generation, echoed)
                await stream_chunks(exchange, generation, fold, headers)
                return
            events = _best(await collect(generation), num_drawn, num_choices)
    exchange.report_success(generation.sequences)
    scores = [generation.sequences[start].scores for start in range(0, len(plans), num_drawn)]
    for echo, of_prompt in zip(echoes, scores, strict=False):
        echo.scores = of_prompt
    await _respond(exchange, request, generation, events, echoed, headers)


def _best(
    drawn: list[list[TokenEvent]], num_drawn: int, num_choices: int
) -> list[list[TokenEvent]]:
    """Of each prompt's candidates the likeliest, best first; all, as drawn, where all are wanted.

    Likeliest is by the mean log-probability of a token, as OpenAI has it.
    """
    if num_drawn == num_choices:
        return drawn
    kept: list[list[TokenEvent]] = []
    for start in range(0, len(drawn), num_drawn):
        candidates = drawn[start : start + num_drawn]
        kept += sorted(candidates, key=mean_logprob, reverse=True)[:num_choices]
    return kept


async def _validate(request: CompletionRequest, services: Services) -> list[ValidRequest]:
    length_field, max_tokens = wanted_length(request, may_be_0=request.echo)
    parameters = to_parameters(request, max_tokens, request.logprobs or 0)
    parameters.decoder_input_details = request.echo and request.logprobs is not None
    rules = await to_rules(
        request,
        services,
        max_top_tokens=MAX_LOGPROBS,
        add_special_tokens=True,
        prompt_field="prompt",
        length_field=length_field,
    )
    return [await validate(services, prompt, parameters, rules) for prompt in request.prompt]


async def _echoes(
    request: CompletionRequest, prompts: list[ValidRequest], texts: list[str], services: Services
) -> list[Echo]:
    """One for each prompt; none where they are not wanted."""
    if not request.echo:
        return []
    return [
        await make_echo(services.text, prompt, text, valid.prompt_ids, valid.prompt_logprobs)
        for prompt, text, valid in zip(request.prompt, texts, prompts, strict=True)
    ]


def _prompt_text(prompt: str | list[int], services: Services) -> str:
    return prompt if isinstance(prompt, str) else services.text.detokenizer.decode(prompt)


def _check(request: CompletionRequest, services: Services) -> int:
    if request.suffix is not None:
        raise SuffixNotSupported(
            "Suffix is not supported and can be achieved by preprocessing the prompt."
        )
    limit = services.config.limits.max_client_batch_size
    if len(request.prompt) > limit:
        raise BatchSizeExceeded(
            f"Number of prompts exceeds the maximum allowed batch size of {limit}"
        )
    _check_logprobs(request)
    num_choices = check_supported(request, services, REFUSED_IN_COMPLETIONS)
    max_sequences = services.config.limits.max_concurrent_requests
    _check_best_of(request, num_choices, max_sequences)
    num_sequences = len(request.prompt) * (request.best_of or num_choices)
    if num_sequences > max_sequences:
        raise ValidationError(
            f"`prompt` must ask for at most {max_sequences} sequences at once, which is the number"
            f" of prompts times `best_of` or `n`. Given: {num_sequences}"
        )
    return num_choices


def _check_logprobs(request: CompletionRequest) -> None:
    if request.n_probs and request.n_probs != request.logprobs:
        raise ValidationError(
            "`n_probs` and `logprobs` are two names of one setting and must not differ."
            f" Given: {request.n_probs} and {request.logprobs}: send one of them"
        )
    name = "n_probs" if request.n_probs else "logprobs"
    if (request.logprobs or 0) > MAX_LOGPROBS:
        raise ValidationError(
            f"`{name}` must be >= 0 and <= {MAX_LOGPROBS}. Given: {request.logprobs}"
        )


def _check_best_of(request: CompletionRequest, num_choices: int, limit: int) -> None:
    if request.best_of is None:
        return
    if not num_choices <= request.best_of <= limit:
        raise ValidationError(
            f"`best_of` must be >= `n` ({num_choices}) and <= {limit}. Given: {request.best_of}"
        )
    if request.stream and request.best_of != num_choices:
        raise ValidationError(
            f"`best_of` ({request.best_of}) other than `n` ({num_choices}) cannot be streamed:"
            " the best is known at the end"
        )


async def _respond(
    exchange: Exchange,
    request: CompletionRequest,
    generation: Generation,
    events: list[list[TokenEvent]],
    echoed: list[Echo],
    headers: list[render_tgi.Header],
) -> None:
    services = exchange.services
    head = render_openai.Head("text_completion", "cmpl-", model_name(request, services))

    def render() -> str:
        choices = (
            _choice(request, services, index, of_choice, echoed[index] if echoed else NO_ECHO)
            for index, of_choice in enumerate(events)
        )
        return head.whole(choices, render_openai.usage(generation))

    # The log-probabilities of a long prompt are megabytes, so not on the event loop.
    is_long = any(echo.scores is not None for echo in echoed)
    body = await services.text.pool.run(render) if is_long else render()
    await exchange.respond(body.encode(), headers=[*headers, *_time_headers(exchange, generation)])


def _time_headers(exchange: Exchange, generation: Generation) -> list[render_tgi.Header]:
    """Sums over the sequences, without x-compute-time, as TGI has it on this route."""
    sums: dict[bytes, int] = {}
    for sequence in generation.sequences:
        times = sequence.times(exchange.started_s)
        num_prompt = sequence.plan.request.num_prompt
        for name, value in render_tgi.time_headers(times, num_prompt, sequence.text.num_tokens):
            if name != b"x-compute-time":
                sums[name] = sums.get(name, 0) + int(value)
    return [(name, b"%d" % value) for name, value in sums.items()]


def _choice(
    request: CompletionRequest,
    services: Services,
    index: int,
    events: list[TokenEvent],
    echo: Echo,
) -> str:
    """One choice of a whole answer."""
    text = echo.text + "".join(event.visible for event in events)
    generated = render_openai.generated_logprobs(events, len(echo.text))
    logprobs = _logprobs(request, services, itertools.chain(echo.logprobs(), generated))
    finish = events[-1].finish if events else FinishReason.LENGTH
    return render_openai.text_choice(index, text, logprobs, finish)


def _logprobs(
    request: CompletionRequest, services: Services, entries: Iterable[render_openai.TextLogprob]
) -> str:
    if request.logprobs is None:
        return "null"
    return render_openai.text_logprobs(entries, services.text.detokenizer, request.logprobs)


class _CompletionFold:
    """The chunks of completions: echoes first, then text with its end, then usage."""

    def __init__(
        self,
        services: Services,
        request: CompletionRequest,
        generation: Generation,
        echoed: list[Echo],
    ) -> None:
        self._services = services
        self._request = request
        self._generation = generation
        self._echoed = echoed
        self._held: list[TokenEvent] = []
        self._is_begun = False
        self._offsets = [len(echo.text) for echo in echoed] or [0] * len(generation.sequences)
        self._head = render_openai.Head("text_completion", "cmpl-", model_name(request, services))

    @property
    def is_slow(self) -> bool:
        """Log-probabilities of prompts are still to be written: megabytes, for long ones."""
        if self._is_begun:
            return False
        return any(sequence.scores is not None for sequence in self._generation.sequences)

    def first(self) -> str:
        """The echoes, unless their log-probabilities are still to come."""
        scores = [sequence.scores for sequence in self._generation.sequences]
        if not all(one is None or one.is_complete for one in scores):
            return ""
        self._is_begun = True
        for echo, of_prompt in zip(self._echoed, scores, strict=False):
            echo.scores = of_prompt
        return "".join(
            self._head.chunk(self._echo_choice(index, echo))
            for index, echo in enumerate(self._echoed)
        )

    def _echo_choice(self, index: int, echo: Echo) -> str:
        logprobs = "null"
        if echo.scores is not None:
            logprobs = _logprobs(self._request, self._services, echo.logprobs())
        is_all = wanted_length(self._request, may_be_0=True)[1] == 0
        finish = FinishReason.LENGTH if is_all else None
        return render_openai.text_choice(index, echo.text, logprobs, finish)

    def render(self, event: TokenEvent) -> str:
        """What a token adds; choices whose prompt is still scored keep the others waiting."""
        if self._is_begun:
            return self._render_one(event)
        self._held.append(event)
        return self._begin()

    def _begin(self) -> str:
        """The echoes and what was held for them, once they can be written."""
        head = self.first()
        if not self._is_begun:
            return ""
        held, self._held = self._held, []
        return head + "".join(map(self._render_one, held))

    def _render_one(self, event: TokenEvent) -> str:
        logprobs = "null"
        if self._request.logprobs is not None:
            logprobs = self._token_logprobs(event)
        elif not event.visible and event.finish is None:
            return ""
        choice = render_openai.text_choice(event.choice, event.visible, logprobs, event.finish)
        return self._head.chunk(choice)

    def _token_logprobs(self, event: TokenEvent) -> str:
        offset = self._offsets[event.choice]
        self._offsets[event.choice] += event.num_characters
        generated = render_openai.generated_logprobs([event], offset)
        return _logprobs(self._request, self._services, generated)

    def last(self) -> str:
        head = "" if self._is_begun else self.first()  # no token came: none was asked for
        if not self._request.include_usage:
            return head
        return head + sse_event(self._head.whole((), render_openai.usage(self._generation)))
