"""Every error that a user can meet, and the HTTP status of each.

Raised anywhere, rendered in one place (router/app.py). The table:

| class              | error_type                     | status | raised by |
|--------------------|--------------------------------|--------|-----------|
| BodyError          | (plain text, TGI's framework)  | 400, 413, 415, 422 | router/schemas |
| RouteNotFound      | route_not_found                | 404    | router/app, below /v1 alone |
| MethodNotAllowed   | method_not_allowed             | 405    | router/exchange, below /v1 alone |
| ValidationError    | validation                     | 422    | router/validation |
| TemplateError      | template_error                 | 422    | router/chat |
| ToolError          | tool_error                     | 422    | router/openai |
| OverloadedError    | overloaded                     | 429    | router/services |
| DeadlineError      | timeout                        | 503    | router/generation |
| SlowReaderError    | slow_reader                    | 408    | router/generation |
| GenerationError    | generation                     | 424    | engine, by way of Failed |
| IncompleteError    | incomplete_generation          | 500    | router/engine_client |
| UnhealthyError     | healthcheck                    | 503    | router/tgi |
| EngineUnavailable  | engine_unavailable             | 503    | router/engine_client |
| EngineFailedError  | (one sentence, exit code 3)    | -      | router/server |
| EngineDiedError    | (one sentence, exit code 1)    | -      | router/supervisor |
| StartupError       | (one sentence, exit code 1)    | -      | cli, model loading |
| UsageError         | (one sentence, exit code 2)    | -      | cli |

RunnerError is the engine's own: the native core met a bug of ours, or died. It crosses no socket.
"""

from __future__ import annotations

from collections.abc import Iterable


class TgiError(Exception):
    """An error that becomes an HTTP answer. `message` is the whole text on the wire.

    `param` is the field of the request that is to blame, where the message does not begin with it.
    `retry_after_s` is when to try again, where that can be told.
    """

    error_type = "generation"
    http_status = 500
    retry_after_s: int | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BodyError(TgiError):
    """The body never became a request: TGI answers these in plain text."""

    error_type = "body"

    def __init__(self, message: str, http_status: int, param: str | None = None) -> None:
        super().__init__(message, param)
        self.http_status = http_status


class RouteNotFound(TgiError):
    """A path that no route has."""

    error_type = "route_not_found"
    http_status = 404

    def __init__(self, method: str, path: str, known: Iterable[str]) -> None:
        super().__init__(
            f"There is no route {method} {path:.200}. The routes are {', '.join(known)}."
        )


class MethodNotAllowed(TgiError):
    """A route that has other methods."""

    error_type = "method_not_allowed"
    http_status = 405

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        super().__init__(f"{path:.200} does not take {method}. Use {' or '.join(allowed)}.")


class ValidationError(TgiError):
    """A parameter or a length is out of its limits."""

    error_type = "validation"
    http_status = 422

    def __init__(self, reason: str, param: str | None = None) -> None:
        super().__init__(f"Input validation error: {reason}", param)
        self.reason = reason


class LengthError(ValidationError):
    """The prompt, or it and what is to be generated, are longer than a sequence may be."""


class TemplateError(TgiError):
    """The chat template is missing, or complained."""

    error_type = "template_error"
    http_status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"Template error: {reason}")
        self.reason = reason


class ToolError(TgiError):
    """Tools or a tool choice that cannot be honoured."""

    error_type = "tool_error"
    http_status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"Tool error: {reason}")
        self.reason = reason


class OverloadedError(TgiError):
    """No concurrency permit is free."""

    error_type = "overloaded"
    http_status = 429

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("Model is overloaded")
        self.retry_after_s = retry_after_s


class DeadlineError(TgiError):
    """The client's own time limit passed before there was anything to answer with."""

    error_type = "timeout"
    http_status = 503

    def __init__(self, timeout_s: float, retry_after_s: int) -> None:
        super().__init__(
            f"No token within the {timeout_s:g} s of X-Request-Timeout: try again later"
        )
        self.retry_after_s = retry_after_s


class SlowReaderError(TgiError):
    """The client takes its stream so slowly that it is cut."""

    error_type = "slow_reader"
    http_status = 408

    def __init__(self, max_tokens: int) -> None:
        super().__init__(f"More than {max_tokens} tokens waited for the client to read them")


class GenerationError(TgiError):
    """The engine gave up on this sequence."""

    error_type = "generation"
    http_status = 424

    def __init__(self, reason: str) -> None:
        super().__init__(f"Request failed during generation: {reason}")
        self.reason = reason


class IncompleteError(TgiError):
    """The engine stopped without a final token."""

    error_type = "incomplete_generation"

    def __init__(self, message: str = "Incomplete generation") -> None:
        super().__init__(message)


class UnhealthyError(TgiError):
    """The health probe failed."""

    error_type = "healthcheck"
    http_status = 503

    def __init__(self) -> None:
        super().__init__("unhealthy")


class EngineUnavailable(TgiError):
    """There is no engine to run this request; the reason says why."""

    error_type = "engine_unavailable"
    http_status = 503


class StartupError(Exception):
    """The server cannot start: one sentence for the terminal, exit code 1."""


class EngineDiedError(StartupError):
    """The engine ended without a word before it served, so that the next one may do better.

    returncode: its exit status, negative for a signal; None where it could not be started.
    """

    def __init__(self, message: str, returncode: int | None = None) -> None:
        super().__init__(message)
        self.returncode = returncode


class EngineFailedError(Exception):
    """No engine can be started any more, and the server was told to end then: exit code 3."""


class UsageError(Exception):
    """The command line cannot be understood: one sentence, exit code 2."""


def reason(error: OSError) -> str:
    """What the system says of an error, to stand within a sentence."""
    return error.strerror.lower() if error.strerror else str(error)


class RunnerError(Exception):
    """The native core refused a plan (a bug of ours) or is beyond use."""
