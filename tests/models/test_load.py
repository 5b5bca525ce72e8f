"""A minute of clients of all kinds, many of whom leave: nothing is lost, and memory stays flat."""

from __future__ import annotations

import asyncio
import random
import time

import httpx
import pytest

from benchmarks.process_memory import Sample, take_sample
from tests.adversity.streams import bodies, nothing, run
from tests.adversity.test_cancel import leave, wait_for_rest
from tests.models.conftest import MAX_PERMITS, Served
from tests.models.doors import COMPLETIONS, TIMEOUT_S
from tests.models.equal_text import num_equal
from tests.models.plain_loop import PlainLoop
from tests.models.texts import inventory

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

NUM_CLIENTS = 16
WARM_UP_S, LOAD_S = 20.0, 40.0
MOST_GROWTH_KIB = 16 * 1024
NUM_KINDS = 21  # of bodies, each kind of request three times


async def load(url: str, duration_s: float, dice: random.Random) -> int:
    """Requests of sixteen clients, a third of which leave at any moment; how many had answers."""
    requests = bodies(NUM_KINDS, 30)
    port = int(url.rpartition(":")[2])
    until_s = time.monotonic() + duration_s
    num_answered = 0

    async def client_of(number: int, http: httpx.AsyncClient) -> None:
        nonlocal num_answered
        mine = random.Random(number)
        while time.monotonic() < until_s:
            path, body = mine.choice(requests)
            if mine.random() < 0.33:
                await leave(port, (path, body), mine)
                continue
            events = await run(http, (path, dict(body)), nothing)
            assert events
            assert "error" not in str(events), (path, body, events)
            num_answered += 1

    limits = httpx.Limits(max_connections=NUM_CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as http:
        numbers = [dice.randrange(1 << 30) for _ in range(NUM_CLIENTS)]
        await asyncio.gather(*(client_of(number, http) for number in numbers))
    return num_answered


def samples(served: Served) -> dict[str, Sample]:
    """Of router and engine, with nothing to do."""
    wait_for_rest(served.process)
    pids = {"router": served.process.pid, "engine": served.engine_pid}
    return {name: take_sample(pid, 0.0, 0) for name, pid in pids.items()}


def test_sixteen_clients_of_whom_a_third_leave_take_no_memory_with_them(
    served: Served, plain_loop: PlainLoop
) -> None:
    dice = random.Random(12)
    url, engine_pid = served.process.url, served.engine_pid
    fill_host_cache(served)
    asyncio.run(load(url, WARM_UP_S, dice))
    before = samples(served)
    assert asyncio.run(load(url, LOAD_S, dice)) > 0
    after = samples(served)
    growth = {name: after[name].anonymous_kib - before[name].anonymous_kib for name in after}
    assert max(growth.values()) < MOST_GROWTH_KIB, (before, after)
    for name, sample in after.items():
        assert sample.num_fds <= before[name].num_fds + 2
    assert served.engine_pid == engine_pid

    everything = {"prompt": "a", "max_tokens": 1, "n": MAX_PERMITS}
    assert len(served.post(COMPLETIONS, everything)["choices"]) == MAX_PERMITS
    prompt = inventory(1, 6)
    ids = plain_loop.tokenize(prompt, add_special=True)
    assert ids is not None
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 12}
    num_equal(served.post(COMPLETIONS, body)["choices"][0]["text"], plain_loop.greedy(ids, 12))


def fill_host_cache(served: Served) -> None:
    """So that what it may hold is no growth; what leaves a slot goes there."""
    for number in range(2 * 8):
        prompt = inventory(10_000 + 200 * number, 20)
        served.post(COMPLETIONS, {"prompt": prompt, "max_tokens": 1})
