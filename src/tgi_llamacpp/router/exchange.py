"""One HTTP request and its answer, and the endpoint that turns every error into one.

Owns reading a typed body, watching for the client's departure, and rendering errors. Knows no
route: router/app.py gives each endpoint its handlers and its way of saying an error.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TypeVar

from starlette.types import Receive, Scope, Send

from tgi_llamacpp.errors import BodyError, EngineUnavailable, MethodNotAllowed, TgiError
from tgi_llamacpp.router import sse
from tgi_llamacpp.router.body import (
    SLOW_BYTES,
    ClientDisconnected,
    decode_exactly,
    decode_quickly,
    read_body,
)
from tgi_llamacpp.router.deadline import Deadline, read_deadline
from tgi_llamacpp.router.generation import Generation, Planned, RunningSequence
from tgi_llamacpp.router.json_format import dumps
from tgi_llamacpp.router.metrics import RequestTimes
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.shapes import Doubt, Shape

logger = logging.getLogger(__name__)
T = TypeVar("T")
Headers = Iterable[tuple[bytes, bytes]]
# What a client wrote where something else belongs, in TGI's words. It may be a prompt: not logged.
_QUOTED = re.compile(r'string ".*"', re.DOTALL)
ErrorText = Callable[[TgiError], str]


class Exchange:
    """A request in hand. A handler reads it once and answers it once."""

    def __init__(
        self,
        services: Services,
        scope: Scope,
        receive: Receive,
        send: Send,
        error_text: ErrorText | None = None,
    ) -> None:
        self.services = services
        self.scope = scope
        self.error_text = error_text  # how errors are said; a dispatching handler may change it
        self.started_s = time.perf_counter()
        self.deadline: Deadline | None = None  # known once it is read
        self.is_answered = False
        self._receive = receive
        self._send = send

    async def read(self, shape: Shape[T]) -> T:
        """The body as a typed request.

        Raises:
            BodyError: it is none, or X-Request-Timeout is wrong; ClientDisconnected: it never
            came; OverloadedError: too many are being read.
        """
        self.deadline = read_deadline(self.scope, self.started_s)
        limit = self.services.config.limits.payload_limit
        with self.services.bodies.hold() as take:
            body = await read_body(self.scope, self._receive, limit, take)
            return await self._decode(body, shape)

    async def _decode(self, body: bytes, shape: Shape[T]) -> T:
        try:
            return decode_quickly(body, shape)
        except Doubt:
            pass
        if len(body) > SLOW_BYTES:
            return await self.services.text.pool.run(decode_exactly, body, shape)
        return decode_exactly(body, shape)

    def generate(self, plans: list[Planned], *, keep_stop: bool) -> Generation:
        """Run these until the request's deadline. Raises DeadlineError where that is past."""
        return Generation(self.services, plans, keep_stop=keep_stop, deadline=self.deadline)

    async def while_connected(self, work: Coroutine[object, object, T]) -> T:
        """Do `work`, or cancel it as soon as the client is gone.

        Raises:
            ClientDisconnected: the client is gone.
        """
        worker = asyncio.ensure_future(work)
        watcher = asyncio.ensure_future(_gone(self._receive))
        try:
            await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watcher.cancel()
            is_done = worker.done()
            worker.cancel()
        if not is_done:
            await asyncio.gather(worker, return_exceptions=True)
            raise ClientDisconnected
        return worker.result()

    async def respond(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: bytes | None = b"application/json",
        headers: Headers = (),
    ) -> None:
        """Send a whole answer."""
        self.is_answered = True
        lines = [(b"content-length", b"%d" % len(body)), *headers]
        if content_type is not None:
            lines.insert(0, (b"content-type", content_type))
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def report_success(self, sequences: Sequence[RunningSequence]) -> RequestTimes:
        """Count and log a finished generation. Returns the times of what took longest.

        Each prompt is a success of its own, as it was a request of its own.
        """
        by_prompt: dict[int, list[RunningSequence]] = {}
        for sequence in sequences:
            by_prompt.setdefault(id(sequence.plan.request), []).append(sequence)
        for of_prompt in by_prompt.values():
            num_generated = sum(sequence.text.num_tokens for sequence in of_prompt)
            times = _last(of_prompt).times(self.started_s)
            self.services.metrics.observe_success(times, num_generated)
        last = _last(sequences)
        times = last.times(self.started_s)
        num_generated = sum(sequence.text.num_tokens for sequence in sequences)
        logger.info(
            "%r: %d prompt tokens, %d generated in %d ms: %d validating, %d queued, %d running",
            self.scope["path"],
            last.plan.request.num_prompt,
            num_generated,
            times.total_s * 1000,
            times.validation_s * 1000,
            times.queue_s * 1000,
            times.inference_s * 1000,
        )
        return times

    def report_failure(self, error: TgiError) -> None:
        """Count and log a generation that ended in this error."""
        self.services.metrics.count_failure(error)
        message = _QUOTED.sub("string", error.message)
        logger.info("%r: %d %.500r", self.scope["path"], error.http_status, message)

    def stream(self, headers: Headers) -> sse.EventStream:
        """Begin an answer of server-sent events."""
        self.is_answered = True
        return sse.EventStream(self._send, headers)


