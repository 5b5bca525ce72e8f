"""Buffers of the host cache: pages of the process's own, kept for the next state when one goes.

New pages cost more than what is copied to them, above all on a virtual machine whose host backs
them when they are first written. Knows no state and no bound. Called by host_cache.py.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np


class HostBuffers:
    """Spare buffers, and new ones where none is spare."""

    def __init__(self, ready_bytes: int = 0, max_ready_bytes: int = 0) -> None:
        """ready_one() makes buffers of ready_bytes each, until max_ready_bytes are spare."""
        self._ready_bytes = ready_bytes
        self._max_ready_bytes = max_ready_bytes
        self._spares: list[mmap.mmap] = []
        self.num_bytes = 0  # of spare buffers, in whole pages

    @property
    def largest(self) -> int:
        """Bytes of the largest spare buffer; 0 where none is."""
        return max(map(len, self._spares), default=0)

    def take(self, num_bytes: int) -> mmap.mmap | None:
        """A buffer of so many bytes, of any content; None where the system has no memory."""
        if not self._spares:
            return _new_buffer(num_bytes)
        enough = [one for one in self._spares if len(one) >= num_bytes]
        buffer = min(enough, key=len) if enough else max(self._spares, key=len)
        self._remove(buffer)
        try:
            buffer.resize(num_bytes)  # its pages stay, as far as they go
        except (OSError, ValueError):
            buffer.close()
            return None
        return buffer

    def give(self, buffer: mmap.mmap) -> None:
        """Keep a buffer for who takes one next."""
        self._spares.append(buffer)
        self.num_bytes += whole_pages(len(buffer))

    def shrink(self, max_bytes: int) -> None:
        """Give memory back to the system until so much is spare at most, the largest first."""
        for buffer in sorted(self._spares, key=len, reverse=True):
            if self.num_bytes <= max_bytes:
                return
            self._remove(buffer)
            buffer.close()

    def ready_one(self, max_bytes: int) -> bool:
        """Have one spare buffer more, its pages in place; False where there are enough of them, or
        would be more than max_bytes.
        """
        num_then = self.num_bytes + self._ready_bytes
        if not self._ready_bytes or num_then > min(max_bytes, self._max_ready_bytes):
            return False
        buffer = _new_buffer(self._ready_bytes)
        if buffer is None:
            return False
        np.frombuffer(buffer, np.uint8)[:: mmap.PAGESIZE] = 0
        self.give(buffer)
        return True

    def _remove(self, buffer: mmap.mmap) -> None:
        self._spares.remove(buffer)
        self.num_bytes -= whole_pages(len(buffer))

    def check_integrity(self) -> None:
        """Raises AssertionError where the bytes are off: a bug of ours."""
        assert self.num_bytes == sum(whole_pages(len(one)) for one in self._spares)


def whole_pages(num_bytes: int) -> int:
    """What the system takes for a buffer."""
    return -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _new_buffer(num_bytes: int) -> mmap.mmap | None:
    """Huge pages where the system has them: new small ones take longer to fill than what is written
    to them.
    """
    try:
        buffer = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):  # a kernel without them
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
