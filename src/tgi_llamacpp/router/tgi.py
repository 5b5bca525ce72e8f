"""TGI's own routes: generate, its stream, the compat route, tokenize, info and health.

Owns their order of checks and their folds over a generation. The words of the wire are
router/render_tgi.py's, the rules router/validation.py's.
"""

from __future__ import annotations

from tgi_llamacpp import __version__
from tgi_llamacpp.errors import TgiError, UnhealthyError, ValidationError
from tgi_llamacpp.router import render_tgi
from tgi_llamacpp.router.exchange import Exchange, flat_error
from tgi_llamacpp.router.generation import Generation, Planned, TokenEvent
from tgi_llamacpp.router.json_format import dumps, quote
from tgi_llamacpp.router.render_tgi import FinishedSequence
from tgi_llamacpp.router.sampling import random_seed
from tgi_llamacpp.router.schemas_tgi import COMPAT, GENERATE, GenerateParameters, GenerateRequest
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.sse import event as sse_event
from tgi_llamacpp.router.validation import RouteRules, ValidRequest, validate

_RULES = RouteRules()


async def generate(exchange: Exchange) -> None:
    """POST /generate"""
    await answer_whole(exchange, await exchange.read(GENERATE))


async def generate_stream(exchange: Exchange) -> None:
    """POST /generate_stream"""
    await answer_stream(exchange, await exchange.read(GENERATE))


async def compat_generate(exchange: Exchange) -> None:
    """POST /"""
    await answer_compat(exchange, await exchange.read(COMPAT))


async def answer_compat(exchange: Exchange, request: GenerateRequest) -> None:
    """The compat form: the prompt comes back too, and a whole answer is an array of one."""
    parameters = request.parameters
    if parameters.return_full_text is None:
        tag = exchange.services.pipeline_tag
        parameters.return_full_text = tag is None or tag == "text-generation"
    if request.stream:
        await answer_stream(exchange, request)
    else:
        await answer_whole(exchange, request, in_array=True)


async def answer_whole(
    exchange: Exchange, request: GenerateRequest, *, in_array: bool = False
) -> None:
    """Generate, and answer when all is there."""
    services, parameters = exchange.services, request.parameters
    services.metrics.count_request()
    check_best_of(parameters.best_of, services)
    finished = await exchange.while_connected(run_whole(exchange, request))
    winner, losers = pick(finished)
    if parameters.return_full_text:
        for sequence in finished:
            sequence.text = request.inputs + sequence.text
    details = None
    if parameters.decoder_input_details:  # a long prompt is megabytes, so not on the event loop
        pool = services.text.pool
        details = await pool.run(winner.details, services.text.detokenizer, losers)
    elif parameters.details:
        details = winner.details(services.text.detokenizer, losers)
    text = render_tgi.generate_response(winner.text, details)
    times = exchange.report_success([winner.sequence])
    num_generated = winner.sequence.text.num_tokens
    await exchange.respond(
        (f"[{text}]" if in_array else text).encode(),
        headers=[
            *render_tgi.compute_headers(services.config.compute_type, len(request.inputs)),
            *render_tgi.time_headers(times, winner.sequence.plan.request.num_prompt, num_generated),
        ],
    )


async def run_whole(exchange: Exchange, request: GenerateRequest) -> list[FinishedSequence]:
    """All candidates of one request, in order."""
    services, parameters = exchange.services, request.parameters
    num_sequences = max(parameters.best_of or 1, 1)
    with services.permits.hold(num_sequences):
        valid = await validate(services, request.inputs, parameters, _RULES)
        with exchange.generate(_plans(valid, num_sequences), keep_stop=True) as generation:
            events: list[list[TokenEvent]] = [[] for _ in range(num_sequences)]
            while not generation.is_finished:
                for event in await generation.next_events():
                    events[event.choice].append(event)
    return [
        FinishedSequence(sequence, events[choice])
        for choice, sequence in enumerate(generation.sequences)
    ]


async def answer_stream(exchange: Exchange, request: GenerateRequest) -> None:
    """Answer with one event a token. What goes wrong after the body was read is an event too."""
    services = exchange.services
    services.metrics.count_request()
    headers = render_tgi.compute_headers(services.config.compute_type, len(request.inputs))
    await exchange.while_connected(_stream(exchange, request, headers))


