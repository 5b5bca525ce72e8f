"""The same greedy request through each door of the server, streamed and not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from tests.models.conftest import MAX_BATCH_SIZE

GENERATE, COMPLETIONS, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"
DOORS = (GENERATE, COMPLETIONS, CHAT)
TIMEOUT_S = 600.0

Body = dict[str, Any]


def nothing() -> None:
    """For whom events do not matter."""


async def text_of_answer(
    client: httpx.AsyncClient,
    door: str,
    prompt: str | list[int],
    num_tokens: int,
    *,
    streamed: bool,
    on_event: Callable[[], None] = nothing,
) -> str:
    """The text of at most so many likeliest tokens."""
    body = _body(door, prompt, num_tokens)
    if not streamed:
        answer = await client.post(door, json=body)
        assert answer.status_code == 200, answer.text
        return _text(door, answer.json())
    path = "/generate_stream" if door == GENERATE else door
    events = []
    async with client.stream("POST", path, json=body | {"stream": True}) as stream:
        assert stream.status_code == 200, await stream.aread()
        async for line in stream.aiter_lines():
            if line.startswith("data:") and line != "data: [DONE]":
                events.append(json.loads(line.removeprefix("data:")))
                on_event()
    return _text_of_events(door, events)


async def texts_at_once(
    url: str,
    door: str,
    prompts: Sequence[str | list[int]],
    num_tokens: int,
    *,
    streamed: bool,
    at_once: int = MAX_BATCH_SIZE,
    on_event: Callable[[], None] = nothing,
) -> list[str]:
    """The texts of all prompts, so many of which are open at any time."""
    gate = asyncio.Semaphore(at_once)

    async def one(client: httpx.AsyncClient, prompt: str | list[int]) -> str:
        async with gate:
            return await text_of_answer(
                client, door, prompt, num_tokens, streamed=streamed, on_event=on_event
            )

    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        return await asyncio.gather(*(one(client, prompt) for prompt in prompts))


def _body(door: str, prompt: str | list[int], num_tokens: int) -> Body:
    if door == GENERATE:
        return {"inputs": prompt, "parameters": {"max_new_tokens": num_tokens}}
    greedy: Body = {"temperature": 0, "max_tokens": num_tokens}
    if door == COMPLETIONS:
        return greedy | {"prompt": prompt}
    return greedy | {"messages": [{"role": "user", "content": prompt}]}


def _text(door: str, answer: Any) -> str:
    if door == GENERATE:
        return str(answer["generated_text"])
    (choice,) = answer["choices"]
    return str(choice["message"]["content"] if door == CHAT else choice["text"])


def _text_of_events(door: str, events: list[Any]) -> str:
    assert not any("error" in event for event in events), events[-1]
    if door != GENERATE:
        choices = [choice for event in events for choice in event["choices"]]
        if door == COMPLETIONS:
            return "".join(choice["text"] for choice in choices)
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    text = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    assert events[-1]["generated_text"] == text
    return text
