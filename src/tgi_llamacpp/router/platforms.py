"""The routes of hosting platforms: SageMaker's `/invocations` and Vertex' `/vertex`.

Owns only how those wrap and dispatch the requests of other routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from tgi_llamacpp.errors import TgiError, ValidationError
from tgi_llamacpp.router.exchange import Exchange
from tgi_llamacpp.router.json_format import dumps
from tgi_llamacpp.router.openai_chat import answer_chat, chat_text
from tgi_llamacpp.router.openai_completions import answer_completion
from tgi_llamacpp.router.render_openai import error_text
from tgi_llamacpp.router.schemas_openai import CHAT, COMPLETION, ChatRequest
from tgi_llamacpp.router.schemas_tgi import (
    COMPAT,
    PARAMETERS,
    GenerateParameters,
    GenerateRequest,
)
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.shapes import ListOf, Nullable, Object, OneOf, Text
from tgi_llamacpp.router.tgi import answer_compat, check_best_of, pick, run_whole


class NoInstances(TgiError):
    """TGI's own error for an empty Vertex request."""

    error_type = "Input validation error"
    http_status = 422


def _instance(inputs: str, parameters: GenerateParameters | None = None) -> GenerateRequest:
    if parameters is None:
        return GenerateRequest(inputs)
    return GenerateRequest(inputs, parameters)


_INSTANCE = Object(
    "GenerateVertexInstance",
    _instance,
    {"inputs": Text(), "parameters": Nullable(PARAMETERS)},
    required=("inputs",),
)
VERTEX = Object(
    "VertexRequest",
    lambda instances: instances,
    {"instances": ListOf(OneOf[GenerateRequest | ChatRequest]("VertexInstance", _INSTANCE, CHAT))},
    required=("instances",),
)
SAGEMAKER = OneOf[Any]("SagemakerRequest", COMPAT, CHAT, COMPLETION)


async def invocations(exchange: Exchange) -> None:
    """POST /invocations: what the body is decides which route answers."""
    request = await exchange.read(SAGEMAKER)
    if isinstance(request, GenerateRequest):
        await answer_compat(exchange, request)
        return
    exchange.error_text = error_text
    if isinstance(request, ChatRequest):
        await answer_chat(exchange, request)
    else:
        await answer_completion(exchange, request)


async def vertex(exchange: Exchange) -> None:
    """POST /vertex: several requests side by side, their texts in order."""
    instances = await exchange.read(VERTEX)
    if not instances:
        raise NoInstances("Input validation error")
    texts = await predict_all(exchange, instances, "instances")
    await exchange.respond(dumps({"predictions": texts}).encode())


async def predict_all(
    exchange: Exchange, instances: Sequence[GenerateRequest | ChatRequest], field: str
) -> list[str]:
    """The text of each, in order; they run side by side, and the first error ends the rest.

    field: of the body, that holds the instances.
    Raises ValidationError where they are more than can ever run at once.
    """
    services = exchange.services
    limit = services.permits.max_permits
    num_sequences = sum(_num_sequences(one, services) for one in instances)
    if num_sequences > limit:
        services.metrics.count_request()
        what, given = "entries, as many as may run at once", len(instances)
        if given <= limit:
            what, given = "sequences, with those of `best_of`", num_sequences
        raise ValidationError(f"`{field}` must have <= {limit} {what}. Given: {given}")
    work = [_predict(exchange, instance) for instance in instances]
    return await exchange.while_connected(_all(work))


def _num_sequences(instance: GenerateRequest | ChatRequest, services: Services) -> int:
    """Permits that it takes; one with too large a best_of takes none, and is refused for that."""
    if isinstance(instance, ChatRequest):
        return 1
    best_of = instance.parameters.best_of or 1
    return best_of if best_of <= services.config.limits.max_best_of else 1


async def _predict(exchange: Exchange, instance: GenerateRequest | ChatRequest) -> str:
    if isinstance(instance, ChatRequest):
        return await chat_text(exchange, instance)
    services = exchange.services
    services.metrics.count_request()
    check_best_of(instance.parameters.best_of, services)
    instance.parameters.decoder_input_details = False  # a text has no place for them
    winner, _ = pick(await run_whole(exchange, instance))
    exchange.report_success([winner.sequence])
    prefix = instance.inputs if instance.parameters.return_full_text else ""
    return prefix + winner.text


async def _all(work: list[Coroutine[Any, Any, str]]) -> list[str]:
    """Every result in order; the first error ends the rest."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
