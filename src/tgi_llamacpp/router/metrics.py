"""What the router counts, and how `/metrics` prints it: TGI's names, types and buckets.

Owns the numbers and the Prometheus text format. Fed by the handlers and by the engine's Stats;
knows neither HTTP nor the engine's socket.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate

from tgi_llamacpp.config import LimitsConfig
from tgi_llamacpp.errors import (
    GenerationError,
    IncompleteError,
    OverloadedError,
    TemplateError,
    TgiError,
    ValidationError,
)
from tgi_llamacpp.messages import Stats
from tgi_llamacpp.router.json_format import plain_float

_FAILURES: tuple[tuple[type[TgiError], str], ...] = (
    (OverloadedError, "overloaded"),
    (ValidationError, "validation"),
    (TemplateError, "template"),
    (IncompleteError, "incomplete"),
    (GenerationError, "generation"),
)
_NUM_DURATION_BUCKETS = 35
_NUM_LENGTH_BUCKETS = 100


def duration_buckets() -> list[float]:
    """Upper bounds in seconds: 35 of them, each 1.5 times the one before, from 0.00015."""
    start = 0.0001 * 1.5
    return list(accumulate([start] + [1.5] * (_NUM_DURATION_BUCKETS - 1), lambda a, b: a * b))


def length_buckets(limit: int) -> list[float]:
    """Upper bounds in tokens: a hundred equal steps up to `limit`."""
    return [limit / _NUM_LENGTH_BUCKETS * step for step in range(1, _NUM_LENGTH_BUCKETS + 1)]


class Histogram:
    """Cumulative counts of what was observed, below each of some bounds."""

    def __init__(self, name: str, help_text: str, bounds: list[float]) -> None:
        self.name = name
        self._help = help_text
        self._bounds = bounds
        self._labels = [plain_float(bound) for bound in bounds] + ["+Inf"]
        self._counts = [0] * len(self._labels)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        cumulative = list(accumulate(self._counts))
        return [
            *_head(self.name, "histogram", self._help),
            *(
                f'{self.name}_bucket{{le="{label}"}} {count}'
                for label, count in zip(self._labels, cumulative, strict=True)
            ),
            f"{self.name}_sum {plain_float(self._sum)}",
            f"{self.name}_count {cumulative[-1]}",
            "",
        ]


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Where the time of one finished request went, in seconds."""

    total_s: float
    validation_s: float
    queue_s: float
    inference_s: float
    time_per_token_s: float


@dataclass(slots=True)
class _Counters:
    num_requests: int = 0
    num_successes: int = 0
    num_failures: dict[str, int] = field(default_factory=dict)


class Metrics:
    """All metrics of this router."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._counters = _Counters()
        durations = duration_buckets()

        def duration(name: str, help_text: str) -> Histogram:
            return Histogram(name, help_text, durations)

        self._duration = duration("tgi_request_duration", "Request duration")
        self._validation = duration(
            "tgi_request_validation_duration", "Request validation duration"
        )
        self._queue = duration("tgi_request_queue_duration", "Request queue duration")
        self._inference = duration("tgi_request_inference_duration", "Request inference duration")
        self._per_token = duration(
            "tgi_request_mean_time_per_token_duration", "Mean time per token per request"
        )
        total, most_input = limits.max_total_tokens, limits.max_input_tokens
        self._generated = Histogram(
            "tgi_request_generated_tokens", "Generated tokens per request", length_buckets(total)
        )
        self._input = Histogram(
            "tgi_request_input_length",
            "Input token length per request",
            length_buckets(most_input),
        )
        self._max_new = Histogram(
            "tgi_request_max_new_tokens",
            "Maximum new tokens per request",
            length_buckets(total),
        )

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
        self._count_failure("dropped")

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

    def render(self, stats: Stats | None) -> str:
        """The Prometheus text: counters, gauges, histograms, each followed by a blank line."""
        lines = self._counter_lines() + (_engine_lines(stats) if stats is not None else [])
        for histogram in (
            self._duration,
            self._validation,
            self._queue,
            self._inference,
            self._per_token,
            self._generated,
            self._input,
            self._max_new,
        ):
            lines += histogram.lines()
        return "\n".join(lines) + "\n"

    def _count_failure(self, kind: str) -> None:
        failures = self._counters.num_failures
        failures[kind] = failures.get(kind, 0) + 1

    def _counter_lines(self) -> list[str]:
        counters = self._counters
        lines = _single(
            "tgi_request_count", "counter", counters.num_requests, "Total number of requests"
        )
        lines += _single(
            "tgi_request_success",
            "counter",
            counters.num_successes,
            "Number of successful requests",
        )
        if counters.num_failures:
            name = "tgi_request_failure"
            kinds = sorted(counters.num_failures.items())
            lines += _head(name, "counter", None)
            lines += [f'{name}{{err="{kind}"}} {count}' for kind, count in kinds] + [""]
        return lines


def _engine_lines(stats: Stats) -> list[str]:
    """What the engine says of itself: counters first, then gauges."""
    lines: list[str] = []
    for name, value, help_text in (
        ("steps", stats.num_steps, "Steps the engine has run"),
        ("shared_steps", stats.num_shared_steps, "Steps that ran more than one sequence"),
        ("decode_tokens", stats.num_decode_tokens, "Tokens decoded"),
        ("prefill_tokens", stats.num_prefill_tokens, "Prompt tokens computed"),
        ("reused_graphs", stats.num_reused_graphs, "Steps that reused a compute graph"),
        ("step_seconds", stats.step_s, "Time inside the model's steps"),
    ):
        lines += _single(f"tgi_llamacpp_{name}", "counter", value, help_text)
    for name, value, help_text in (
        ("tgi_queue_size", stats.num_waiting, "Current queue size"),
        ("tgi_batch_current_size", stats.num_running, "Current batch size"),
        (
            "tgi_batch_current_max_tokens",
            stats.num_reserved_tokens,
            "Maximum tokens for the current batch",
        ),
    ):
        lines += _single(name, "gauge", value, help_text)
    return lines


def _single(name: str, kind: str, value: float, help_text: str) -> list[str]:
    return [*_head(name, kind, help_text), f"{name} {plain_float(float(value))}", ""]


def _head(name: str, kind: str, help_text: str | None) -> list[str]:
    type_line = f"# TYPE {name} {kind}"
    return [type_line] if help_text is None else [f"# HELP {name} {help_text}", type_line]
