"""Prompts that begin alike, through the whole program: the same answers with the cache and without.

The demo model's exact copy, for which llama.cpp's CPU kernels give the same bits whatever a step
computes, so that every log-probability is equal, and not the text alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from benchmarks.machine_state import cpu_s_of_tree
from tests.server_process import ServerProcess

SIZE = (
    "--max-batch-size=4",
    "--max-total-tokens=1024",
    "--max-input-tokens=900",
    "--max-concurrent-requests=16",
)
SYSTEM = " ".join(f"rule{i}" for i in range(60))
PROMPTS = [f"{SYSTEM} question {number}" for number in range(10)]

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def servers(exact: tuple[str, ...]) -> Iterator[dict[str, ServerProcess]]:
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(ServerProcess("serve", *exact, *SIZE, *flags))
            for name, flags in {
                "split": (),
                "unified": ("--max-batch-total-tokens=2048",),
                "off": ("--disable-prefix-cache",),
                "host": ("--max-batch-size=2", "--cache-ram=64"),
                "little": ("--max-batch-size=2", "--cache-ram=1"),
            }.items()
        }
        yield started
        for server in started.values():
            assert server.stop() == 0


def body_of(prompt: str, max_tokens: int = 12) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "logprobs": 1,
    }


def ask(server: ServerProcess, prompts: list[str], *, at_once: bool = False) -> list[Answer]:
    async def complete(client: httpx.AsyncClient, prompt: str) -> Answer:
        answer = await client.post("/v1/completions", json=body_of(prompt))
        assert answer.status_code == 200, answer.text
        body: Answer = answer.json()
        return body

    async def main() -> list[Answer]:
        async with httpx.AsyncClient(base_url=server.url, timeout=100) as client:
            if at_once:
                return await asyncio.gather(*(complete(client, prompt) for prompt in prompts))
            return [await complete(client, prompt) for prompt in prompts]

    return asyncio.run(main())


def choices_of(answers: list[Answer]) -> list[Any]:
    return [answer["choices"] for answer in answers]


def cached_of(answers: list[Answer]) -> list[int]:
    return [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]


def metric_of(server: ServerProcess, name: str) -> int:
    lines = httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return int(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture(scope="module")
def expected(servers: dict[str, ServerProcess]) -> list[Answer]:
    """The answers of a server that computes every prompt."""
    answers = ask(servers["off"], PROMPTS)
    assert cached_of(answers) == [0] * len(PROMPTS)
    return answers


@pytest.mark.parametrize("layout", ["split", "unified"])
def test_prompts_that_begin_alike_are_answered_as_without_the_cache(
    layout: str, servers: dict[str, ServerProcess], expected: list[Answer]
) -> None:
    server = servers[layout]
    at_once = ask(server, PROMPTS, at_once=True)
    assert choices_of(at_once) == choices_of(expected)
    assert sorted(cached_of(at_once))[0] == 0  # of the one that computed it
    assert sorted(cached_of(at_once))[1] > 100
    again = ask(server, PROMPTS)
    assert choices_of(again) == choices_of(expected)
    assert min(cached_of(again)) > 100


@pytest.mark.parametrize("layout", ["split", "unified"])
def test_a_prompt_that_is_repeated_is_found_but_for_its_last_token(
    layout: str, servers: dict[str, ServerProcess]
) -> None:
    prompt = f"{layout} {' '.join(f'word{i}' for i in range(50))}"
    first, second = ask(servers[layout], [prompt, prompt])
    assert choices_of([first]) == choices_of([second])
    assert cached_of([first, second]) == [0, second["usage"]["prompt_tokens"] - 1]


def test_what_was_found_is_counted(servers: dict[str, ServerProcess]) -> None:
    server = servers["split"]
    found = cached_of(ask(server, [PROMPTS[0], PROMPTS[1]]))
    ask(server, ["a"])  # the counters came when the engine had nothing to do, before this
    assert metric_of(server, "tgi_llamacpp_prefix_cache_hits") >= 2
    assert metric_of(server, "tgi_llamacpp_prefix_cache_cached_tokens") >= sum(found)
    assert metric_of(server, "tgi_llamacpp_prefix_cache_parked_tokens") > 0
    assert metric_of(servers["off"], "tgi_llamacpp_prefix_cache_hits") == 0


# Beginnings that more prompts have than there are slots

TOPICS = [" ".join(f"topic{number}word{i}" for i in range(50)) for number in range(6)]


@pytest.mark.parametrize("name", ["host", "little"])
def test_what_has_left_its_slot_is_answered_as_without_the_cache(
    name: str, servers: dict[str, ServerProcess]
) -> None:
    expected = choices_of(ask(servers["off"], TOPICS))
    server = servers[name]
    assert choices_of(ask(server, TOPICS)) == expected
    again = ask(server, TOPICS)
    assert choices_of(again) == expected
    ask(server, ["a"])  # the counters came when the engine had nothing to do, before this
    num_bytes = metric_of(server, "tgi_llamacpp_cache_ram_bytes")
    assert num_bytes <= metric_of(server, "tgi_llamacpp_cache_ram_max_bytes")
    if name == "host":
        found = [num_tokens for num_tokens in cached_of(again) if num_tokens > 100]
        assert metric_of(server, "tgi_llamacpp_cache_ram_hits") >= len(found) > 2
        assert metric_of(server, "tgi_llamacpp_cache_ram_cached_tokens") >= sum(found)
        assert num_bytes > 0


# What an engine at rest does

IDLE_SAVES = "tgi_llamacpp_cache_ram_idle_saves"


def test_what_was_saved_at_rest_is_answered_as_without_the_cache(
    servers: dict[str, ServerProcess],
) -> None:
    server = servers["host"]
    prompts = [" ".join(f"rest{number}word{i}" for i in range(50)) for number in range(4)]
    expected = choices_of(ask(servers["off"], prompts[:1]))
    num_before = metric_of(server, IDLE_SAVES)
    assert choices_of(ask(server, prompts[:1])) == expected
    deadline_s = time.monotonic() + 20
    while metric_of(server, IDLE_SAVES) == num_before:
        assert time.monotonic() < deadline_s, "nothing was saved"
    ask(server, prompts[1:])  # which need its slot
    again = ask(server, prompts[:1])
    assert choices_of(again) == expected
    assert cached_of(again)[0] > 100


def test_an_engine_at_rest_takes_no_cpu(servers: dict[str, ServerProcess]) -> None:
    server = servers["host"]
    ask(server, ["What does it do now?"])
    time.sleep(0.5)  # the saves
    before_s = cpu_s_of_tree(server.engine_pid)
    time.sleep(1.0)
    assert cpu_s_of_tree(server.engine_pid) - before_s < 0.1
