"""The router's application: which path goes to which handler, under which key and error form.

Owns the table of routes. Called by the command line with collaborators that are already running.
"""

from __future__ import annotations

from collections.abc import Iterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tgi_llamacpp.config import RouterConfig
from tgi_llamacpp.router import openai, openai_chat, openai_completions, platforms, tgi
from tgi_llamacpp.router.edge import CorsEdge
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.exchange import Endpoint, ErrorText, Handler
from tgi_llamacpp.router.metrics import Metrics
from tgi_llamacpp.router.render_openai import error_text
from tgi_llamacpp.router.services import Permits, Services, TextTools

_FLAT: dict[str, dict[str, Handler]] = {
    "/": {"POST": tgi.compat_generate, "GET": tgi.health},
    "/generate": {"POST": tgi.generate},
    "/generate_stream": {"POST": tgi.generate_stream},
    "/tokenize": {"POST": tgi.tokenize},
    "/chat_tokenize": {"POST": openai_chat.chat_tokenize},
    "/invocations": {"POST": platforms.invocations},
    "/vertex": {"POST": platforms.vertex},
    "/health": {"GET": tgi.health},
    "/ping": {"GET": tgi.health},
    "/info": {"GET": tgi.info},
    "/metrics": {"GET": tgi.metrics},
}
_OPENAI: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": openai_chat.chat_completions},
    "/v1/completions": {"POST": openai_completions.completions},
    "/v1/models": {"GET": openai.models},
    "/v1/models/{model_id:path}": {"GET": openai.model},
}


def build_app(
    config: RouterConfig,
    engine: EngineClient,
    text: TextTools,
    *,
    model_sha: str | None = None,
    pipeline_tag: str | None = None,
) -> Starlette:
    """The ASGI application. The engine is ready; nothing is started or closed here."""
    services = Services(
        config=config,
        engine=engine,
        text=text,
        metrics=Metrics(config.limits),
        permits=Permits(config.limits.max_concurrent_requests),
        model_sha=model_sha,
        pipeline_tag=pipeline_tag,
    )
    app = Starlette(
        routes=list(_routes(services)),
        middleware=[Middleware(CorsEdge, allow_origin=config.cors_allow_origin)],
        exception_handlers={404: _not_found},
    )
    app.router.redirect_slashes = False  # `/generate/` is another path, and unknown
    app.state.services = services
    return app


def _routes(services: Services) -> Iterator[Route]:
    tables: list[tuple[dict[str, dict[str, Handler]], ErrorText | None]]
    tables = [(_FLAT, None), (_OPENAI, error_text)]
    for table, text_of_error in tables:
        for path, methods in table.items():
            key = services.config.api_key
            endpoint = Endpoint(services, methods, api_key=key, error_text=text_of_error)
            yield Route(path, endpoint)


async def _not_found(request: Request, error: Exception) -> Response:
    return Response(status_code=404)
