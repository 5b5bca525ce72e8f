"""Whatever comes over the socket is messages of its direction or FrameError, within bounds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fuzz_frames
from tgi_llamacpp.messages import FrameDecoder, FrameError, FromEngine, FromRouter, encode_frame

FRAMES = [encode_frame(message) for message in fuzz_frames.VALID]
ROOT = Path(__file__).parent.parent


@st.composite
def mutated_frames(draw: st.DrawFn) -> bytes:
    """Some valid frames, in which a few bytes are others, more or missing."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 3))
        data[start:end] = draw(st.binary(max_size=4))
    return bytes(data)


@settings(max_examples=1000, deadline=None)
@given(
    direction=st.binary(min_size=1, max_size=1),
    size=st.binary(min_size=1, max_size=1),
    data=st.one_of(st.binary(max_size=300), mutated_frames()),
)
def test_any_bytes_are_messages_or_an_error(direction: bytes, size: bytes, data: bytes) -> None:
    fuzz_frames.check(direction + size + data)


@pytest.mark.parametrize("direction", fuzz_frames.DIRECTIONS)
def test_valid_frames_go_in_their_own_direction_alone(direction: object) -> None:
    for frame, message in zip(FRAMES, fuzz_frames.VALID, strict=True):
        is_right = isinstance(message, direction)  # type: ignore[arg-type]  # a union
        assert fuzz_frames.decode(direction, [frame]) == ([frame] if is_right else None)


def test_brackets_without_end_behind_the_fields_are_refused() -> None:
    body = b"\x93\xa5abort\x90" + b"\x91" * 100_000
    with pytest.raises(FrameError):
        FrameDecoder(FromRouter).feed(len(body).to_bytes(4, "little") + body)


def test_a_length_over_the_limit_is_refused_before_its_body_comes() -> None:
    for length in (64 * 1024 * 1024 + 1, 2**31, 2**32 - 1):
        with pytest.raises(FrameError):
            FrameDecoder(FromEngine).feed(length.to_bytes(4, "little"))


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not there")
def test_atheris_finds_no_other_end(tmp_path: Path) -> None:
    for i, frame in enumerate(FRAMES):
        for direction in range(2):
            (tmp_path / f"{i}.{direction}").write_bytes(bytes([direction, 255]) + frame)
    program = [sys.executable, "-m", "tests.fuzz_frames", str(tmp_path)]
    flags = ["-max_total_time=60", "-max_len=4096", "-timeout=20", "-rss_limit_mb=2000", "-seed=1"]
    command = [*program, *flags, f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
