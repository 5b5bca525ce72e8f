"""Requests of every kind that a server meets, the wrong and the broken-off among them, without end.

`draw` makes one from a random source, `ask` sends it over a connection of its own and says how it
ended. Knows nothing of memory and time limits beyond one request's; bench_soak.py runs it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, product
from string import ascii_lowercase
from typing import Any

TIMEOUT_S = 120.0
BROKEN_OFF = "broken off"
# What a client may be told: 422, 400, 404, 413 and 415 for a wrong request, 429 for one too many.
_DOCUMENTED = (200, 400, 404, 405, 413, 415, 422, 429)
_WORDS = ["river", "stone", "light", "green", "window", "seven", "under", "paper", "music", "cold"]
_WORDS_AT_ONCE = 1000
_SHARED_PREFIXES = tuple(" ".join(_WORDS[i:] + _WORDS * 20) for i in range(4))

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """`num_reads` is after how many reads the client leaves; None: it stays to the end."""

    kind: str
    method: str
    path: str
    content: bytes
    num_reads: int | None = None


@dataclass(frozen=True)
class Ending:
    """`status` is 0 where the client left before one came."""

    kind: str
    status: int
    problem: str | None  # None: as documented


def draw(dice: random.Random) -> Call:
    """The next request; one in eight of those that generate is left by its client."""
    kind, make = dice.choices(_KINDS, [weight for _, _, weight in _WEIGHTED])[0]
    path, body = make(dice)
    if body is None:
        return Call(kind, "GET", path, b"")
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    leaves = kind != "wrong" and dice.random() < 0.125
    return Call(kind, "POST", path, content, dice.randint(0, 6) if leaves else None)


def new_words(num_words: int) -> list[Call]:
    """Requests with so many different words, which fill what a tokenizer remembers of words."""
    words = (a + b + c + d for a, b, c, d in product(ascii_lowercase, repeat=4))
    texts = (" ".join(islice(words, _WORDS_AT_ONCE)) for _ in range(num_words // _WORDS_AT_ONCE))
    bodies = (json.dumps({"inputs": text}).encode() for text in texts)
    return [Call("tokenize", "POST", "/tokenize", body) for body in bodies]


async def ask(host: str, port: int, call: Call) -> Ending:
    """Send it and read the answer, or leave; never raises for what the server does."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _ask(host, port, call)
    except TimeoutError:
        return Ending(call.kind, 0, f"no end within {TIMEOUT_S:.0f} s")
    except OSError as error:
        return Ending(call.kind, 0, f"{type(error).__name__}: {error}")


async def _ask(host: str, port: int, call: Call) -> Ending:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_head(host, port, call) + call.content)
        received = bytearray()
        num_reads = 0
        while call.num_reads is None or num_reads < call.num_reads:
            data = await reader.read(1 << 16)
            if not data:
                break
            received += data
            num_reads += 1
        else:
            writer.transport.abort()
            return Ending(BROKEN_OFF, 0, None)
        return _judge(call, bytes(received))
    finally:
        writer.close()


