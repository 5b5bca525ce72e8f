"""An engine without a model: the other end of the socketpair, with a script for every sequence.

Speaks messages.py and nothing else. In `auto` it runs steps by itself until nothing is open; else
the test calls `step`. Everything received is kept for the test to look at.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from tgi_llamacpp import __version__
from tgi_llamacpp.messages import (
    PROTOCOL_VERSION,
    Abort,
    Failed,
    Finish,
    FrameDecoder,
    FromEngine,
    FromRouter,
    Progress,
    PromptLogprobs,
    Ready,
    SequenceFailed,
    Start,
    Stats,
    StepOut,
    Submit,
    encode_frame,
)


@dataclass(frozen=True)
class FakeToken:
    """One scripted token. A script that ends without a finish leaves its sequence hanging."""

    id: int
    logprob: float = -0.5
    finish: Finish = Finish.NONE
    tops: list[tuple[int, float]] = field(default_factory=list)


Script = Callable[[Submit], list[FakeToken]]


def make_ready(epoch: int, **changes: object) -> Ready:
    fields: dict[str, object] = {
        "epoch": epoch,
        "protocol_version": PROTOCOL_VERSION,
        "package_version": __version__,
        "num_vocab": 400_000,
        "bos_id": 1,
        "eog_ids": [2],
        "pieces_hash": "",
        "num_slots": 16,
        "max_sequence_tokens": 2048,
        "max_batch_total_tokens": 16384,
        "device": "CPU",
        "notes": [],
    }
    return Ready(**{**fields, **changes})


class FakeEngine:
    """All of it runs on the event loop that called `run`."""

    def __init__(self, sock: socket.socket, script: Script) -> None:
        self.script = script
        self.is_auto = True
        self.num_cached = 0  # tokens of every prompt that it claims not to have computed
        self.epoch = 0
        self.received: list[FromRouter] = []
        self.ready_changes: dict[str, object] = {}
        self.failure: str | None = None
        self._sock = sock
        self._open: dict[int, list[FakeToken]] = {}
        self._waiting: list[int] = []
        self._submits: dict[int, Submit] = {}
        self._arrived = asyncio.Condition()
        self._has_work = asyncio.Event()

    async def run(self) -> None:
        """Serve until the router closes its end."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        stepper = asyncio.ensure_future(self._step_forever())
        decoder = FrameDecoder(FromRouter)
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    for message in decoder.feed(data):
                        await self._on_message(message)
        finally:
            stepper.cancel()
            self._writer.close()

    def send(self, message: FromEngine) -> None:
        self._writer.write(encode_frame(message))

    def die(self) -> None:
        """Close the socket as a crashed process would."""
        self._writer.transport.abort()

    async def wait_for(self, kind: type, count: int = 1) -> list[FromRouter]:
        """The first `count` messages of this kind, once they have come."""

        def found() -> list[FromRouter]:
            return [message for message in self.received if isinstance(message, kind)]

        async with self._arrived:
            await self._arrived.wait_for(lambda: len(found()) >= count)
        return found()[:count]

    def forget(self) -> None:
        """Drop the record of what came, where a test counts what the router keeps."""
        self.received.clear()
        self._submits.clear()

    def step(self) -> None:
        """One token for every open sequence, as one frame."""
        rows: list[tuple[int, FakeToken]] = []
        for seq_id, tokens in list(self._open.items()):
            if tokens:
                token = tokens.pop(0)
                rows.append((seq_id, token))
                if token.finish:
                    del self._open[seq_id]
        admitted, self._waiting = self._waiting, []
        self._answer_prompts(admitted)
        if rows or admitted:
            out = step_out(self.epoch, rows, admitted)
            if self.num_cached:
                counts = array("i", [self.num_cached] * len(admitted)).tobytes()
                out = msgspec.structs.replace(
                    out, cached_seq_ids=out.admitted, cached_counts=counts
                )
            self.send(out)

    def _answer_prompts(self, seq_ids: list[int]) -> None:
        """Log-probabilities where they are wanted, in two parts; the end where no token is."""
        for seq_id in seq_ids:
            submit = self._submits[seq_id]
            count = len(submit.prompt_ids) // 4 if submit.prompt_logprobs else 1
            starts = [1, max(1, count // 2), count]
            for start, stop in itertools.pairwise(starts):
                is_end = stop == count and not submit.max_new_tokens
                if start < stop or is_end:
                    self.send(prompt_logprobs(self.epoch, submit, range(start, stop), is_end))
            if not submit.max_new_tokens:
                self._open.pop(seq_id, None)

    def fail_all(self, message: str) -> None:
        for seq_id in self._open:
            self.send(SequenceFailed(self.epoch, seq_id, message))
        self._open.clear()

    def send_stats(self, **changes: object) -> None:
        self.send(msgspec.structs.replace(Stats.of_nothing(self.epoch), **changes))

    async def _on_message(self, message: FromRouter) -> None:
        self.received.append(message)
        if isinstance(message, Start):
            self._start(message)
        elif isinstance(message, Submit):
            tokens = list(self.script(message)) if message.max_new_tokens else []
            self._open[message.seq_id] = tokens
            self._waiting.append(message.seq_id)
            self._submits[message.seq_id] = message
            self._has_work.set()
        elif isinstance(message, Abort):
            for seq_id in message.seq_ids:
                self._open.pop(seq_id, None)
        async with self._arrived:
            self._arrived.notify_all()

    def _start(self, start: Start) -> None:
        self.epoch = start.epoch
        self.send(Progress(0.5))
        if self.failure is not None:
            self.send(Failed(self.epoch, self.failure))
        else:
            self.send(make_ready(self.epoch, **self.ready_changes))

    async def _step_forever(self) -> None:
        while True:
            await self._has_work.wait()
            if self.is_auto:
                self.step()
            if not self.is_auto or not any(self._open.values()):
                self._has_work.clear()
            await asyncio.sleep(0)


def prompt_logprobs(
    epoch: int, submit: Submit, indexes: range, is_end: bool = False
) -> PromptLogprobs:
    """-0.25 times the index of each token; its alternatives are the next ids, 1 less each."""
    prompt = array("i", submit.prompt_ids)
    num_top = submit.params.num_top_tokens
    return PromptLogprobs(
        epoch,
        submit.seq_id,
        indexes.start,
        array("f", [-0.25 * i for i in indexes]).tobytes(),
        array("i", [prompt[i] + k for i in indexes for k in range(num_top)]).tobytes(),
        array("f", [-0.25 * i - k for i in indexes for k in range(num_top)]).tobytes(),
        Finish.LENGTH if is_end else Finish.NONE,
    )


def step_out(epoch: int, rows: list[tuple[int, FakeToken]], admitted: list[int]) -> StepOut:
    tops = [top for _, token in rows for top in token.tops]
    counts = bytes(len(token.tops) for _, token in rows) if tops else b""
    return StepOut(
        epoch,
        struct.pack(f"<{len(rows)}q", *(seq_id for seq_id, _ in rows)),
        array("i", [token.id for _, token in rows]).tobytes(),
        array("f", [token.logprob for _, token in rows]).tobytes(),
        bytes(token.finish for _, token in rows),
        struct.pack(f"<{len(admitted)}q", *admitted),
        counts,
        array("i", [token_id for token_id, _ in tops]).tobytes(),
        array("f", [logprob for _, logprob in tops]).tobytes(),
    )
