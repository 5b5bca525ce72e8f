"""Sends a workload to a /v1/completions route by URL and notes when every token came.

Written to cost little CPU, because it shares the cores with what it measures: while the clock runs
it only counts events and keeps the bytes; they are parsed afterwards, and then every answer must
have the number of tokens that was asked. Knows nothing of who serves.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import uvloop

from benchmarks.scenarios import Request, Stream

_EVENT = b"\ndata:"
_LAST_CHUNK = b"0\r\n\r\n"
_TIMEOUT_S = 900.0

Body = dict[str, object]


class BenchError(Exception):
    """A server that did not do what it was asked, so that its times mean nothing."""


@dataclass(frozen=True)
class Answer:
    """Times are seconds of one clock; token_times_s has one entry per event with text."""

    group: str
    start_s: float
    token_times_s: tuple[float, ...]
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int


def send(url: str, streams: Sequence[Stream], make_body: Callable[[Request], Body]) -> list[Answer]:
    """Run the workload; blocks until all is answered.

    Raises:
        BenchError: an answer with an error, with other token counts than asked, or none in time.
    """
    return uvloop.run(_send(url, streams, make_body))


async def _send(
    url: str, streams: Sequence[Stream], make_body: Callable[[Request], Body]
) -> list[Answer]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    target = _Target(parts.hostname, parts.port, parts.path)
    payloads = [[_payload(target, make_body(r)) for r in stream.requests] for stream in streams]
    start_s = time.perf_counter()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            done = await asyncio.gather(
                *(
                    _run_stream(target, stream, own, start_s)
                    for stream, own in zip(streams, payloads, strict=True)
                )
            )
    except TimeoutError:
        raise BenchError(f"{url} has not answered everything within {_TIMEOUT_S:.0f} s") from None
    return [
        _read_answer(exchange, request, stream.group)
        for stream, exchanges in zip(streams, done, strict=True)
        for request, exchange in zip(stream.requests, exchanges, strict=True)
    ]


@dataclass(frozen=True)
class _Target:
    host: str
    port: int
    path: str


class _Exchange(asyncio.Protocol):
    """One request on a connection of its own."""

    def __init__(self) -> None:
        self.start_s = time.perf_counter()
        self.arrivals: list[tuple[float, int]] = []  # time, number of events in that read
        self.received: list[bytes] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        self.received.append(data)
        fresh = self._tail + data
        num_events = fresh.count(_EVENT)
        self._tail = fresh[1 - len(_EVENT) :]
        if num_events:
            self.arrivals.append((now_s, num_events))
        if fresh.endswith(_LAST_CHUNK):
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _run_stream(
    target: _Target, stream: Stream, payloads: Sequence[bytes], start_s: float
) -> list[_Exchange]:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, start_s + stream.start_s - time.perf_counter()))
    exchanges = []
    for payload in payloads:
        exchange = _Exchange()
        transport, _ = await loop.create_connection(
            functools.partial(_same, exchange), target.host, target.port
        )
        transport.write(payload)
        await exchange.done
        transport.close()
        exchanges.append(exchange)
    return exchanges


def _same(exchange: _Exchange) -> _Exchange:
    return exchange


def _payload(target: _Target, body: Body) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + content


def _read_answer(exchange: _Exchange, request: Request, group: str) -> Answer:
    """Off the clock: what the counted events said."""
    reading = _Reading(_body_of(b"".join(exchange.received)))
    times = [time_s for time_s, num_events in exchange.arrivals for _ in range(num_events)]
    if len(times) != len(reading.has_text):
        raise BenchError(f"counted {len(times)} events, parsed {len(reading.has_text)}")
    got = (reading.num_prompt_tokens, reading.num_output_tokens)
    asked = (request.num_prompt_tokens, request.num_output_tokens)
    if got != asked:
        raise BenchError(f"asked for {asked} tokens of prompt and output, the server counted {got}")
    token_times = [at for at, has_text in zip(times, reading.has_text, strict=True) if has_text]
    return Answer(group, exchange.start_s, tuple(token_times), *got, reading.num_cached_tokens)


@dataclass
class _Reading:
    """The events of one answer, in the form of OpenAI's completions."""

    body: bytes
    has_text: list[bool] = field(default_factory=list)
    num_prompt_tokens: int = -1
    num_output_tokens: int = -1
    num_cached_tokens: int = 0

    def __post_init__(self) -> None:
        for line in self.body.splitlines():
            if line.startswith(b"data:"):
                self._read_event(line.removeprefix(b"data:").strip())

    def _read_event(self, data: bytes) -> None:
        event = {} if data == b"[DONE]" else json.loads(data)
        if "error" in event:
            raise BenchError(f"the stream broke: {data.decode()}")
        self.has_text.append(any(choice["text"] for choice in event.get("choices", ())))
        if usage := event.get("usage"):
            self.num_prompt_tokens = usage["prompt_tokens"]
            self.num_output_tokens = usage["completion_tokens"]
            details = usage.get("prompt_tokens_details") or {}
            self.num_cached_tokens = details.get("cached_tokens", 0)


def _body_of(response: bytes) -> bytes:
    head, _, rest = response.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"the server answered {response[:500].decode(errors='replace')}")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        rest = rest[length + 2 :]
    return bytes(body)
