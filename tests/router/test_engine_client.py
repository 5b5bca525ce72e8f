import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.conftest import ENGINE_CONFIG
from tests.fake_engine import FakeEngine, FakeToken, Script, make_ready, step_out
from tgi_llamacpp.errors import (
    EngineUnavailable,
    GenerationError,
    IncompleteError,
    StartupError,
)
from tgi_llamacpp.messages import Abort, Finish, SamplingParams, Start, Submit
from tgi_llamacpp.router.engine_client import EngineClient, OpenSequence
from tgi_llamacpp.router.mailbox import Mailbox, Row

PROMPT = np.array([1, 2, 3], np.int32).tobytes()
PARAMS = SamplingParams(seed=7)


def _nothing(submit: Submit) -> list[FakeToken]:
    return []


def _three(submit: Submit) -> list[FakeToken]:
    return [
        FakeToken(10),
        FakeToken(11, -0.25, tops=[(11, -0.25), (12, -3.0)]),
        FakeToken(12, -1.0, Finish.EOG),
    ]


@contextlib.asynccontextmanager
async def _engine(script: Script = _nothing) -> AsyncIterator[tuple[FakeEngine, socket.socket]]:
    near, far = socket.socketpair()
    engine = FakeEngine(far, script)
    task = asyncio.ensure_future(engine.run())
    yield engine, near
    near.close()
    await task


@contextlib.asynccontextmanager
async def _started(
    script: Script = _nothing,
) -> AsyncIterator[tuple[FakeEngine, EngineClient]]:
    async with _engine(script) as (engine, near):
        client = EngineClient()
        await client.start(near, ENGINE_CONFIG)
        yield engine, client
        await client.close()


def _submit(client: EngineClient, mailbox: Mailbox, choice: int = 0) -> OpenSequence:
    return client.submit(mailbox, PROMPT, 5, PARAMS, choice=choice)


def test_start_hands_over_the_configuration_and_waits_for_ready() -> None:
    async def main() -> None:
        seen: list[float] = []
        async with _engine() as (engine, near):
            client = EngineClient()
            assert not client.is_healthy
            ready = await client.start(near, ENGINE_CONFIG, seen.append)
            assert engine.received == [Start(1, ENGINE_CONFIG)]
            assert ready == make_ready(1) == client.ready
            assert seen == [0.5]
            assert client.is_healthy
            await client.close()
            assert not client.is_healthy

    asyncio.run(main())


def test_a_failed_load_is_the_engines_own_sentence() -> None:
    async def main() -> None:
        async with _engine() as (engine, near):
            engine.failure = "the file is truncated"
            with pytest.raises(StartupError, match="the file is truncated"):
                await EngineClient().start(near, ENGINE_CONFIG)

    asyncio.run(main())


def test_an_engine_that_dies_while_loading_is_an_error() -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        far.close()
        with pytest.raises(StartupError, match="before the model was loaded"):
            await EngineClient().start(near, ENGINE_CONFIG)

    asyncio.run(main())


@pytest.mark.parametrize("change", [{"package_version": "9.9"}, {"protocol_version": 99}])
def test_an_engine_of_another_version_is_refused(change: dict[str, object]) -> None:
    async def main() -> None:
        async with _engine() as (engine, near):
            engine.ready_changes = change
            with pytest.raises(StartupError, match="changed on disk"):
                await EngineClient().start(near, ENGINE_CONFIG)

    asyncio.run(main())


def test_rows_arrive_in_order_with_their_alternatives() -> None:
    async def main() -> None:
        async with _started(_three) as (engine, client):
            mailbox = Mailbox()
            sequence = _submit(client, mailbox)
            assert sequence.admitted_s is None
            rows: list[Row] = []
            while len(rows) < 3:
                rows += await mailbox.take()
            assert rows == [
                Row(0, 10, -0.5, 0, rows[0].alternatives),
                Row(0, 11, -0.25, 0, [(11, -0.25), (12, -3.0)]),
                Row(0, 12, -1.0, 1, rows[2].alternatives),
            ]
            assert not rows[0].alternatives
            assert sequence.admitted_s is not None
            assert list(sequence.generated_ids) == [10, 11, 12]
            assert client.num_open == 0
            (submit,) = await engine.wait_for(Submit)
            assert submit == Submit(1, PROMPT, b"", 5, PARAMS)

    asyncio.run(main())


def test_what_the_engine_found_of_a_prompt_is_noted() -> None:
    async def main() -> None:
        async with _started(_three) as (engine, client):
            engine.num_cached = 2
            mailbox = Mailbox()
            sequence = _submit(client, mailbox)
            assert sequence.num_cached_tokens == 0
            await mailbox.take()
            assert sequence.num_cached_tokens == 2

    asyncio.run(main())


