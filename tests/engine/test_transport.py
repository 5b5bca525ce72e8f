"""Frames over a socket that takes only part of them, and never a wait where none was asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.engine.router_end import RouterEnd
from tests.engine.simulation import submit_of
from tgi_llamacpp.engine.transport import CONGESTED_BYTES, FULL_BYTES, Channel, RouterGoneError
from tgi_llamacpp.messages import Abort, Failed, FromEngine, FromRouter, StepOut, encode_frame

Ends = tuple[Channel, RouterEnd]


@pytest.fixture
def ends() -> Iterator[Ends]:
    engine_end, router_end = socket.socketpair()
    with engine_end, router_end:
        yield Channel(engine_end), RouterEnd(router_end)


def frame_of(number: int, num_bytes: int) -> StepOut:
    return StepOut(number, bytes(num_bytes), b"", b"", b"")


def test_a_frame_larger_than_the_socket_arrives_whole(ends: Ends) -> None:
    channel, router = ends
    frame = frame_of(1, 3_000_000)
    channel.send(frame)
    assert channel.is_congested
    while channel.num_outbox_bytes:
        router.sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            router.receive()  # takes what is there
        channel.drain(None)
    assert router.receive() == frame


def test_sending_never_waits_and_says_when_to_stop(ends: Ends) -> None:
    channel, router = ends
    sent: list[FromEngine] = []
    while not channel.is_full:
        frame = frame_of(len(sent), 100_000)
        sent.append(frame)
        channel.send(frame)
    assert FULL_BYTES < channel.num_outbox_bytes < FULL_BYTES + 200_000
    assert FULL_BYTES > CONGESTED_BYTES
    received: list[FromEngine] = []
    while len(received) < len(sent):
        received.append(router.receive())
        channel.drain(0)
    assert received == sent
    assert channel.num_outbox_bytes == 0


def test_messages_come_whole_however_they_are_cut(ends: Ends) -> None:
    channel, router = ends
    messages: list[FromRouter] = [submit_of(1, 3, 5), Abort([1]), submit_of(2, 40, 5)]
    received: list[FromRouter] = []
    for byte in b"".join([encode_frame(one) for one in messages]):
        router.sock.sendall(bytes([byte]))
        received += channel.receive(0)
    assert received == messages


def test_receiving_without_a_timeout_returns_at_once(ends: Ends) -> None:
    channel, _ = ends
    assert channel.receive(0) == []


def test_end_of_file_is_noticed_by_reading_and_by_writing(ends: Ends) -> None:
    channel, router = ends
    router.close()
    with pytest.raises(RouterGoneError):
        channel.receive(None)
    with pytest.raises(RouterGoneError):
        channel.send(Failed(1, "nobody hears it"))


def test_a_wait_for_room_ends_when_the_router_leaves(ends: Ends) -> None:
    channel, router = ends
    channel.send(frame_of(1, 3_000_000))
    router.close()
    with pytest.raises(RouterGoneError):
        channel.drain(None)
