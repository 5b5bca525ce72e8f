"""Buffers for states: the pages of one that went serve the next, within what may be spare."""

from __future__ import annotations

import mmap

from tgi_llamacpp.engine.host_buffers import HostBuffers

PAGE = mmap.PAGESIZE


def given(*sizes: int) -> HostBuffers:
    """Spare buffers of so many bytes, each filled with its place."""
    buffers = HostBuffers()
    taken = [buffers.take(size) for size in sizes]
    for place, buffer in enumerate(taken):
        assert buffer is not None
        buffer[:] = bytes([place]) * len(buffer)
        buffers.give(buffer)
    buffers.check_integrity()
    return buffers


def test_the_pages_of_a_buffer_that_went_serve_the_next() -> None:
    buffers = given(3 * PAGE)
    for num_bytes in (3 * PAGE, 2 * PAGE, 4 * PAGE):
        buffer = buffers.take(num_bytes)
        assert buffer is not None
        assert len(buffer) == num_bytes
        assert buffers.num_bytes == 0
        assert bytes(buffer[:PAGE]) == bytes(PAGE)  # as the first was filled
        buffer[:] = bytes(num_bytes)
        buffers.give(buffer)


def test_the_smallest_that_is_large_enough_is_taken_and_else_the_largest() -> None:
    def taken_from(num_bytes: int) -> int:
        buffer = given(2 * PAGE, 6 * PAGE, 4 * PAGE).take(num_bytes)
        assert buffer is not None
        return buffer[0]

    assert [taken_from(n * PAGE) for n in (1, 2, 3, 5, 9)] == [0, 0, 2, 1, 1]


def test_no_more_is_spare_than_may_be() -> None:
    buffers = given(2 * PAGE, 6 * PAGE, 4 * PAGE, 100)
    assert buffers.num_bytes == 13 * PAGE
    for max_bytes, left in ((13 * PAGE, 13), (8 * PAGE, 7), (7 * PAGE, 7), (3 * PAGE, 3), (0, 0)):
        buffers.shrink(max_bytes)
        assert buffers.num_bytes == left * PAGE
        buffers.check_integrity()


def test_buffers_are_ready_until_there_are_enough() -> None:
    buffers = HostBuffers(2 * PAGE, 7 * PAGE)
    assert not buffers.ready_one(PAGE)
    assert [buffers.ready_one(100 * PAGE) for _ in range(4)] == [True, True, True, False]
    assert buffers.num_bytes == 6 * PAGE
    assert not HostBuffers().ready_one(100 * PAGE)


def test_where_the_system_has_no_memory_there_is_no_buffer() -> None:
    assert HostBuffers().take(1 << 60) is None
    assert given(PAGE).take(1 << 60) is None
    assert not HostBuffers(1 << 60, 1 << 61).ready_one(1 << 61)
