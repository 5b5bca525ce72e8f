"""What clients see of a server that is told to stop: their answer, or that it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.server_process import PATIENCE_S, ServerProcess

STOPPING = "The server is stopping"
ENDLESS = 2000
PROMPT = {"inputs": "Once", "parameters": {"max_new_tokens": ENDLESS, "stop": []}}
COMPLETION = {"prompt": "Once", "max_tokens": ENDLESS, "ignore_eos": True}
CHAT = {
    "messages": [{"role": "user", "content": "Once"}],
    "max_completion_tokens": ENDLESS,
    "ignore_eos": True,
}
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/generate_stream", PROMPT),
    ("/", PROMPT | {"stream": True}),
    ("/v1/completions", COMPLETION | {"stream": True, "n": 2}),
    ("/v1/chat/completions", CHAT | {"stream": True}),
]
WHOLE: list[tuple[str, dict[str, Any]]] = [
    ("/generate", PROMPT),
    ("/v1/completions", COMPLETION | {"best_of": 2}),
    ("/v1/chat/completions", CHAT),
    ("/vertex", {"instances": [PROMPT]}),
]


async def stream(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[str]:
    """The data of all events; the answer must end as HTTP has it."""
    async with client.stream("POST", path, json=body) as answer:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data:")]
    return [line.removeprefix("data:").strip() for line in lines]


@contextlib.asynccontextmanager
async def standing_still(server: ServerProcess) -> AsyncIterator[None]:
    """Nothing will finish by itself."""
    os.kill(server.engine_pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.engine_pid, signal.SIGCONT)


async def cut_off(server: ServerProcess, *, twice: bool) -> None:
    limits = httpx.Limits(max_connections=20)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client,
        standing_still(server),
    ):
        streams = [asyncio.create_task(stream(client, *request)) for request in STREAMS]
        answers = [asyncio.create_task(client.post(path, json=body)) for path, body in WHOLE]
        await wait_for_requests(client, len(STREAMS) + len(WHOLE))
        server.signal(signal.SIGTERM)
        await asyncio.to_thread(server.wait_for, "stopping when requests have finished")
        if twice:
            server.signal(signal.SIGTERM)
        for data in await asyncio.gather(*streams[:2]):
            assert json.loads(data[-1]) == {"error": STOPPING, "error_type": "engine_unavailable"}
        for data in await asyncio.gather(*streams[2:]):
            assert data[-1] == "[DONE]"
            assert json.loads(data[-2])["error"]["message"] == STOPPING
        for answer in await asyncio.gather(*answers):
            assert answer.status_code == 503
            assert STOPPING in answer.text


async def wait_for_requests(client: httpx.AsyncClient, count: int) -> None:
    while f"\ntgi_request_count {count}\n" not in (await client.get("/metrics")).text:
        pass


@pytest.mark.parametrize("twice", [False, True])
def test_what_still_runs_is_told_that_the_server_stops(twice: bool) -> None:
    seconds = 60 if twice else 1
    flags = ("--max-concurrent-requests=64", "--max-total-tokens=2048")
    with ServerProcess("demo", f"--shutdown-timeout={seconds}", *flags) as server:
        asyncio.run(cut_off(server, twice=twice))
        assert server.wait() == 0
    for word in ("ERROR", "Traceback"):
        assert word not in server.text
    assert server.text.count(f"503 '{STOPPING}'") == len(STREAMS) + len(WHOLE)


def test_clients_that_neither_read_nor_write_do_not_hold_it_up() -> None:
    with ServerProcess("demo", "--shutdown-timeout=1") as server:
        port = int(server.url.rpartition(":")[2])
        head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        sockets[1].sendall(head)
        sockets[2].sendall(head + b"content-length: 9\r\n\r\n{")
        body = json.dumps(PROMPT | {"stream": True}).encode()
        sockets[3].sendall(
            head.replace(b"/generate", b"/") + b"content-length: %d\r\n\r\n" % len(body) + body
        )
        sockets[3].recv(1)
        server.signal(signal.SIGTERM)
        started_s = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - started_s < 30
        for sock in sockets:
            sock.close()
    for word in ("ERROR", "Traceback"):
        assert word not in server.text