def _head(host: str, port: int, call: Call) -> bytes:
    return (
        f"{call.method} {call.path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(call.content)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def _judge(call: Call, received: bytes) -> Ending:
    line = received.partition(b"\r\n")[0]
    status = int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0
    is_right = status in _DOCUMENTED and (call.kind == "wrong") == (status not in (200, 429))
    if not is_right:
        return Ending(call.kind, status, f"{call.path}: {received[-300:]!r}")
    if b'data: {"error"' in received or b'data:{"error"' in received:
        return Ending(call.kind, status, f"{call.path}: an error in a stream: {received[-300:]!r}")
    return Ending(call.kind, status, None)


def _text(dice: random.Random, low: int, high: int) -> str:
    return " ".join(dice.choices(_WORDS, k=dice.randint(low, high)))


def _prompt(dice: random.Random) -> str:
    """Short, long, or with a beginning that others have too."""
    shape = dice.random()
    if shape < 0.5:
        return _text(dice, 1, 40)
    if shape < 0.6:
        return _text(dice, 150, 250)
    return dice.choice(_SHARED_PREFIXES)[: dice.randint(200, 1200)] + _text(dice, 1, 20)


def _openai(dice: random.Random) -> Json:
    """Sampling options of the OpenAI routes."""
    body: Json = {"max_tokens": dice.choice((1, 4, 16, 48)), "stream": dice.random() < 0.5}
    body["temperature"] = dice.choice((0, 0.7, 1, 1.5))
    for option in dice.sample(_OPENAI_OPTIONS, dice.randint(0, 3)):
        body |= option(dice)
    return body


_OPENAI_OPTIONS: tuple[Callable[[random.Random], Json], ...] = (
    lambda dice: {"top_p": dice.uniform(0.1, 0.99)},
    lambda dice: {"top_k": dice.randint(1, 100)},
    lambda dice: {"min_p": dice.uniform(0.01, 0.2)},
    lambda dice: {"typical_p": dice.uniform(0.2, 0.9)},
    lambda dice: {"frequency_penalty": dice.uniform(-1, 1), "presence_penalty": 0.5},
    lambda dice: {"repetition_penalty": dice.uniform(1.05, 1.5), "repeat_last_n": 64},
    lambda dice: {"dry_multiplier": 0.8, "dry_allowed_length": dice.randint(1, 4)},
    lambda dice: {"xtc_probability": 0.5, "xtc_threshold": 0.05, "temperature": 1},
    lambda dice: {"mirostat": dice.randint(1, 2), "temperature": 1},
    lambda dice: {"logit_bias": {str(dice.randint(0, 500)): dice.choice((-100, 5))}},
    lambda dice: {"stop": dice.sample((" the", "a", "\n", "zebra", "of the"), dice.randint(1, 4))},
    lambda dice: {"seed": dice.randint(0, 2**40)},
    lambda dice: {"n": 2},
)


def _completions(dice: random.Random) -> tuple[str, Json]:
    body: Json = {"prompt": _prompt(dice)} | _openai(dice)
    if dice.random() < 0.3:
        body |= {"logprobs": dice.randint(0, 4)}
    if dice.random() < 0.1:
        body |= {"prompt": [_prompt(dice), _prompt(dice)], "echo": True}
    return "/v1/completions", body


def _chat(dice: random.Random) -> tuple[str, Json]:
    system = {"role": "system", "content": dice.choice(_SHARED_PREFIXES)[:400]}
    user = {"role": "user", "content": _text(dice, 2, 40)}
    body: Json = {"messages": [system, user] if dice.random() < 0.5 else [user]} | _openai(dice)
    if dice.random() < 0.3:
        body |= {"logprobs": True, "top_logprobs": dice.randint(0, 4)}
    return "/v1/chat/completions", body


def _generate(dice: random.Random) -> tuple[str, Json]:
    parameters: Json = {"max_new_tokens": dice.choice((1, 4, 16, 48))}
    options: tuple[Json, ...] = (
        {"do_sample": True, "temperature": 0.8},
        {"details": True, "top_n_tokens": 3},
        {"details": True, "decoder_input_details": True},
        {"stop": [" the", "?"]},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.1},
        {"do_sample": True, "best_of": 2},
        {"return_full_text": True},
        {"truncate": 20},
        {"typical_p": 0.5, "do_sample": True},
    )
    for option in dice.sample(options, dice.randint(0, 3)):
        parameters |= option
    path = dice.choice(("/generate", "/generate", "/", "/generate_stream"))
    if path == "/generate_stream":  # which has neither
        parameters = {k: v for k, v in parameters.items() if k not in _NOT_STREAMED}
    return path, {"inputs": _prompt(dice), "parameters": parameters}


_NOT_STREAMED = ("best_of", "decoder_input_details")


def _platform(dice: random.Random) -> tuple[str, Json]:
    parameters = {"max_new_tokens": 4}
    inputs = {"inputs": _prompt(dice), "parameters": parameters}
    kserve = {
        "id": "7",
        "parameters": parameters,
        "inputs": [
            {"name": "in", "shape": [1], "datatype": "BYTES", "data": list(b"Hello there")},
        ],
        "outputs": [{"name": "out", "shape": [1], "datatype": "BYTES", "data": []}],
    }
    bodies = (
        ("/invocations", inputs),
        ("/invocations", _chat(dice)[1] | {"stream": False}),
        ("/vertex", {"instances": [inputs, inputs]}),
        ("/v2/models/demo/versions/1/infer", kserve),
    )
    return dice.choice(bodies)


def _tokenize(dice: random.Random) -> tuple[str, Json]:
    chat = {"messages": [{"role": "user", "content": _prompt(dice)}]}
    return dice.choice((("/tokenize", {"inputs": _prompt(dice)}), ("/chat_tokenize", chat)))


def _look(dice: random.Random) -> tuple[str, None]:
    paths = ("/health", "/info", "/metrics", "/v1/models", "/ping", "/v2/health/ready")
    return dice.choice((*paths, "/api-doc/openapi.json", "/docs/")), None


def _wrong(dice: random.Random) -> tuple[str, Json | bytes]:
    """Refused before anything is generated; a different one each time, as logs and caches see."""
    name = f"x{dice.getrandbits(48):x}"
    requests: tuple[tuple[str, Json | bytes], ...] = (
        ("/generate", b'{"inputs": "' + name.encode()),
        ("/generate", {"inputs": name, "parameters": {"top_p": 2.0 + dice.random()}}),
        ("/generate", {"inputs": _text(dice, 2500, 3000)}),
        ("/v1/completions", {"prompt": 7, name: name}),
        ("/v1/chat/completions", {"messages": [{"role": name, "content": [{"type": name}]}]}),
        ("/v1/chat/completions", b"[" * dice.randint(1, 5000)),
        ("/vertex", {"instances": []}),
        (f"/{name}", {}),
        (f"/v2/models/{name}/infer/{name}", {}),
    )
    return dice.choice(requests)


_WEIGHTED = (
    ("completions", _completions, 6),
    ("chat", _chat, 4),
    ("generate", _generate, 6),
    ("platform", _platform, 2),
    ("tokenize", _tokenize, 2),
    ("look", _look, 2),
    ("wrong", _wrong, 4),
)
_KINDS = [(kind, make) for kind, make, _ in _WEIGHTED]
