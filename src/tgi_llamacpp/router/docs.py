"""The OpenAPI document and Swagger UI on the wire.

Owns the page and its headers. The document is router/openapi.py's; scripts and styles come from
the installed package swagger-ui-py, of which nothing else is used. Called by router/app.py.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import distribution
from pathlib import Path

from tgi_llamacpp.router.exchange import Exchange, Handler

_ASSETS = {"swagger-ui.css": b"text/css", "swagger-ui-bundle.js": b"text/javascript"}
# Relative addresses work behind a proxy's prefix; without `validatorUrl` Swagger UI asks a server
# of its makers.
_PAGE = b"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>tgi-llamacpp</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="swagger-ui.css"></head>
<body><div id="ui"></div><script src="swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "../api-doc/openapi.json", dom_id: "#ui", validatorUrl: null})
</script></body>
</html>
"""


def routes(document: bytes) -> dict[str, dict[str, Handler]]:
    """The document's path, the page's, and one for each file of the page."""

    async def openapi(exchange: Exchange) -> None:
        await exchange.respond(document)

    table: dict[str, dict[str, Handler]] = {
        "/api-doc/openapi.json": {"GET": openapi},
        "/docs": {"GET": _to_page},
        "/docs/": {"GET": _page},
    }
    for name, content_type in _ASSETS.items():
        table[f"/docs/{name}"] = {"GET": _asset(name, content_type)}
    return table


async def _to_page(exchange: Exchange) -> None:
    headers = [(b"location", b"docs/")]
    await exchange.respond(b"", status=303, content_type=None, headers=headers)


async def _page(exchange: Exchange) -> None:
    await exchange.respond(_PAGE, content_type=b"text/html; charset=utf-8")


def _asset(name: str, content_type: bytes) -> Handler:
    path = Path(str(distribution("swagger-ui-py").locate_file("swagger_ui/static"))) / name

    async def answer(exchange: Exchange) -> None:
        body = await asyncio.to_thread(path.read_bytes)
        headers = [(b"cache-control", b"max-age=3600")]
        await exchange.respond(body, content_type=content_type, headers=headers)

    return answer
