"""KServe's routes, the Open Inference Protocol under `/v2`: texts as arrays of bytes.

Owns the wrapping of generate requests as named tensors, and what the protocol asks about the
server and its model. The model's name and version in a path are taken as they come, as TGI does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tgi_llamacpp import __version__
from tgi_llamacpp.errors import TgiError, UnhealthyError
from tgi_llamacpp.router.exchange import Exchange
from tgi_llamacpp.router.json_format import dumps
from tgi_llamacpp.router.platforms import predict_all
from tgi_llamacpp.router.schemas_tgi import PARAMETERS, GenerateParameters, GenerateRequest
from tgi_llamacpp.router.shapes import U8, USIZE, ListOf, Object, Text


class NotUtf8(TgiError):
    """The bytes of an input are no text."""

    error_type = "utf8"
    http_status = 422

    def __init__(self, error: UnicodeDecodeError) -> None:
        # The words are those of Rust's decoder, which TGI passes on.
        if error.reason == "unexpected end of data":
            kind = "incomplete utf-8 byte sequence"
        else:
            kind = f"invalid utf-8 sequence of {error.end - error.start} bytes"
        super().__init__(f"{kind} from index {error.start}")


class LengthMismatch(TgiError):
    """Not as many outputs as inputs."""

    error_type = "length mismatch"
    http_status = 422


@dataclass(slots=True)
class InferenceRequest:
    """`/v2/models/…/infer`: one prompt an input, one name for the text of each."""

    id: str
    inputs: list[bytes]
    outputs: list[str]
    parameters: GenerateParameters = field(
        default_factory=lambda: GenerateParameters(do_sample=True)
    )


_INPUT = Object(
    "InferenceInput",
    lambda name, shape, datatype, data: bytes(data),
    {"name": Text(), "shape": ListOf(USIZE), "datatype": Text(), "data": ListOf(U8)},
    required=("name", "shape", "datatype", "data"),
)
_OUTPUT = Object("InferenceOutputName", lambda name: name, {"name": Text()}, required=("name",))
INFERENCE = Object(
    "InferenceRequest",
    InferenceRequest,
    {
        "id": Text(),
        "parameters": PARAMETERS,
        "inputs": ListOf(_INPUT),
        "outputs": ListOf(_OUTPUT),
    },
    required=("id", "inputs", "outputs"),
)


async def infer(exchange: Exchange) -> None:
    """POST /v2/models/{name}/versions/{version}/infer"""
    request = await exchange.read(INFERENCE)
    prompts = [_decode(data) for data in request.inputs]
    if len(prompts) != len(request.outputs):
        raise LengthMismatch("Inputs and outputs length mismatch")
    texts = await predict_all(
        exchange, [GenerateRequest(prompt, request.parameters) for prompt in prompts], "inputs"
    )
    outputs = [
        {"name": name, "shape": [1, len(data)], "datatype": "BYTES", "data": list(data)}
        for name, data in zip(request.outputs, (text.encode() for text in texts), strict=True)
    ]
    await exchange.respond(dumps({"id": request.id, "outputs": outputs}).encode())


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(error) from None


async def live(exchange: Exchange) -> None:
    """GET /v2/health/live: this process answers."""
    await exchange.respond(dumps({"live": True}).encode())


async def ready(exchange: Exchange) -> None:
    """GET /v2/health/ready and the model's own: the engine answers too."""
    if not exchange.services.engine.is_healthy:
        raise UnhealthyError
    await live(exchange)


async def server_metadata(exchange: Exchange) -> None:
    """GET /v2"""
    answer = {
        "name": "text-generation-inference",
        "version": __version__,
        "extensions": ["health", "models", "metrics"],
    }
    await exchange.respond(dumps(answer).encode())


async def model_metadata(exchange: Exchange) -> None:
    """GET /v2/models/{name}/versions/{version}"""
    path = exchange.scope["path_params"]
    answer = {"name": path["name"], "version": path["version"], "extensions": ["infer", "ready"]}
    await exchange.respond(dumps(answer).encode())