def test_a_request_of_several_sequences_is_woken_once_a_step() -> None:
    async def main() -> None:
        async with _started(_three) as (engine, client):
            engine.is_auto = False
            mailbox = Mailbox()
            for choice in range(3):
                _submit(client, mailbox, choice)
            await engine.wait_for(Submit, 3)
            for _ in range(3):
                engine.step()
                rows = await mailbox.take()
                assert [row.choice for row in rows] == [0, 1, 2]

    asyncio.run(main())


def test_the_log_of_an_open_sequence_can_be_submitted_again() -> None:
    async def main() -> None:
        async with _started(_three) as (engine, client):
            engine.is_auto = False
            mailbox = Mailbox()
            sequence = _submit(client, mailbox)
            await engine.wait_for(Submit)
            engine.step()
            await mailbox.take()
            generated = np.array([10], np.int32).tobytes()
            assert sequence.to_submit() == Submit(1, PROMPT, generated, 5, PARAMS)

    asyncio.run(main())


def test_abort_is_one_frame_and_never_a_second_one() -> None:
    async def main() -> None:
        async with _started() as (engine, client):
            mailbox = Mailbox()
            sequences = [_submit(client, mailbox, choice) for choice in range(2)]
            client.abort(sequences)
            client.abort(sequences)
            assert client.num_open == 0
            await engine.wait_for(Abort)
            client.abort([_submit(client, mailbox)])
            assert await engine.wait_for(Abort, 2) == [Abort([1, 2]), Abort([3])]

    asyncio.run(main())


def test_rows_of_aborted_sequences_and_of_older_engines_are_dropped() -> None:
    async def main() -> None:
        async with _started() as (engine, client):
            mailbox = Mailbox()
            gone, kept = _submit(client, mailbox, 0), _submit(client, mailbox, 1)
            client.abort([gone])
            await engine.wait_for(Abort)
            engine.send(step_out(0, [(kept.seq_id, FakeToken(5))], []))
            engine.send(step_out(1, [(gone.seq_id, FakeToken(6)), (kept.seq_id, FakeToken(7))], []))
            rows = await mailbox.take()
            assert [(row.choice, row.token_id) for row in rows] == [(1, 7)]

    asyncio.run(main())


def test_when_there_will_be_no_engine_every_request_is_told_why() -> None:
    async def main() -> None:
        async with _started(_three) as (engine, client):
            engine.is_auto = False
            mailboxes = [Mailbox(), Mailbox()]
            for mailbox in mailboxes:
                _submit(client, mailbox)
            await engine.wait_for(Submit, 2)
            engine.step()
            engine.die()
            await client.wait_closed()
            assert not client.is_healthy
            assert client.num_open == 2
            client.give_up("no use")
            for mailbox in mailboxes:
                assert [row.token_id for row in await mailbox.take()] == [10]
                with pytest.raises(EngineUnavailable, match="no use"):
                    await mailbox.take()
            assert client.num_open == 0
            with pytest.raises(EngineUnavailable, match="no use"):
                _submit(client, Mailbox())

    asyncio.run(main())


def test_what_is_open_when_the_client_is_closed_ends_incomplete() -> None:
    async def main() -> None:
        async with _started() as (_, client):
            mailbox = Mailbox()
            _submit(client, mailbox)
            await client.close()
            with pytest.raises(IncompleteError, match="Incomplete generation"):
                await mailbox.take()

    asyncio.run(main())


def test_one_sequence_that_fails_leaves_the_others_alone() -> None:
    async def main() -> None:
        async with _started() as (engine, client):
            mailbox = Mailbox()
            _submit(client, mailbox)
            await engine.wait_for(Submit)
            engine.fail_all("no room")
            with pytest.raises(GenerationError, match="no room"):
                await mailbox.take()
            assert client.is_healthy

    asyncio.run(main())


def test_garbage_from_the_engine_ends_the_link() -> None:
    async def main() -> None:
        async with _started() as (engine, client):
            engine._writer.write(b"\xff\xff\xff\xff")
            await client.wait_closed()
            assert not client.is_healthy

    asyncio.run(main())


def test_a_second_engine_takes_over_with_a_new_epoch() -> None:
    async def main() -> None:
        client = EngineClient()
        for epoch in (1, 2):
            async with _engine(_three) as (engine, near):
                await client.start(near, ENGINE_CONFIG)
                assert engine.epoch == client.epoch == epoch
                mailbox = Mailbox()
                assert _submit(client, mailbox).seq_id == epoch
                assert await mailbox.take()
                engine.die()
                await client.wait_closed()

    asyncio.run(main())


def test_the_latest_stats_are_kept() -> None:
    async def main() -> None:
        async with _started() as (engine, client):
            engine.send_stats(num_waiting=3)
            engine.send_stats(num_waiting=4)
            mailbox = Mailbox()
            _submit(client, mailbox)
            await engine.wait_for(Submit)
            engine.fail_all("only to see the stats arrive before")
            with pytest.raises(GenerationError):
                await mailbox.take()
            assert client.stats is not None
            assert client.stats.num_waiting == 4

    asyncio.run(main())
