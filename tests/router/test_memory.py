from __future__ import annotations

import asyncio
import json
import socket

import pytest

from tests.allocations import growth_of
from tests.conftest import MakeServer, RunningServer

GENERATE = {"inputs": "a", "parameters": {"details": True, "top_n_tokens": 2, "seed": 1}}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "n": 2, "logprobs": True}
REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "generate": ("/generate", GENERATE),
    "stream": ("/generate_stream", GENERATE),
    "chat": ("/v1/chat/completions", CHAT),
    "chat stream": ("/v1/chat/completions", CHAT | {"stream": True}),
    "completions": ("/v1/completions", {"prompt": ["a", "b"], "echo": True, "logprobs": 1}),
    "wrong": ("/generate", {"inputs": "a", "parameters": {"top_p": 2}}),
    "no JSON of ours": ("/v1/completions", {"prompt": [[[]]]}),
    "no route": ("/nowhere", {}),
}


def _ask(server: RunningServer, path: str, body: bytes, *, leaves: bool) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), 20) as client:
        client.sendall(head.encode() + body)
        while not leaves and client.recv(65536):
            pass


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_requests_that_ended_leave_nothing_in_the_router(
    make_server: MakeServer, kind: str, leaves: bool
) -> None:
    server = make_server()
    path, value = REQUESTS[kind]
    body = json.dumps(value).encode()

    num_tasks = server.do(_num_tasks)

    def work(number: int) -> None:
        _ask(server, path, body, leaves=leaves)
        _ask(server, "/nowhere", b"{}", leaves=False)  # accepted after the one that may have left
        while server.connections or server.do(_num_tasks) > num_tasks:
            pass
        assert server.do(lambda: server.client.num_open) == 0
        server.do(server.engine.forget)

    assert growth_of(work, num_first=40, num_more=120) < 0.5


def _num_tasks() -> int:
    return len(asyncio.all_tasks())