def _last(sequences: Iterable[RunningSequence]) -> RunningSequence:
    """The one that finished last."""
    return max(sequences, key=lambda sequence: sequence.finished_s or 0.0)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Handler = Callable[[Exchange], Awaitable[None]]


def flat_error(error: TgiError) -> str:
    """TGI's error object."""
    return dumps({"error": error.message, "error_type": error.error_type})


class Unauthorized(TgiError):
    """No key, or a wrong one."""

    error_type = "authentication"
    http_status = 401

    def __init__(self) -> None:
        super().__init__("A valid API key is required: Authorization: Bearer <key>")


class InternalError(TgiError):
    """A bug of ours; the log has it."""

    error_type = "internal"


class Endpoint:
    """The ASGI application of one path: a handler for each method, and its errors.

    Where there are keys, every method but GET needs one. `error_text` is the JSON of an error;
    None stands for TGI's ways, where a body error is plain text and a missing key has no body.
    """

    def __init__(
        self,
        services: Services,
        methods: Mapping[str, Handler],
        *,
        error_text: ErrorText | None = None,
    ) -> None:
        self._services = services
        self._methods = dict(methods)
        self._allowed = list(_with_head(self._methods))
        self._error_text = error_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(self._services, scope, receive, send, self._error_text)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = self._methods.get(method)
        try:
            if self._services.keys.are_needed and method != "GET":
                exchange.services = _with_key(self._services, scope)
            if handler is None:
                await self._refuse_method(exchange)
            else:
                await handler(exchange)
        except ClientDisconnected:
            self._services.metrics.count_dropped()
            logger.info("%r: the client went away", scope["path"])
        except TgiError as error:
            await self._fail(exchange, error)
        except asyncio.CancelledError:  # of what still runs when a stopping server has no more time
            logger.warning("%r: cut off, as the server stops", scope["path"])
            if not exchange.is_answered:
                await self._fail(exchange, EngineUnavailable("The server is stopping"))
        except Exception:
            logger.exception("a bug of ours, in the handler of %r", scope["path"])
            if not exchange.is_answered:
                await self._fail(exchange, InternalError("Internal error; the server's log has it"))

    async def _refuse_method(self, exchange: Exchange) -> None:
        """Empty as TGI's, or in the form of this route's errors."""
        body, content_type = b"", None
        if self._error_text is not None:
            scope = exchange.scope
            error = MethodNotAllowed(scope["method"], scope["path"], self._allowed)
            body, content_type = self._error_text(error).encode(), b"application/json"
        allow = [(b"allow", ",".join(self._allowed).encode())]
        await exchange.respond(body, status=405, content_type=content_type, headers=allow)

    async def _fail(self, exchange: Exchange, error: TgiError) -> None:
        exchange.report_failure(error)
        status, headers = error.http_status, _retry_headers(error)
        if exchange.error_text is not None:
            text = exchange.error_text(error).encode()
            await exchange.respond(text, status=status, headers=headers)
        elif isinstance(error, BodyError):
            text = error.message.encode()
            kind = b"text/plain; charset=utf-8"
            await exchange.respond(text, status=status, content_type=kind, headers=headers)
        elif isinstance(error, Unauthorized):
            await exchange.respond(b"", status=status, content_type=None)
        else:
            await exchange.respond(flat_error(error).encode(), status=status, headers=headers)


def _retry_headers(error: TgiError) -> Headers:
    if error.retry_after_s is None:
        return ()
    return [(b"retry-after", b"%d" % error.retry_after_s)]


def _with_head(methods: Iterable[str]) -> Iterable[str]:
    for method in methods:
        yield method
        if method == "GET":
            yield "HEAD"


def _with_key(services: Services, scope: Scope) -> Services:
    """The services as the holder of the request's key sees them. Raises Unauthorized."""
    header = dict(scope["headers"]).get(b"authorization", b"")
    key_number = services.keys.scope_of(header)
    if key_number is None:
        raise Unauthorized
    return services.for_key(key_number)
