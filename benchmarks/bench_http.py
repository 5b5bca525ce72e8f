"""What the router costs: its CPU time for every token that it streams, with no model behind it.

Three processes: the router (this one), an engine that sends one token to every open sequence at a
fixed pace, and clients that read server-sent events from real sockets. The pace leaves the router
idle between steps, so that every step costs its full wake-ups. The last line of the output is JSON.

    python benchmarks/bench_http.py --streams 16 --route /generate_stream
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import time
from array import array
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette

import tgi_llamacpp
from tgi_llamacpp.config import EngineConfig, LimitsConfig, RouterConfig
from tgi_llamacpp.messages import (
    PROTOCOL_VERSION,
    Abort,
    FrameDecoder,
    FromRouter,
    Ready,
    Start,
    StepOut,
    Submit,
    encode_frame,
)
from tgi_llamacpp.router.app import build_app
from tgi_llamacpp.router.chat import load_chat_template
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.services import TextTools
from tgi_llamacpp.router.template_renderer import TemplateRenderer
from tgi_llamacpp.router.tokenizer import TokenizerPool, load_tokenizer

DEMO = Path(tgi_llamacpp.__file__).parent / "demo"
BODIES: dict[str, dict[str, object]] = {
    "/generate_stream": {"inputs": "Tell me a story", "parameters": {}},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "stream": True,
    },
    "/v1/completions": {"prompt": "Tell me a story", "stream": True, "ignore_eos": True},
}
ENGINE_CONFIG = EngineConfig(
    model_path="none.gguf",
    max_total_tokens=65536,
    max_batch_total_tokens=2**24,
    max_physical_batch_total_tokens=512,
    max_batch_size=256,
    n_threads=1,
    n_threads_batch=1,
    n_gpu_layers=0,
)


def run_engine(sock: socket.socket, num_vocab: int, step_s: float) -> None:
    """Send a token to each open sequence every `step_s`, until the router closes its end."""
    decoder = FrameDecoder(FromRouter)
    left: dict[int, int] = {}
    rng = random.Random(1)
    sock.setblocking(False)
    next_s = time.perf_counter()
    while True:
        time.sleep(max(0.0, next_s - time.perf_counter()))
        next_s = time.perf_counter() + step_s
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            data = None
        if data == b"":
            return
        for message in decoder.feed(data or b""):
            if isinstance(message, Start):
                sock.sendall(encode_frame(_ready(message.epoch, num_vocab)))
            elif isinstance(message, Submit):
                left[message.seq_id] = message.max_new_tokens
            elif isinstance(message, Abort):
                for seq_id in message.seq_ids:
                    left.pop(seq_id, None)
        if left:
            sock.sendall(encode_frame(_step(left, num_vocab, rng)))


def _ready(epoch: int, num_vocab: int) -> Ready:
    return Ready(
        epoch,
        PROTOCOL_VERSION,
        tgi_llamacpp.__version__,
        num_vocab,
        None,
        [],
        "",
        256,
        65536,
        2**24,
        "none",
        [],
    )


def _step(left: dict[int, int], num_vocab: int, rng: random.Random) -> StepOut:
    seq_ids = list(left)
    finishes = bytearray(len(seq_ids))
    for row, seq_id in enumerate(seq_ids):
        left[seq_id] -= 1
        if not left[seq_id]:
            finishes[row] = 2
            del left[seq_id]
    return StepOut(
        1,
        struct.pack(f"<{len(seq_ids)}q", *seq_ids),
        array("i", [rng.randrange(num_vocab) for _ in seq_ids]).tobytes(),
        array("f", [-rng.expovariate(1.0) for _ in seq_ids]).tobytes(),
        bytes(finishes),
    )


def run_clients(port: int, route: str, num_streams: int, num_tokens: int, done: Connection) -> None:
    """Read `num_streams` streams side by side to their ends; report the bytes read."""
    body = dict(BODIES[route])
    if route == "/generate_stream":
        body["parameters"] = {"max_new_tokens": num_tokens, "details": True}
    else:
        body["max_tokens"] = num_tokens
    payload = json.dumps(body).encode()
    request = (
        f"POST {route} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(payload)}\r\nconnection: close\r\n\r\n"
    ).encode() + payload

    async def read_one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        num_events = 0
        while data := await reader.read(65536):
            num_events += data.count(b"data: ")
        writer.close()
        return num_events

    async def read_all() -> int:
        return sum(await asyncio.gather(*(read_one() for _ in range(num_streams))))

    done.send(asyncio.run(read_all()))


def make_app(client: EngineClient) -> Starlette:
    metadata = read_metadata(DEMO / "demo.gguf")
    tokenizer = load_tokenizer(metadata, folder=DEMO)
    limits = LimitsConfig(
        max_concurrent_requests=1024, max_input_tokens=1024, max_total_tokens=65536
    )
    text = TextTools(
        pool=TokenizerPool(tokenizer, 1),
        detokenizer=Detokenizer(tokenizer),
        chat_template=TemplateRenderer(load_chat_template(metadata, tokenizer, folder=DEMO)),
    )
    return build_app(RouterConfig(model_id="bench", limits=limits), client, text)


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """Serve one warm-up and one measured load; CPU seconds are this process's alone."""
    near, far = socket.socketpair()
    spawn = multiprocessing.get_context("spawn")
    num_vocab = read_metadata(DEMO / "demo.gguf").num_vocab
    engine = spawn.Process(target=run_engine, args=(far, num_vocab, options.step_ms / 1000))
    engine.start()
    far.close()
    client = EngineClient()
    await client.start(near, ENGINE_CONFIG)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        make_app(client), http="httptools", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    port = listener.getsockname()[1]
    await _load(spawn, port, options, 20)
    user_s, system_s, wall_s, num_events = await _load(spawn, port, options, options.tokens)
    server.should_exit = True
    await serving
    await client.close()
    engine.join()
    num_tokens = options.streams * options.tokens
    return {
        "bench": "http",
        "route": options.route,
        "streams": options.streams,
        "tokens": num_tokens,
        "events": num_events,
        "step_ms": options.step_ms,
        "router_cpu_us_per_token": round((user_s + system_s) / num_tokens * 1e6, 2),
        "router_user_us_per_token": round(user_s / num_tokens * 1e6, 2),
        "router_system_us_per_token": round(system_s / num_tokens * 1e6, 2),
        "tokens_per_s": round(num_tokens / wall_s, 1),
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
    }


async def _load(
    spawn: multiprocessing.context.SpawnContext,
    port: int,
    options: argparse.Namespace,
    num_tokens: int,
) -> tuple[float, float, float, int]:
    """User, system and wall seconds, and the number of events that the clients read."""
    near, far = spawn.Pipe()
    arguments = (port, options.route, options.streams, num_tokens, far)
    clients = spawn.Process(target=run_clients, args=arguments)
    clients.start()
    arrived = asyncio.Event()
    asyncio.get_running_loop().add_reader(near.fileno(), arrived.set)
    before, start_s = os.times(), time.perf_counter()
    await arrived.wait()
    after, wall_s = os.times(), time.perf_counter() - start_s
    asyncio.get_running_loop().remove_reader(near.fileno())
    num_events: int = near.recv()
    clients.join()
    return after.user - before.user, after.system - before.system, wall_s, num_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--route", choices=sorted(BODIES), default="/generate_stream")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=400, help="per stream")
    parser.add_argument("--step-ms", type=float, default=10.0, help="time between two steps")
    options = parser.parse_args()
    result = uvloop.run(measure(options))
    print(f"{result['router_cpu_us_per_token']} µs of router CPU per streamed token")
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
