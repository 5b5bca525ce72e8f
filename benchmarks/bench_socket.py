"""What the socket costs: one StepOut frame a step, from the engine's channel to another process.

"frames/s" is the rate at which frames flow when the reader takes them as fast as it can; the
latency is from before encoding to after decoding, one frame at a time, with the reader asleep in
between as a router is. The last line of the output is JSON.

    python -m benchmarks.bench_socket
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import struct
import time

import numpy as np

from benchmarks.machine_state import describe
from tgi_llamacpp.engine.transport import Channel
from tgi_llamacpp.messages import FrameDecoder, FromEngine, StepOut

NUM_ROWS = (1, 16, 64, 256)
_TIME = struct.Struct("<d")
PAUSE_S = 0.001


def read_frames(sock: socket.socket, answers: socket.socket, num_frames: int, paced: bool) -> None:
    """Decode frames; tell the time of each (paced), or that of the last."""
    decoder = FrameDecoder(FromEngine)
    num_read = 0
    while num_read < num_frames:
        messages = decoder.feed(sock.recv(1 << 18))
        num_read += len(messages)
        if messages and (paced or num_read == num_frames):
            answers.sendall(_TIME.pack(time.perf_counter()))


def step_of(num_rows: int) -> StepOut:
    rng = np.random.default_rng(num_rows)
    return StepOut(
        epoch=1,
        seq_ids=np.arange(num_rows, dtype=np.int64).tobytes(),
        token_ids=rng.integers(0, 1 << 17, num_rows).astype(np.int32).tobytes(),
        logprobs=rng.normal(size=num_rows).astype(np.float32).tobytes(),
        finishes=bytes(num_rows),
    )


class Reader:
    """Another process that decodes; `answered_s` is when it had."""

    def __init__(self, num_frames: int, *, paced: bool) -> None:
        engine_end, router_end = socket.socketpair()
        self._answers, answers_end = socket.socketpair()
        self.channel = Channel(engine_end)
        spawn = multiprocessing.get_context("spawn")
        arguments = (router_end, answers_end, num_frames, paced)
        self._process = spawn.Process(target=read_frames, args=arguments)
        self._process.start()
        router_end.close()
        answers_end.close()
        self._engine_end = engine_end

    def answered_s(self) -> float:
        time_s: float = _TIME.unpack(self._answers.recv(_TIME.size, socket.MSG_WAITALL))[0]
        return time_s

    def close(self) -> None:
        self._process.join()
        self._engine_end.close()
        self._answers.close()


def throughput(num_rows: int, num_frames: int) -> float:
    """Frames per second, sent as fast as the reader takes them."""
    reader = Reader(num_frames + 1, paced=False)
    step = step_of(num_rows)
    reader.channel.send(step)
    time.sleep(0.5)  # the reader has started
    start_s = time.perf_counter()
    for _ in range(num_frames):
        reader.channel.send(step)
        while reader.channel.is_congested:
            reader.channel.drain(None)
    while reader.channel.num_outbox_bytes:
        reader.channel.drain(None)
    rate = num_frames / (reader.answered_s() - start_s)
    reader.close()
    return rate


def latencies_us(num_rows: int, num_frames: int) -> np.ndarray:
    """From before encoding to after decoding, one at a time."""
    reader = Reader(num_frames + 1, paced=True)
    step = step_of(num_rows)
    times_us = []
    for _ in range(num_frames + 1):
        time.sleep(PAUSE_S)
        start_s = time.perf_counter()
        reader.channel.send(step)
        times_us.append((reader.answered_s() - start_s) * 1e6)
    reader.close()
    return np.array(times_us[1:])  # the first waits for the reader to start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=20_000)
    options = parser.parse_args()
    rows = []
    print("rows  frames/s  latency µs p50     p99")
    for num_rows in NUM_ROWS:
        times_us = latencies_us(num_rows, max(1, options.frames // 10))
        row = {
            "rows": num_rows,
            "frames_per_s": round(throughput(num_rows, options.frames)),
            "latency_us_p50": round(float(np.median(times_us)), 1),
            "latency_us_p99": round(float(np.percentile(times_us, 99)), 1),
        }
        rows.append(row)
        print(
            f"{num_rows:>4} {row['frames_per_s']:>9} {row['latency_us_p50']:>15}"
            f" {row['latency_us_p99']:>7}"
        )
    print(json.dumps({"bench": "socket", "machine": describe(), "rows": rows}))


if __name__ == "__main__":
    main()
