import asyncio

from starlette.types import Message

from tgi_llamacpp.router.sse import DONE, KEEP_ALIVE, EventStream, event


class _Wire:
    """An ASGI send that keeps what it gets, and can be made to block."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Condition()

    async def send(self, message: Message) -> None:
        await self.gate.wait()
        self.messages.append(message)
        async with self.arrived:
            self.arrived.notify_all()

    @property
    def bodies(self) -> list[bytes]:
        return [m["body"] for m in self.messages if m["type"] == "http.response.body"]

    async def wait_for_bodies(self, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.bodies) >= count)


def test_events_are_framed_byte_for_byte() -> None:
    assert event('{"a":1}') == 'data: {"a":1}\n\n'
    assert DONE == b"data: [DONE]\n\n"


def test_a_stream_is_headers_events_and_an_end() -> None:
    async def main() -> None:
        wire = _Wire()
        async with EventStream(wire.send, [(b"x-a", b"1")]) as stream:
            assert wire.messages[0]["status"] == 200  # before any event
            assert wire.messages[0]["headers"] == [
                (b"content-type", b"text/event-stream"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
                (b"x-a", b"1"),
            ]
            await stream.write(b"data: 1\n\n")
        assert wire.bodies == [b"data: 1\n\n", b""]
        assert [m.get("more_body") for m in wire.messages] == [None, True, False]

    asyncio.run(main())


def test_an_idle_stream_gets_a_comment_and_a_busy_one_does_not() -> None:
    async def main() -> None:
        wire = _Wire()
        async with EventStream(wire.send, [], keep_alive_s=0.05):
            await wire.wait_for_bodies(2)
        assert wire.bodies[:2] == [KEEP_ALIVE, KEEP_ALIVE]
        busy = _Wire()
        async with EventStream(busy.send, [], keep_alive_s=30.0) as stream:
            for _ in range(100):
                await stream.write(b"x")
        assert KEEP_ALIVE not in busy.bodies

    asyncio.run(main())


def test_no_comments_pile_up_behind_a_client_that_does_not_read() -> None:
    async def main() -> None:
        wire = _Wire()
        async with EventStream(wire.send, [], keep_alive_s=0.02) as stream:
            wire.gate.clear()
            writing = asyncio.ensure_future(stream.write(b"x"))
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            loop.call_later(0.2, done.set_result, None)  # ten idle periods
            await done
            wire.gate.set()
            await writing
        assert wire.bodies[0] == b"x"
        assert len(wire.bodies) <= 3

    asyncio.run(main())


def test_a_stream_that_breaks_is_not_ended_as_if_it_were_whole() -> None:
    async def main() -> None:
        wire = _Wire()
        try:
            async with EventStream(wire.send, []):
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        assert wire.bodies == []

    asyncio.run(main())
