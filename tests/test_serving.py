"""Many requests at once, through the whole program: they share steps and disturb nobody."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import httpx
import pytest

from tests.server_process import ServerProcess

MAX_STEP_TOKENS = 64
NUM_REQUESTS = 16
STEP = re.compile(
    r"step: (?P<rows>\d+) rows, (?P<decode>\d+) decode, (?P<prefill>\d+) prefill, \d+ dummy, "
    r"of (?P<sequences>\d+) sequences"
)


FLAGS = (
    f"--max-batch-size={NUM_REQUESTS}",
    f"--max-physical-batch-total-tokens={MAX_STEP_TOKENS}",
    "--max-input-tokens=1500",
    "--disable-prefix-cache",  # so that every prompt is computed, alone and beside others
)


@pytest.fixture(scope="module")
def server(exact: tuple[str, ...]) -> Iterator[ServerProcess]:
    with ServerProcess("serve", *exact, *FLAGS, LOG_LEVEL="debug") as process:
        yield process
        assert process.stop() == 0


def steps_since(server: ServerProcess, num_lines: int) -> list[dict[str, int]]:
    """What the engine's log says of its steps, after its first num_lines lines."""
    found = (STEP.search(line) for line in server.log[num_lines:])
    return [{key: int(n) for key, n in step.groupdict().items()} for step in found if step]


def body_of(number: int, max_tokens: int) -> dict[str, Any]:
    """A prompt of its own, longer with each number, and an answer of exactly max_tokens."""
    words = " ".join(f"word{i}" for i in range(1 + 3 * number))
    return {
        "prompt": f"{number} {words}",
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "logprobs": 1,
    }


LONG = body_of(0, 4) | {"prompt": " ".join(f"n{i}" for i in range(330))}


async def complete(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """The only choice of an answer: its text, and the log-probability of every token."""
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == body["max_tokens"]
    choice: dict[str, Any] = answer.json()["choices"][0]
    assert len(choice["logprobs"]["token_logprobs"]) == body["max_tokens"]
    return choice


async def endless(client: httpx.AsyncClient, number: int) -> AsyncGenerator[dict[str, Any]]:
    """The events of a stream of 1,200 tokens; the connection ends with the iteration."""
    body = body_of(number, 1200) | {"stream": True}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))


async def still_runs(events: AsyncGenerator[dict[str, Any]]) -> bool:
    """Whether the stream has a next event, and it is not its last."""
    event = await anext(events)
    return "error" not in event and not event["choices"][0]["finish_reason"]


def run(server: ServerProcess, scenario: Any) -> Any:
    """Run `scenario(client)` to its end."""

    async def main() -> Any:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=100, limits=limits) as client:
            awaitable: Awaitable[Any] = scenario(client)
            return await awaitable

    return asyncio.run(main())


def test_sixteen_requests_at_once_give_the_text_of_each_alone(server: ServerProcess) -> None:
    bodies = [body_of(number, 64 + 4 * (number % 5)) for number in range(NUM_REQUESTS)]

    async def one_by_one(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        return [await complete(client, body) for body in bodies]

    async def together(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        return await asyncio.gather(*(complete(client, body) for body in bodies))

    alone = run(server, one_by_one)
    num_lines = len(server.log)
    at_once = run(server, together)
    assert at_once == alone  # to the last bit of every log-probability
    shared = [step for step in steps_since(server, num_lines) if step["sequences"] > 1]
    assert shared
    assert max(step["sequences"] for step in shared) == NUM_REQUESTS


def test_a_request_that_comes_later_starts_while_others_decode(server: ServerProcess) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async with aclosing(endless(client, 0)) as first:
            assert await still_runs(first)
            await complete(client, body_of(1, 3))
            assert await still_runs(first)

    run(server, scenario)


def test_a_client_that_hangs_up_frees_its_slot(server: ServerProcess) -> None:
    """All slots are taken; the one that waits runs as soon as another's client has gone."""

    async def scenario(client: httpx.AsyncClient) -> None:
        async with AsyncExitStack() as stack:
            running = [endless(client, number) for number in range(NUM_REQUESTS)]
            for one in running:
                await stack.enter_async_context(aclosing(one))
                assert await still_runs(one)
            waiting = asyncio.create_task(complete(client, body_of(0, 2)))
            for _ in range(5):  # steps go by, and it is not served
                assert await still_runs(running[1])
            assert not waiting.done()
            await running[0].aclose()
            await waiting
            for one in running[1:]:  # nobody else was disturbed
                assert await still_runs(one)

    run(server, scenario)


async def long_beside_streams(client: httpx.AsyncClient) -> tuple[dict[str, Any], int]:
    """What a long prompt gives that comes while three others decode, and its tokens."""
    async with AsyncExitStack() as stack:
        others = [endless(client, number) for number in range(3)]
        for one in others:
            await stack.enter_async_context(aclosing(one))
            assert await still_runs(one)
        choice = await complete(client, LONG)
        for one in others:
            assert await still_runs(one)
    ids = (await client.post("/tokenize", json={"inputs": LONG["prompt"]})).json()
    return choice, len(ids)


def test_a_long_prompt_is_computed_between_the_steps_of_others(server: ServerProcess) -> None:
    alone = run(server, lambda client: complete(client, LONG))
    num_lines = len(server.log)
    beside, num_prompt = run(server, long_beside_streams)
    assert beside == alone  # to the last bit of every log-probability
    assert num_prompt > 900
    steps = steps_since(server, num_lines)
    assert not [step for step in steps if step["prefill"] > MAX_STEP_TOKENS // 2]
    metrics = httpx.get(server.url + "/metrics").text
    assert re.search(r"^tgi_llamacpp_aside_prompts(_total)? 1$", metrics, re.MULTILINE)
    assert not re.search(r"^tgi_llamacpp_aside_seconds(_total)? 0(\.0)?$", metrics, re.MULTILINE)


def test_without_a_target_a_long_prompt_delays_the_others_by_one_step_at_a_time() -> None:
    with ServerProcess("demo", "--target-itl-ms=0", *FLAGS, LOG_LEVEL="debug") as server:
        _, num_prompt = run(server, long_beside_streams)
        steps = steps_since(server, 0)
        assert server.stop() == 0
    chunks = [step for step in steps if step["prefill"] > 1 and step["decode"] > 0]
    assert all(step["rows"] <= MAX_STEP_TOKENS for step in chunks)
    assert all(step["decode"] >= 3 for step in chunks[-10:])  # every chunk ran beside the others
    assert len(chunks) >= num_prompt // MAX_STEP_TOKENS


def test_everything_is_free_when_everyone_has_gone(server: ServerProcess) -> None:
    """After all of the above, sixteen at once fit again."""

    async def scenario(client: httpx.AsyncClient) -> None:
        await asyncio.gather(*(complete(client, body_of(n, 2)) for n in range(NUM_REQUESTS)))
        metrics = (await client.get("/metrics")).text
        assert "tgi_request_count" in metrics

    run(server, scenario)
