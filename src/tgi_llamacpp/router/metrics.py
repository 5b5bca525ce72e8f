"""What the router counts, and what `/metrics` says: TGI's names, types and buckets.

Owns the router's numbers. Fed by the handlers; what the engine counts comes with its Stats. Knows
neither HTTP nor the engine's socket.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from tgi_llamacpp.config import LimitsConfig
from tgi_llamacpp.errors import (
    DeadlineError,
    EngineUnavailable,
    GenerationError,
    IncompleteError,
    OverloadedError,
    TemplateError,
    TgiError,
    ValidationError,
)
from tgi_llamacpp.histogram import DURATION_BOUNDS_S, Histogram
from tgi_llamacpp.messages import Stats
from tgi_llamacpp.router import prometheus
from tgi_llamacpp.router.engine_metrics import engine_lines

_FAILURES: tuple[tuple[type[TgiError], str], ...] = (
    (OverloadedError, "overloaded"),
    (ValidationError, "validation"),
    (TemplateError, "template"),
    (IncompleteError, "incomplete"),
    (EngineUnavailable, "incomplete"),
    (GenerationError, "generation"),
    (DeadlineError, "timeout"),
)
_DROPPED = "dropped"
ReloadOutcome = Literal["moved", "drained", "paused", "kept", "failed"]
"""Open requests moved to a new engine, or finish on the old one, or waited between the two; the
engine was kept; nothing changed."""
_NUM_LENGTH_BUCKETS = 100


def length_buckets(limit: int) -> list[float]:
    """Upper bounds in tokens: a hundred equal steps up to `limit`."""
    return [limit / _NUM_LENGTH_BUCKETS * step for step in range(1, _NUM_LENGTH_BUCKETS + 1)]


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Where the time of one finished request went, in seconds."""

    total_s: float
    validation_s: float
    queue_s: float
    inference_s: float
    time_per_token_s: float


def _no_failures() -> dict[str, int]:
    return dict.fromkeys(sorted([*(kind for _, kind in _FAILURES), _DROPPED]), 0)


@dataclass(slots=True)
class _Counters:
    num_requests: int = 0
    num_successes: int = 0
    num_partial: int = 0
    num_slow_readers: int = 0
    # All are there from the start: a first failure shows as an increase.
    num_failures: dict[str, int] = field(default_factory=_no_failures)
    num_reloads: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(get_args(ReloadOutcome), 0)
    )


class Metrics:
    """All metrics of this router."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._counters = _Counters()
        self._duration = Histogram(DURATION_BOUNDS_S)
        self._validation = Histogram(DURATION_BOUNDS_S)
        self._queue = Histogram(DURATION_BOUNDS_S)
        self._inference = Histogram(DURATION_BOUNDS_S)
        self._per_token = Histogram(DURATION_BOUNDS_S)
        self._generated = Histogram(length_buckets(limits.max_total_tokens))
        self._input = Histogram(length_buckets(limits.max_input_tokens))
        self._max_new = Histogram(length_buckets(limits.max_total_tokens))

    def count_request(self) -> None:
        """A generation was asked for, whatever becomes of it."""
        self._counters.num_requests += 1

    def count_failure(self, error: TgiError) -> None:
        """A generation ended in this error; errors that TGI does not count are not counted."""
        kind = next((name for cls, name in _FAILURES if isinstance(error, cls)), None)
        if kind is not None:
            self._count_failure(kind)

    def count_dropped(self) -> None:
        """The client went away before its answer was complete."""
        self._count_failure(_DROPPED)

    def count_partial(self) -> None:
        """A generation ends at its client's deadline, with what there is."""
        self._counters.num_partial += 1

    def count_slow_reader(self) -> None:
        """A stream is cut whose client does not take it."""
        self._counters.num_slow_readers += 1

    def count_reload(self, outcome: ReloadOutcome) -> None:
        """The server was told to reload, and did."""
        self._counters.num_reloads[outcome] += 1

    def observe_valid(self, num_input: int, max_new_tokens: int) -> None:
        """A request passed validation."""
        self._input.observe(num_input)
        self._max_new.observe(max_new_tokens)

    def observe_success(self, times: RequestTimes, num_generated: int) -> None:
        """A request's answer is complete."""
        self._counters.num_successes += 1
        self._duration.observe(times.total_s)
        self._validation.observe(times.validation_s)
        self._queue.observe(times.queue_s)
        self._inference.observe(times.inference_s)
        self._per_token.observe(times.time_per_token_s)
        self._generated.observe(num_generated)

    def render(self, stats: Stats | None, more: Iterable[str] = ()) -> str:
        """The Prometheus text: counters, gauges, histograms, each followed by a blank line.

        more: lines of others, which go last.
        """
        lines = self._counter_lines() + (engine_lines(stats) if stats is not None else [])
        for name, observed, help_text in (
            ("duration", self._duration, "Request duration"),
            ("validation_duration", self._validation, "Request validation duration"),
            ("queue_duration", self._queue, "Request queue duration"),
            ("inference_duration", self._inference, "Request inference duration"),
            ("mean_time_per_token_duration", self._per_token, "Mean time per token per request"),
            ("generated_tokens", self._generated, "Generated tokens per request"),
            ("input_length", self._input, "Input token length per request"),
            ("max_new_tokens", self._max_new, "Maximum new tokens per request"),
        ):
            lines += prometheus.histogram(f"tgi_request_{name}", observed, help_text)
        lines += more
        return "\n".join(lines) + "\n"

    def _count_failure(self, kind: str) -> None:
        self._counters.num_failures[kind] += 1

    def _counter_lines(self) -> list[str]:
        now = self._counters
        return [
            *prometheus.single(
                "tgi_request_count", "counter", now.num_requests, "Total number of requests"
            ),
            *prometheus.single(
                "tgi_request_success",
                "counter",
                now.num_successes,
                "Number of successful requests",
            ),
            *prometheus.counters("tgi_request_failure", "err", now.num_failures),
            *prometheus.single(
                "tgi_llamacpp_partial_answers",
                "counter",
                now.num_partial,
                "Answers ended at X-Request-Timeout with what there was",
            ),
            *prometheus.single(
                "tgi_llamacpp_slow_readers",
                "counter",
                now.num_slow_readers,
                "Streams cut since too many tokens waited for their clients",
            ),
            *prometheus.counters(
                "tgi_llamacpp_reloads",
                "outcome",
                now.num_reloads,
                "Times the configuration was read again, by what became of it",
            ),
        ]
