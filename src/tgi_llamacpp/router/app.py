"""The router's application: which path goes to which handler, under which key and error form.

Owns the table of routes; router/openapi_paths.py describes them. Called as the server starts, with
collaborators that are already running.
"""

from __future__ import annotations

from collections.abc import Iterator

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tgi_llamacpp.config import RouterConfig
from tgi_llamacpp.errors import RouteNotFound, StartupError
from tgi_llamacpp.router import (
    docs,
    kserve,
    openai,
    openai_chat,
    openai_completions,
    openapi,
    platforms,
    tgi,
)
from tgi_llamacpp.router.api_keys import ApiKeys
from tgi_llamacpp.router.edge import CorsEdge
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.exchange import Endpoint, ErrorText, Handler
from tgi_llamacpp.router.json_format import dumps
from tgi_llamacpp.router.metrics import Metrics
from tgi_llamacpp.router.render_openai import error_text
from tgi_llamacpp.router.sequence_breakers import SequenceBreakers
from tgi_llamacpp.router.services import BodyBudget, Permits, Services, TextTools

Table = dict[str, dict[str, Handler]]

_MAX_BODIES = 32  # of the largest size, being read at once
_MODEL = "/v2/models/{name}/versions/{version}"
_FLAT: Table = {
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
    "/v2": {"GET": kserve.server_metadata},
    "/v2/health/live": {"GET": kserve.live},
    "/v2/health/ready": {"GET": kserve.ready},
    _MODEL: {"GET": kserve.model_metadata},
    f"{_MODEL}/ready": {"GET": kserve.ready},
    f"{_MODEL}/infer": {"POST": kserve.infer},
}
_OPENAI: Table = {
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
    keys: ApiKeys | None = None,
    model_sha: str | None = None,
    pipeline_tag: str | None = None,
    former: Services | None = None,
) -> Starlette:
    """The ASGI application. The engine is ready; nothing is started or closed here.

    former: of the application in whose place this one comes; counters and permits are the same.

    keys: whom it answers; read from where the configuration says, if they are not there already.
    Raises StartupError where a path that the operator chose is another route's.
    """
    max_permits = config.limits.max_concurrent_requests
    services = Services(
        config=config,
        engine=engine,
        text=text,
        metrics=former.metrics if former else Metrics(config.limits),
        permits=former.permits if former else Permits(max_permits, engine.forecast),
        bodies=former.bodies if former else BodyBudget(_MAX_BODIES * config.limits.payload_limit),
        breakers=SequenceBreakers(text.detokenizer),
        keys=keys or ApiKeys(config.api_key, config.api_key_file),
        model_sha=model_sha,
        pipeline_tag=pipeline_tag,
    )
    app = _Application(routes=list(_routes(services)))
    app.router.redirect_slashes = False  # `/generate/` is another path, and unknown
    app.router.default = _not_found
    app.state.services = services
    return app


class _Application(Starlette):
    """Without Starlette's own layers for errors.

    Endpoints answer every error themselves, and a layer is a call for every streamed token.
    """

    def build_middleware_stack(self) -> ASGIApp:
        services: Services = self.state.services
        return CorsEdge(self.router, services.config.cors_allow_origin)


def apply_limits(services: Services) -> None:
    """What this application shares with the one before follows its limits, and its engine."""
    limits = services.config.limits
    services.permits.max_permits = limits.max_concurrent_requests
    services.permits.forecast = services.engine.forecast
    services.bodies.max_bytes = _MAX_BODIES * limits.payload_limit


def _routes(services: Services) -> Iterator[Route]:
    config = services.config
    document = dumps(openapi.document(config)).encode()
    flat = _with_vertex_ai({**_FLAT, **docs.routes(document)}, config)
    tables: list[tuple[Table, ErrorText | None]] = [(flat, None), (_OPENAI, error_text)]
    for table, text_of_error in tables:
        for path, methods in table.items():
            yield Route(path, Endpoint(services, methods, error_text=text_of_error))


def _with_vertex_ai(table: Table, config: RouterConfig) -> Table:
    """The table with the paths that Vertex AI asked for in the environment."""
    asked = (
        ("AIP_PREDICT_ROUTE", config.aip_predict_route, "POST", platforms.vertex),
        ("AIP_HEALTH_ROUTE", config.aip_health_route, "GET", tgi.health),
    )
    table = {path: dict(methods) for path, methods in table.items()}
    for variable, path, method, handler in asked:
        if path is None:
            continue
        taken = {**table, **_OPENAI}.get(path, {}).get(method, handler)
        if taken is not handler or path in _OPENAI:
            raise StartupError(f"{variable}={path} is the path of another route: choose another")
        table.setdefault(path, {})[method] = handler
    return table


def _names(table: Table) -> list[str]:
    """The routes as a client would call them: POST /v1/completions."""
    return [f"{method} {path}" for path, of in table.items() for method in of if "{" not in path]


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Empty as TGI's, but below /v1, where clients show their users what an error says."""
    headers, body = [], b""
    if scope["path"].startswith("/v1/"):
        body = error_text(RouteNotFound(scope["method"], scope["path"], _names(_OPENAI))).encode()
        headers.append((b"content-type", b"application/json"))
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
