"""The page that engine and router share: what the engine is running, whatever ends it.

The engine writes plain memory before each step, so it outlives a SIGKILL; the router reads it when
the engine has died, to know whom it died of, and while it runs, to know whether it still moves.
Knows no socket and no process; engine/loop.py writes, router/supervisor.py reads.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Sequence
from typing import NamedTuple

SIZE_BYTES = 1 << 16
_NUM_BEATS, _NUM_STEPS, _NUM_ROWS, _NUM_WORDS = range(4)
_HEAD = 4
_MAX_WORDS = SIZE_BYTES // 8 - _HEAD


class StepEntry(NamedTuple):
    """A sequence of the step at hand, and the first position that the step computes of it."""

    seq_id: int
    position: int


class PageState(NamedTuple):
    """What the page says at one moment."""

    num_beats: int  # grows before and after every step
    num_steps: int  # that this engine has completed
    num_rows: int  # of the step at hand
    entries: list[StepEntry]  # empty between steps


class StepPage:
    """Words of 64 bits: four counters, then sequence id and position in turn.

    Without a file descriptor the page is this process's own. One writer; a reader beside it may see
    a step half written, a reader after its death sees at most a step without its last entries.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._map = mmap.mmap(-1 if fd is None else fd, SIZE_BYTES)
        self._words = memoryview(self._map).cast("q")

    def begin(self, words: Sequence[int], num_rows: int) -> None:
        """A step of so many rows starts. words: sequence id, position, sequence id, ..."""
        page, column = self._words, array("q", words[:_MAX_WORDS])
        page[_NUM_WORDS] = 0
        page[_HEAD : _HEAD + len(column)] = column
        page[_NUM_WORDS] = len(column)
        page[_NUM_ROWS] = num_rows
        page[_NUM_BEATS] += 1

    def end(self, num_steps: int) -> None:
        """The step is over and its results are sent; num_steps are complete."""
        page = self._words
        page[_NUM_WORDS] = 0
        page[_NUM_ROWS] = 0
        page[_NUM_STEPS] = num_steps
        page[_NUM_BEATS] += 1

    def read(self) -> PageState:
        page = self._words
        num_words = min(max(page[_NUM_WORDS], 0), _MAX_WORDS)
        words = page[_HEAD : _HEAD + num_words].tolist()
        entries = [StepEntry(*pair) for pair in zip(words[::2], words[1::2], strict=False)]
        return PageState(page[_NUM_BEATS], page[_NUM_STEPS], page[_NUM_ROWS], entries)

    def close(self) -> None:
        """Unmap it. Idempotent."""
        self._words.release()
        self._map.close()


def create_page_file() -> int:
    """A descriptor of anonymous memory of the page's size, which a child can inherit."""
    fd = os.memfd_create("tgi-llamacpp-step")
    os.fchmod(fd, 0o600)  # memory of its kind is everybody's by default
    os.ftruncate(fd, SIZE_BYTES)
    return fd
