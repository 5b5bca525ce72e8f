"""What the OpenAI routes have in common: sampling fields, running to the end, streaming, models.

Owns the translation of OpenAI's parameters and the order of a stream: validate, headers, chunks,
usage, [DONE]. What a chunk looks like is the route's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ParamSpec, Protocol

from tgi_llamacpp.errors import TgiError, ValidationError
from tgi_llamacpp.router import sse
from tgi_llamacpp.router.aliases import num_choices, repetition_penalty
from tgi_llamacpp.router.exchange import Exchange
from tgi_llamacpp.router.fields_refused import OF_STREAM_OPTIONS, Refused
from tgi_llamacpp.router.generation import Generation, Planned, TokenEvent
from tgi_llamacpp.router.json_format import dumps
from tgi_llamacpp.router.render_openai import error_text
from tgi_llamacpp.router.render_tgi import Header
from tgi_llamacpp.router.samplers import to_samplers
from tgi_llamacpp.router.schemas_openai import SamplingFields
from tgi_llamacpp.router.schemas_tgi import GenerateParameters
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.validation import RouteRules, ValidRequest

P = ParamSpec("P")


class ModelNotFound(TgiError):
    """No such model here."""

    error_type = "model_not_found"
    http_status = 404


class StreamFold(Protocol):
    """Turns the events of a generation into the chunks of a route."""

    @property
    def is_slow(self) -> bool:
        """Whether the next call may take long, so that others must not wait for it."""
        ...

    def first(self) -> str:
        """Chunks before any token."""
        ...

    def render(self, event: TokenEvent) -> str:
        """Chunks of one token; may be none."""
        ...

    def last(self) -> str:
        """Chunks after the last token, before [DONE]."""
        ...


def check_supported(
    fields: SamplingFields, services: Services, route_refuses: Mapping[str, Refused]
) -> int:
    """Refuse by name what is known and not supported; returns the number of choices.

    Raises:
        ValidationError: the first field that cannot be honoured.
    """
    for name in fields.unsupported[:1]:
        field, _, of_stream = name.partition(".")
        refused = OF_STREAM_OPTIONS[of_stream] if of_stream else route_refuses[field]
        raise ValidationError(f"`{name}` is not supported on this route: {refused.remedy}", field)
    kind = fields.response_format
    if kind is not None and not (isinstance(kind, dict) and kind.get("type") == "text"):
        raise ValidationError("`response_format` is not supported yet, other than of type `text`")
    if fields.modalities is not None and fields.modalities != ["text"]:
        raise ValidationError("`modalities` other than `text` are not supported")
    return num_choices(fields, services.config.limits.max_concurrent_requests)


def to_parameters(
    fields: SamplingFields, max_tokens: int | None, num_top_tokens: int
) -> GenerateParameters:
    """OpenAI's sampling fields as TGI's.

    top_p 1 is "off" here, and 0 keeps the best token; top_k 0 and -1 are "off", as in llama.cpp.
    """
    top_p, top_k = fields.top_p, None if fields.top_k in (0, -1) else fields.top_k
    if top_p == 0.0:
        top_p, top_k = None, 1
    return GenerateParameters(
        do_sample=True,
        temperature=None if fields.temperature == 0 else fields.temperature,
        top_p=None if top_p == 1.0 else top_p,
        top_k=top_k,
        typical_p=None if fields.typical_p == 1.0 else fields.typical_p,
        repetition_penalty=repetition_penalty(fields),
        frequency_penalty=fields.frequency_penalty,
        max_new_tokens=max_tokens,
        stop=fields.stop or [],
        seed=None if fields.seed is None else fields.seed % 2**64,
        top_n_tokens=num_top_tokens,
    )


async def to_rules(
    fields: SamplingFields,
    services: Services,
    *,
    max_top_tokens: int,
    add_special_tokens: bool,
    prompt_field: str,
    length_field: str,
) -> RouteRules:
    """OpenAI's penalties look at the output alone; temperature 0 is greedy.

    Raises:
        ValidationError: a number is out of its range, or logit_bias wrong.
    """
    return RouteRules(
        penalize_prompt=False,
        max_top_tokens=max_top_tokens,
        presence_penalty=fields.presence_penalty or 0.0,
        is_greedy=fields.temperature == 0,
        ignore_eog=fields.ignore_eos,
        add_special_tokens=add_special_tokens,
        prompt_field=prompt_field,
        length_field=length_field,
        has_tgi_words=False,
        min_new_tokens=0,  # the route has looked at it
        min_tokens=fields.min_tokens,
        takes_prefix=fields.cache_prompt,
        samplers=await to_samplers(fields, services),
    )


def model_name(fields: SamplingFields, services: Services) -> str:
    """The model's name in the answer: the client's own, if it gave one."""
    return services.config.model_id if fields.model in (None, "tgi") else fields.model


def plan_choices(valid: ValidRequest, num_choices: int) -> list[Planned]:
    """The choices of one prompt: one seed, and a number of its own for each."""
    return [Planned(valid, valid.seed, choice) for choice in range(num_choices)]


async def collect(generation: Generation) -> list[list[TokenEvent]]:
    """All events of every choice."""
    events: list[list[TokenEvent]] = [[] for _ in generation.sequences]
    while not generation.is_finished:
        for event in await generation.next_events():
            events[event.choice].append(event)
    return events


async def stream_chunks(
    exchange: Exchange, generation: Generation, fold: StreamFold, headers: list[Header]
) -> None:
    """Answer with chunks until [DONE]; an error from here on is an event before it."""
    async with exchange.stream(headers) as stream:
        try:
            await stream.write((await _render(exchange, fold, fold.first)).encode())
            while not generation.is_finished:
                events = await generation.next_events()
                if fold.is_slow:
                    chunks = await _render(exchange, fold, _render_all, fold, events)
                else:  # as for nearly every token, which is spared the coroutine
                    chunks = _render_all(fold, events)
                if chunks:
                    await stream.write(chunks.encode())
            tail = await _render(exchange, fold, fold.last)
            exchange.report_success(generation.sequences)
        except TgiError as error:
            exchange.report_failure(error)
            tail = sse.event(error_text(error))
        await stream.write(tail.encode() + sse.DONE)


async def _render(
    exchange: Exchange,
    fold: StreamFold,
    render: Callable[P, str],
    *args: P.args,
    **kwargs: P.kwargs,
) -> str:
    """What `render` gives; in a worker where that is slow, and not on the event loop."""
    if fold.is_slow:
        return await exchange.services.text.pool.run(render, *args, **kwargs)
    return render(*args, **kwargs)


def _render_all(fold: StreamFold, events: list[TokenEvent]) -> str:
    if len(events) == 1:
        return fold.render(events[0])
    return "".join(map(fold.render, events))


def _model(services: Services) -> dict[str, object]:
    model_id = services.config.model_id
    return {"id": model_id, "object": "model", "created": 0, "owned_by": model_id}


async def models(exchange: Exchange) -> None:
    """GET /v1/models, which clients ask whether there is anything that can answer."""
    exchange.services.engine.check_not_given_up()
    answer = {"object": "list", "data": [_model(exchange.services)]}
    await exchange.respond(dumps(answer).encode())


async def model(exchange: Exchange) -> None:
    """GET /v1/models/{model_id}"""
    exchange.services.engine.check_not_given_up()
    asked = exchange.scope["path_params"]["model_id"]
    if asked != exchange.services.config.model_id:
        raise ModelNotFound(f"The model {dumps(asked)} does not exist")
    await exchange.respond(dumps(_model(exchange.services)).encode())
