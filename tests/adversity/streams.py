"""Streams of every kind against a running server, and what is left of them to compare."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.server_process import PATIENCE_S

VOLATILE = ("id", "created", "usage")  # the last says what the prefix cache had

Body = tuple[str, dict[str, Any]]
Events = list[dict[str, Any]]


def bodies(count: int, num_tokens: int) -> list[Body]:
    """Requests of about so many tokens, of seven kinds in turn, each with a prompt of its own."""
    return [_KINDS[n % len(_KINDS)](_prompt(n), num_tokens - 7 * (n % 5), n) for n in range(count)]


def _prompt(number: int) -> str:
    return f"{number} " + " ".join(f"word{i}" for i in range(1 + 5 * (number % 9)))


def _greedy(prompt: str, num_tokens: int, number: int) -> Body:
    body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "logprobs": 3}
    return "/v1/completions", body | {"ignore_eos": True, "stream": True}


def _sampled(prompt: str, num_tokens: int, number: int) -> Body:
    body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 1.0, "seed": number}
    more = {"ignore_eos": True, "top_p": 0.95, "frequency_penalty": 0.3, "stream": True}
    return "/v1/completions", body | more


def _details(prompt: str, num_tokens: int, number: int) -> Body:
    parameters = {
        "max_new_tokens": num_tokens,
        "details": True,
        "do_sample": True,
        "seed": number,
        "top_n_tokens": 3,
        "repetition_penalty": 1.2,
        "stop": ["of the", "?"],
    }
    return "/generate_stream", {"inputs": prompt, "parameters": parameters}


def _best_of(prompt: str, num_tokens: int, number: int) -> Body:
    body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 1.0, "seed": number}
    return "/v1/completions", body | {"best_of": 3, "n": 1, "logprobs": 1}


def _scored(prompt: str, num_tokens: int, number: int) -> Body:
    parameters = {"max_new_tokens": num_tokens, "details": True, "decoder_input_details": True}
    more = {"top_n_tokens": 2, "temperature": 0.9, "do_sample": True, "seed": number}
    return "/generate", {"inputs": prompt * 4, "parameters": parameters | more}


def _choices(prompt: str, num_tokens: int, number: int) -> Body:
    body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0.8, "seed": number, "n": 2}
    return "/v1/completions", body | {"ignore_eos": True, "stream": True}


def _chat(prompt: str, num_tokens: int, number: int) -> Body:
    body = {"messages": [{"role": "user", "content": prompt}], "max_completion_tokens": num_tokens}
    more = {"temperature": 0, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    return "/v1/chat/completions", body | more | {"stream": True}


_KINDS: tuple[Callable[[str, int, int], Body], ...] = (
    _greedy,
    _sampled,
    _details,
    _best_of,
    _scored,
    _choices,
    _chat,
)


async def run(client: httpx.AsyncClient, body: Body, on_event: Callable[[], None]) -> Events:
    """Everything that the server said, in an order that does not hang on the moment."""
    events: Events = []
    async with client.stream("POST", body[0], json=body[1]) as answer:
        if answer.headers["content-type"] != "text/event-stream":
            events.append({"status": answer.status_code} | json.loads(await answer.aread()))
        else:
            async for line in answer.aiter_lines():
                if line.startswith("data:") and line != "data: [DONE]":
                    events.append(json.loads(line.removeprefix("data:")))
                    on_event()
    for event in events:
        for name in VOLATILE:
            event.pop(name, None)
    return sorted(events, key=_choice)


def _choice(event: dict[str, Any]) -> int:
    """Choices of one request take turns as steps fall; each is in order by itself."""
    choices = event.get("choices")
    return int(choices[0]["index"]) if choices else 0


def nothing() -> None:
    """For whom events do not matter."""


async def run_all(
    url: str, requests: list[Body], on_event: Callable[[], None] = nothing
) -> list[Events]:
    """All at once; the events of each."""
    limits = httpx.Limits(max_connections=len(requests) + 1)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S * 10, limits=limits) as client:
        return await asyncio.gather(*(run(client, body, on_event) for body in requests))
