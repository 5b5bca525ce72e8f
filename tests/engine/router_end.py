"""The router's end of the socket, as tests hold it: blocking, with a limit, message by message."""

from __future__ import annotations

import socket
from collections import deque
from typing import TypeVar

import numpy as np

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.messages import (
    Finish,
    FrameDecoder,
    FromEngine,
    FromRouter,
    SequenceFailed,
    Start,
    StepOut,
    encode_frame,
)

TIMEOUT_S = 20.0
EPOCH = 7

M = TypeVar("M", bound=FromEngine)


def engine_config(**changes: object) -> EngineConfig:
    values: dict[str, object] = {
        "model_path": "fake.gguf",
        "max_total_tokens": 128,
        "max_batch_total_tokens": 4 * 128,
        "max_physical_batch_total_tokens": 64,
        "max_batch_size": 4,
        "n_threads": 1,
        "n_threads_batch": 1,
        "n_gpu_layers": 0,
    }
    return EngineConfig(**{**values, **changes})  # type: ignore[arg-type]


class RouterEnd:
    """Raises EOFError when the engine is gone, TimeoutError when it is silent."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        self.sock = sock
        self._decoder = FrameDecoder(FromEngine)
        self._messages: deque[FromEngine] = deque()

    def start(self, **changes: object) -> None:
        self.send(Start(EPOCH, engine_config(**changes)))

    def send(self, message: FromRouter) -> None:
        self.sock.sendall(encode_frame(message))

    def receive(self) -> FromEngine:
        while not self._messages:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self._messages.extend(self._decoder.feed(data))  # type: ignore[arg-type]
        return self._messages.popleft()

    def wait_for(self, kind: type[M]) -> M:
        """The next message of a kind; others are skipped."""
        while not isinstance(message := self.receive(), kind):
            pass
        return message

    def collect(
        self, num_ends: int
    ) -> tuple[dict[int, list[int]], dict[int, Finish], dict[int, str]]:
        """Texts, finishes and failures until so many sequences have ended."""
        texts: dict[int, list[int]] = {}
        finishes: dict[int, Finish] = {}
        failures: dict[int, str] = {}
        while len(finishes) + len(failures) < num_ends:
            message = self.receive()
            if isinstance(message, SequenceFailed):
                failures[message.seq_id] = message.message
            elif isinstance(message, StepOut):
                for seq_id, token_id, finish in rows_of_step(message):
                    texts.setdefault(seq_id, []).append(token_id)
                    if finish:
                        finishes[seq_id] = finish
        return texts, finishes, failures

    def close(self) -> None:
        self.sock.close()


def rows_of_step(out: StepOut) -> list[tuple[int, int, Finish]]:
    seq_ids = np.frombuffer(out.seq_ids, np.int64).tolist()
    token_ids = np.frombuffer(out.token_ids, np.int32).tolist()
    return list(zip(seq_ids, token_ids, map(Finish, out.finishes), strict=True))
