"""Bytes of any kind through the frame decoder, in both directions: messages or FrameError.

`check` is one try. test_frame_fuzz.py calls it with bytes from hypothesis; as a program this file
is run by atheris, whose bytes follow the branches that they reach.
"""

from __future__ import annotations

import sys

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.messages import (
    Abort,
    Failed,
    FrameDecoder,
    FrameError,
    FromEngine,
    FromRouter,
    Progress,
    PromptLogprobs,
    Ready,
    SamplingParams,
    SequenceFailed,
    Start,
    Stats,
    StepOut,
    Submit,
    encode_frame,
)

_CONFIG = EngineConfig(
    model_path="none.gguf",
    max_total_tokens=2048,
    max_batch_total_tokens=16384,
    max_physical_batch_total_tokens=512,
    max_batch_size=16,
    n_threads=1,
    n_threads_batch=1,
    n_gpu_layers=0,
)
DIRECTIONS: tuple[object, ...] = (FromRouter, FromEngine)
VALID: tuple[FromRouter | FromEngine, ...] = (
    Start(1, _CONFIG),
    Submit(7, bytes(12), bytes(4), 20, SamplingParams(temperature=0.5, bias_ids=bytes(4))),
    Abort([1, 2**62]),
    Progress(0.5),
    Ready(1, 3, "0.1.0", 1024, None, [1, 2], "00" * 32, 8, 2048, 16384, "CPU", ["a note"]),
    Failed(1, "no model"),
    SequenceFailed(1, 7, "no token"),
    StepOut(1, bytes(8), bytes(4), bytes(4), b"\1"),
    PromptLogprobs(1, 7, 1, bytes(8)),
    Stats.of_nothing(1),
)


def check(data: bytes) -> None:
    """Decode data[2:]: data[0] says in which direction, data[1] in pieces of which size."""
    if len(data) < 2:
        return
    direction, size = DIRECTIONS[data[0] % 2], 1 + data[1]
    whole = decode(direction, [data[2:]])
    pieces = decode(direction, [data[i : i + size] for i in range(2, len(data), size)])
    if whole is not None:
        assert pieces == whole, "what is decoded depends on how the bytes were cut"


def decode(direction: object, pieces: list[bytes]) -> list[bytes] | None:
    """The frames of the messages in it; None where it breaks off with FrameError."""
    decoder = FrameDecoder(direction)
    frames = []
    num_bytes = 0
    try:
        for piece in pieces:
            num_bytes += len(piece)
            for message in decoder.feed(piece):
                assert isinstance(message, direction)  # type: ignore[arg-type]  # a union
                frames.append(encode_frame(message))
            # No room is made for a length that is only announced.
            assert len(decoder._buffer) <= num_bytes
    except FrameError:
        return None
    assert decode_again(direction, frames) == frames
    return frames


def decode_again(direction: object, frames: list[bytes]) -> list[bytes]:
    return [encode_frame(message) for message in FrameDecoder(direction).feed(b"".join(frames))]


def main() -> None:
    import atheris

    atheris.instrument_func(check)
    atheris.instrument_func(FrameDecoder.feed)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
