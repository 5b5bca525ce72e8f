"""From the bytes of a request to a typed request, or to the error TGI's framework gives.

Owns the order content type, size, syntax, shape, and the choice between the quick and the exact
way of decoding. Called by the route handlers; what a request holds is in router/schemas_*.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.types import Receive, Scope

from tgi_llamacpp.errors import BodyError
from tgi_llamacpp.router.json_reader import JsonReader, ReadError
from tgi_llamacpp.router.shapes import Doubt, Shape

T = TypeVar("T")
_JSON_TYPE = re.compile(rb"application/(json|[^/;\s]+\+json)\s*(;.*)?", re.IGNORECASE | re.DOTALL)
_WRONG_TYPE = "Expected request with `Content-Type: application/json`"
_ENCODED = "`Content-Encoding: {}` is not supported: send the body without an encoding"
_TOO_LONG = "Failed to buffer the request body: length limit exceeded"
SLOW_BYTES = 32_768
"""Bodies above this size are decoded exactly in a worker, not on the event loop."""


class ClientDisconnected(Exception):
    """The client went away; there is nobody to answer."""


async def read_body(
    scope: Scope, receive: Receive, max_bytes: int, take: Callable[[int], None]
) -> bytes:
    """The whole body of a JSON request. `take` is told of its bytes as they come, and may refuse.

    Raises:
        BodyError: 415 for a content type that is not JSON and for a content encoding, 413 above
            `max_bytes`.
        ClientDisconnected: the client left before the end.
    """
    headers = dict(scope["headers"])
    encoding = _encoding(scope)
    if encoding:
        raise BodyError(_ENCODED.format(encoding), 415)
    if _JSON_TYPE.fullmatch(headers.get(b"content-type", b"").strip()) is None:
        raise BodyError(_WRONG_TYPE, 415)
    if int(headers.get(b"content-length", b"0")) > max_bytes:
        raise BodyError(_TOO_LONG, 413)
    chunks: list[bytes] = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunks.append(message.get("body", b""))
        num_bytes += len(chunks[-1])
        if num_bytes > max_bytes:
            raise BodyError(_TOO_LONG, 413)
        take(len(chunks[-1]))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _encoding(scope: Scope) -> str:
    """The content encoding as the client names it; empty where the bytes are as they are."""
    values = [value for name, value in scope["headers"] if name == b"content-encoding"]
    text = b", ".join(values).decode("latin-1").strip()
    names = {name.strip().lower() for name in text.split(",")}
    return text if names - {"", "identity"} else ""


def decode_quickly(body: bytes, shape: Shape[T]) -> T:
    """The request, by way of the C parsers.

    Raises:
        Doubt: the body may be wrong; `decode_exactly` knows.
    """
    try:
        msgspec.json.decode(body)  # stricter than json's: UTF-8, surrogates, NaN, depth
        value = _DECODER.decode(body.decode())
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise Doubt from None
    return shape.convert(value)


def decode_exactly(body: bytes, shape: Shape[T]) -> T:
    """The request, or the complaint in TGI's words.

    Raises:
        BodyError: 400 for what is no JSON, 422 for JSON of another shape.
    """
    reader = JsonReader(body)
    try:
        return shape.read(reader)
    except ReadError as error:
        detail = reader.describe(error)
        if error.is_syntax:
            message = f"Failed to parse the request body as JSON: {detail}"
            raise BodyError(message, 400) from None
        message = f"Failed to deserialize the JSON body into the target type: {detail}"
        raise BodyError(message, 422, error.field) from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


# Made once: json.loads makes one a call where it is given a hook, which takes as long as a body.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
