"""Clients that leave at any moment: all they held is free again, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from typing import Any

import httpx
import pytest

from tests.adversity.streams import Body, bodies, run, run_all
from tests.server_process import PATIENCE_S, ServerProcess
from tgi_llamacpp.engine.faults import INTEGRITY_VARIABLE

CHECKED = {INTEGRITY_VARIABLE: "1"}
AT_REST = ("tgi_queue_size 0", "tgi_batch_current_size 0", "tgi_batch_current_max_tokens 0")
MAX_PERMITS = 64


def request(body: Body) -> bytes:
    content = json.dumps(body[1]).encode()
    head = f"POST {body[0]} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def leave(port: int, body: Body, dice: random.Random) -> None:
    """Send some of the request or all of it, read some of the answer or nothing, and go."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = request(body)
    phase = dice.randrange(6)
    if phase == 0:
        data = data[: dice.randrange(len(data))]
    writer.write(data)
    await writer.drain()
    if phase == 1:
        writer.write_eof()
    elif phase in (2, 3):
        await asyncio.sleep(dice.random() * 0.3)  # any moment: queued, prefilling, decoding
    elif phase > 3:
        await reader.read(dice.randint(1, 5000))
    if dice.random() < 0.5:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    writer.close()


async def leave_often(port: int, count: int, dice: random.Random) -> None:
    """So many clients, some two dozen at a time."""
    kinds = bodies(count, 60)
    gate = asyncio.Semaphore(24)

    async def one(body: Body) -> None:
        async with gate:
            await leave(port, body, dice)

    await asyncio.gather(*map(one, kinds))


def metrics(server: ServerProcess) -> list[str]:
    return httpx.get(server.url + "/metrics", timeout=PATIENCE_S).text.splitlines()


def value(server: ServerProcess, name: str) -> float:
    return float(next(line for line in metrics(server) if line.startswith(name + " ")).split()[1])


def wait_for_rest(server: ServerProcess) -> None:
    while not set(AT_REST) <= set(metrics(server)):
        pass


def check_unharmed(server: ServerProcess) -> None:
    """No engine died, no check failed, and everything can be had again."""
    assert httpx.get(server.url + "/health", timeout=PATIENCE_S).status_code == 200
    assert "tgi_llamacpp_engine_restarts 0" in metrics(server), server.text
    everything = {"prompt": "a", "max_tokens": 1, "n": MAX_PERMITS}
    answer = httpx.post(server.url + "/v1/completions", json=everything, timeout=PATIENCE_S)
    assert answer.status_code == 200
    assert server.stop() == 0
    assert "ERROR" not in server.text


def test_five_hundred_disconnects_leave_nothing_behind(exact: tuple[str, ...]) -> None:
    dice = random.Random(27604)
    witnesses = bodies(7, 300)
    flags = ("--max-batch-size=8", f"--max-concurrent-requests={MAX_PERMITS}")
    with ServerProcess("serve", *exact, *flags, **CHECKED) as server:
        undisturbed = asyncio.run(run_all(server.url, witnesses))
        port = int(server.url.rpartition(":")[2])

        async def disturbed() -> list[list[dict[str, Any]]]:
            crowd = asyncio.create_task(leave_often(port, 500, dice))
            events = await run_all(server.url, witnesses)
            await crowd
            return events

        assert asyncio.run(disturbed()) == undisturbed
        wait_for_rest(server)
        check_unharmed(server)


async def abort_beside(
    server: ServerProcess, long: Body, short: Body, *, leaves: Body, counter: str
) -> Any:
    """Events of the one of both that stays, when the other leaves while `long` is prefilled.

    counter: a metric that moves while it is.
    """
    limits = httpx.Limits(max_connections=4)
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client:
        first = asyncio.Event()
        decoding = asyncio.create_task(run(client, short, first.set))
        await first.wait()
        before = value(server, counter)
        prefilling = asyncio.create_task(run(client, long, lambda: None))
        while value(server, counter) == before:
            await asyncio.sleep(0)
        goes, stays = (decoding, prefilling) if leaves is short else (prefilling, decoding)
        assert not goes.done()
        goes.cancel()
        assert (await client.get("/health")).status_code == 200
        return await stays


@pytest.mark.parametrize(
    ("target_itl_ms", "counter"),
    [(0, "tgi_llamacpp_mixed_steps"), (250, "tgi_llamacpp_aside_seconds")],
    ids=["in chunks", "aside"],
)
def test_a_stream_that_is_aborted_while_another_prefills_harms_nobody(
    target_itl_ms: int, counter: str, exact: tuple[str, ...]
) -> None:
    """What wedged llama-server (its issue 27604): all later requests and /health hung."""
    prompt = " ".join(f"word{i}" for i in range(300))
    common = {"temperature": 0, "ignore_eos": True, "stream": True}
    long: Body = ("/v1/completions", common | {"prompt": prompt, "max_tokens": 20})
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 1500}
    short: Body = ("/v1/chat/completions", common | chat)
    flags = ("--max-physical-batch-total-tokens=16", "--max-input-tokens=1900")
    with ServerProcess(
        "serve",
        *exact,
        *flags,
        "--max-batch-size=2",
        f"--max-concurrent-requests={MAX_PERMITS}",
        "--disable-prefix-cache",
        f"--target-itl-ms={target_itl_ms}",
        **CHECKED,
    ) as server:
        expected_long, expected_short = asyncio.run(run_all(server.url, [long, short]))
        events = asyncio.run(abort_beside(server, long, short, leaves=short, counter=counter))
        assert events == expected_long
        events = asyncio.run(abort_beside(server, long, short, leaves=long, counter=counter))
        assert events == expected_short
        wait_for_rest(server)
        check_unharmed(server)