async def _stream(
    exchange: Exchange, request: GenerateRequest, headers: list[render_tgi.Header]
) -> None:
    services = exchange.services
    async with exchange.stream(headers) as stream:
        try:
            check_streamable(request.parameters)
            with services.permits.hold(1):
                valid = await validate(services, request.inputs, request.parameters, _RULES)
                with exchange.generate(_plans(valid, 1), keep_stop=True) as generation:
                    fold = _StreamFold(services, request, generation)
                    while not generation.is_finished:
                        data = fold.render(await generation.next_events())
                        if data:
                            await stream.write(data)
            exchange.report_success(generation.sequences)
        except TgiError as error:
            exchange.report_failure(error)
            await stream.write(sse_event(_stream_error(error)).encode())


class _StreamFold:
    """Turns the events of one sequence into the bytes of the stream."""

    def __init__(
        self, services: Services, request: GenerateRequest, generation: Generation
    ) -> None:
        self._detokenizer = services.text.detokenizer
        self._has_details = request.parameters.details
        self._sequence = generation.sequences[0]
        self._parts = [request.inputs] if request.parameters.return_full_text else []
        self._index = 0

    def render(self, events: list[TokenEvent]) -> bytes:
        return "".join(map(self._render_one, events)).encode()

    def _render_one(self, event: TokenEvent) -> str:
        self._index += 1
        self._parts.append(event.visible)
        text = details = "null"
        if event.finish is not None:
            text = quote("".join(self._parts))
            if self._has_details:
                details = render_tgi.stream_details(self._sequence)
        return sse_event(
            render_tgi.stream_event(self._index, event, self._detokenizer, text, details)
        )


def _stream_error(error: TgiError) -> str:
    if error.error_type == "incomplete_generation":
        return dumps(
            {
                "error": "Incomplete generation stream",
                "error_type": "incomplete_generation_stream",
            }
        )
    return flat_error(error)


def check_best_of(best_of: int | None, services: Services) -> None:
    """What a whole answer asks of best_of, before a permit is taken."""
    limit = services.config.limits.max_best_of
    if best_of is None or best_of <= 1:
        return
    if limit == 1:
        raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
    if best_of > limit:
        raise ValidationError(f"`best_of` must be > 0 and <= {limit}. Given: {best_of}")


def check_streamable(parameters: GenerateParameters) -> None:
    """What cannot be streamed."""
    if parameters.best_of is not None and parameters.best_of != 1:
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if parameters.decoder_input_details:
        raise ValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens"
        )


def _plans(valid: ValidRequest, num_sequences: int) -> list[Planned]:
    """Candidates draw from seeds of their own, so that each can be drawn again by itself."""
    seeds = [valid.seed, *(random_seed() for _ in range(num_sequences - 1))]
    return [Planned(valid, seed) for seed in seeds]


def pick(finished: list[FinishedSequence]) -> tuple[FinishedSequence, list[FinishedSequence]]:
    """The candidate with the highest mean log-probability, the first of equals, and the others."""
    winner = max(finished, key=lambda sequence: sequence.mean_logprob)
    return winner, [sequence for sequence in finished if sequence is not winner]


async def tokenize(exchange: Exchange) -> None:
    """POST /tokenize"""
    request = await exchange.read(GENERATE)
    pool = exchange.services.text.pool
    spans = await pool.encode_with_offsets(request.inputs, add_special_tokens=True)
    # A long text has megabytes of answer, so it is written beside the event loop.
    answer = await pool.run(render_tgi.token_spans, spans)
    await exchange.respond(answer.encode())


async def info(exchange: Exchange) -> None:
    """GET /info"""
    services = exchange.services
    config, limits = services.config, services.config.limits
    answer = {
        "model_id": config.model_id,
        "model_sha": services.model_sha,
        "model_pipeline_tag": services.pipeline_tag,
        "max_concurrent_requests": limits.max_concurrent_requests,
        "max_best_of": limits.max_best_of,
        "max_stop_sequences": limits.max_stop_sequences,
        "max_input_tokens": limits.max_input_tokens,
        "max_total_tokens": limits.max_total_tokens,
        "validation_workers": config.validation_workers,
        "max_client_batch_size": limits.max_client_batch_size,
        "router": "text-generation-router",
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
    await exchange.respond(dumps(answer).encode())


async def health(exchange: Exchange) -> None:
    """GET /health, /ping and /"""
    if not exchange.services.engine.is_healthy:
        raise UnhealthyError
    await exchange.respond(b"", content_type=None)


async def metrics(exchange: Exchange) -> None:
    """GET /metrics"""
    services = exchange.services
    engine = services.engine
    text = services.metrics.render(engine.stats_now(), engine.recovery.lines())
    await exchange.respond(text.encode(), content_type=b"text/plain; charset=utf-8")
