"""What holds for every answer: cross-origin headers, and the answer to OPTIONS.

Wraps the whole application, errors included. Knows no route and no body.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_VARY = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET,POST"),
    (b"access-control-max-age", b"3600"),  # seconds that a browser need not ask again
    (b"content-length", b"0"),
]
_ALLOWED_HEADERS = b"content-type,authorization,x-request-timeout"  # where none are asked for
_NAME = re.compile(rb"[\w!#$%&'*+.^`|~-]+")
_EXPOSED = (
    b"retry-after,x-compute-type,x-compute-characters,x-compute-time,x-total-time,"
    b"x-validation-time,x-queue-time,x-inference-time,x-time-per-token,x-prompt-tokens,"
    b"x-generated-tokens"
)


class CorsEdge:
    """Adds the cross-origin headers. An empty list of origins, or `*` in it, allows any.

    TGI allows the header content-type alone, which keeps browsers away from a server with a key,
    and OpenAI's own client away from any. Here every header is allowed that a browser asks for.
    """

    def __init__(self, app: ASGIApp, allow_origin: list[str]) -> None:
        self._app = app
        self._allow_any = not allow_origin or "*" in allow_origin
        self._allowed = {origin.encode("latin-1", "replace") for origin in allow_origin}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = self._headers(scope)
        if scope["method"] == "OPTIONS":
            headers = [*_PREFLIGHT, (b"access-control-allow-headers", _asked(scope)), *headers]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        headers.append((b"access-control-expose-headers", _EXPOSED))

        # Not a coroutine function: it is called for every streamed token.
        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            return send(message)

        await self._app(scope, receive, cast(Send, send_with_headers))

    def _headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        if self._allow_any:
            return [_VARY, (b"access-control-allow-origin", b"*")]
        origin = dict(scope["headers"]).get(b"origin")
        if origin in self._allowed and origin is not None:
            return [_VARY, (b"access-control-allow-origin", origin)]
        return [_VARY]


def _asked(scope: Scope) -> bytes:
    """The headers that a browser wants to send, all of them, or the usual ones."""
    name = b"access-control-request-headers"
    asked = b",".join(value for key, value in scope["headers"] if key == name)
    return b",".join(_NAME.findall(asked)) or _ALLOWED_HEADERS
