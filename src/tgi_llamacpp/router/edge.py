"""What holds for every answer: cross-origin headers, and the answer to OPTIONS.

Wraps the whole application, errors included. Knows no route and no body.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_VARY = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET,POST"),
    # TGI allows content-type alone, which keeps browsers away from a server with a key.
    (b"access-control-allow-headers", b"content-type,authorization,x-request-timeout"),
    (b"content-length", b"0"),
]


class CorsEdge:
    """Adds TGI's cross-origin headers. An empty list of origins, or `*` in it, allows any."""

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
            start = {"type": "http.response.start", "status": 200, "headers": _PREFLIGHT + headers}
            await send(start)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return

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
