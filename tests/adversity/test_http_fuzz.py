"""Wild requests against a real server: no crash, no 5xx, each answered in time, nothing broken.

test_schemathesis.py asks an engine of its own what the document allows, and what breaks one rule of
it. This goes beyond the document, down to bytes and headers, with the real engine behind.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import sys
from collections import Counter

import httpx
import pytest

from tests.adversity.fuzz_requests import FuzzRequest, RequestMaker, smaller
from tests.adversity.streams import bodies, run_all
from tests.server_process import PATIENCE_S, ServerProcess

NUM_CLIENTS = 12
LONGEST_S = 30.0  # a hundred times what the slowest takes
MAX_TRIES = 300  # to make a failing request smaller
# Little output, whatever is asked: what is checked does not depend on how long answers are.
LIMITS = ("--max-input-tokens=128", "--max-total-tokens=192", "--max-concurrent-requests=64")
# An engine's answer that is wrong, also where it comes as an event of a stream.
BROKEN = re.compile(rb'"error_type":"(generation|incomplete_generation|engine_unavailable)"')


async def complaint(
    url: httpx.URL, request: FuzzRequest, statuses: Counter[str] | None = None
) -> str | None:
    """What is wrong with the answer; None if nothing is, and then its status is counted."""
    try:
        async with asyncio.timeout(LONGEST_S):
            answer = await exchange(url, request.wire())
    except TimeoutError:
        return f"no answer within {LONGEST_S:.0f} s"
    except OSError as error:
        return f"no answer: {error!r}"
    status = re.match(rb"HTTP/1\.1 ([1-4]\d\d) ", answer)
    if status is None:
        return f"answer {answer[:300]!r}"
    if statuses is not None:
        statuses[status[1].decode()] += 1
    broken = BROKEN.search(answer)
    return None if broken is None else f"an answer with {broken[0]!r}"


class _Answer(asyncio.Protocol):
    """What came before the end, also where the end is a reset: a server need not read a body that
    it refuses."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def exchange(url: httpx.URL, wire: bytes) -> bytes:
    """The whole answer."""
    loop = asyncio.get_running_loop()
    transport, answer = await loop.create_connection(_Answer, url.host, url.port)
    try:
        transport.write(wire)
        await answer.ended.wait()
        return bytes(answer.received)
    finally:
        transport.abort()


async def smallest(url: httpx.URL, request: FuzzRequest, said: str) -> tuple[FuzzRequest, str]:
    """The request with everything left out without which the server still fails."""
    num_tries = 0
    while num_tries < MAX_TRIES:
        for candidate in smaller(request):
            num_tries += 1
            new = await complaint(url, candidate)
            if new is not None:
                request, said = candidate, new
                break
            if num_tries >= MAX_TRIES:
                break
        else:
            break
    return request, said


async def fuzz(url: httpx.URL, maker: RequestMaker, num_requests: int) -> list[tuple[int, str]]:
    """(number, complaint) of the requests that were answered wrong; stops at the third."""
    numbers = iter(range(num_requests))
    found: list[tuple[int, str]] = []
    statuses: Counter[str] = Counter()

    async def client() -> None:
        for number in numbers:
            said = await complaint(url, maker.make(number), statuses)
            if said is not None:
                found.append((number, said))
            if len(found) > 2:
                return

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    sys.stdout.write(f"\n{dict(sorted(statuses.items()))}\n")
    assert found or statuses["200"] > num_requests / 8, "too few of them reach the engine"
    return found


async def report(url: httpx.URL, maker: RequestMaker, number: int, said: str, seed: int) -> str:
    request, still = await smallest(url, maker.make(number), said)
    fields = {name: repr(value)[:2000] for name, value in dataclasses.asdict(request).items()}
    return f"seed {seed}, request {number}: {said}\nsmallest: {still}\n{fields}"


def check_fuzz(exact: tuple[str, ...], seed: int, num_requests: int) -> None:
    canary = [body for body in bodies(5, 24) if body[0] != "/generate"]
    with ServerProcess("serve", *exact, *LIMITS, LOG_LEVEL="info") as server:
        url = httpx.URL(server.url)
        engine_pid = server.engine_pid
        expected = asyncio.run(run_all(server.url, canary))
        assert "error" not in str(expected)
        document = httpx.get(f"{url}/api-doc/openapi.json", timeout=PATIENCE_S).json()
        maker = RequestMaker(document, seed)
        found = asyncio.run(fuzz(url, maker, num_requests))
        if found:
            number, said = found[0]
            pytest.fail(asyncio.run(report(url, maker, number, said, seed)))
        assert asyncio.run(run_all(server.url, canary)) == expected
        assert "engine 2 started" not in server.text
        assert "Traceback" not in server.text
        assert server.engine_pid == engine_pid
        assert server.stop() == 0


@pytest.mark.slow
def test_a_thousand_wild_requests_leave_the_server_as_it_was(exact: tuple[str, ...]) -> None:
    check_fuzz(exact, seed=1, num_requests=1000)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ten_thousand_wild_requests_leave_the_server_as_it_was(exact: tuple[str, ...]) -> None:
    check_fuzz(exact, seed=2, num_requests=10_000)


def test_the_wild_requests_of_a_seed_are_always_the_same_and_of_many_kinds() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "a": {"type": "string"}}}
    content = {"content": {"application/json": {"schema": schema}}}
    document = {
        "components": {"schemas": {}},
        "paths": {"/one": {"post": {"requestBody": content}}, "/two": {"get": {}}},
    }
    made = [RequestMaker(document, seed=7).make(number) for number in range(300)]
    assert made == [RequestMaker(document, seed=7).make(number) for number in range(300)]
    assert len(set(made)) > 100
    assert {request.path for request in made} > {"/one", "/two"}
