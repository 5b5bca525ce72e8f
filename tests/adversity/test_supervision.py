"""The supervisor over real engine processes without a model, of which many die in little time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import AsyncIterator
from functools import partial

import msgspec
import numpy as np
import pytest

from tests.conftest import ENGINE_CONFIG
from tests.engine.simulation import submit_of, text_alone
from tests.server_process import PATIENCE_S
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.faults import VARIABLE
from tgi_llamacpp.errors import EngineUnavailable, GenerationError
from tgi_llamacpp.messages import Submit
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.engine_process import EngineProcess
from tgi_llamacpp.router.mailbox import Mailbox
from tgi_llamacpp.router.supervisor import EngineSettings, EngineSupervisor

ENGINE = ("-m", "tgi_llamacpp.engine.fake_runner", "--num-vocab=256", "--step-ms=1")
MARK = 250
BACKOFF_S = (0.01, 0.02, 0.03, 0.04)


class Supervised:
    """A client, its supervisor, and every engine process that was started."""

    def __init__(
        self, watchdog_s: float, backoff_s: tuple[float, ...], config: EngineConfig
    ) -> None:
        self.client = EngineClient()
        self.processes: list[EngineProcess] = []
        self.reasons: list[str] = []
        self.num_refusals = 0  # of the system, before it starts another process
        self.supervisor = EngineSupervisor(
            self.client,
            EngineSettings(config, watchdog_s),
            on_give_up=self.reasons.append,
            start_process=self._start_process,
            backoff_s=backoff_s,
        )

    def _start_process(self) -> EngineProcess:
        if self.num_refusals:
            self.num_refusals -= 1
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.processes.append(EngineProcess(ENGINE))
        return self.processes[-1]

    def submit(self, submit: Submit) -> Mailbox:
        mailbox = Mailbox()
        self.client.submit(mailbox, submit.prompt_ids, submit.max_new_tokens, submit.params)
        return mailbox


@contextlib.asynccontextmanager
async def supervised(
    watchdog_s: float = 60.0,
    backoff_s: tuple[float, ...] = BACKOFF_S,
    config: EngineConfig = ENGINE_CONFIG,
) -> AsyncIterator[Supervised]:
    world = Supervised(watchdog_s, backoff_s, config)
    await world.supervisor.start(None)
    try:
        yield world
    finally:
        await world.supervisor.stop()
        assert all(process.returncode is not None for process in world.processes)


async def text_of(mailbox: Mailbox) -> list[int]:
    ids: list[int] = []
    while True:
        for row in await mailbox.take():
            ids.append(row.token_id)
            if row.finish:
                return ids


def submits(count: int) -> list[Submit]:
    """Whose prompts and texts do without the mark."""
    some = (submit_of(n, 3 + n % 5, 100) for n in range(1, 1000))
    good = (s for s in some if MARK not in text_alone(s) and MARK not in s.prompt_ids[::4])
    return [next(good) for _ in range(count)]


def marked() -> Submit:
    return submit_of(1, np.array([3, MARK], np.int32), 5)


run = partial(asyncio.wait_for, timeout=PATIENCE_S)


def test_texts_are_those_of_an_undisturbed_engine_whenever_it_is_killed() -> None:
    async def main() -> None:
        async with supervised() as world:
            wanted = [submit_of(n, 3 + n, 500) for n in range(8)]
            mailboxes = [world.submit(one) for one in wanted]
            for _ in range(3):
                while len(world.processes) == world.client.recovery.num_restarts:
                    await asyncio.sleep(0)
                first = await mailboxes[0].take()
                os.kill(world.processes[-1].pid, signal.SIGKILL)
                assert first
            texts = await asyncio.gather(*(text_of(mailbox) for mailbox in mailboxes[1:]))
            assert texts == [text_alone(one) for one in wanted[1:]]

    asyncio.run(run(main()))


def test_a_system_that_starts_no_process_for_a_moment_is_asked_again() -> None:
    async def main() -> None:
        async with supervised() as world:
            wanted = submit_of(3, 5, 50)
            world.num_refusals = 3
            mailbox = world.submit(wanted)
            os.kill(world.processes[0].pid, signal.SIGKILL)
            assert await text_of(mailbox) == text_alone(wanted)
            assert len(world.processes) == 2

    asyncio.run(run(main()))


def test_when_no_engine_completes_a_step_everyone_is_told_and_no_other_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "abort:any")

    async def main() -> None:
        async with supervised() as world:
            mailboxes = [world.submit(one) for one in submits(4)]
            for mailbox in mailboxes:
                with pytest.raises(EngineUnavailable, match="ended 5 times in a row without a"):
                    await mailbox.take()
            assert len(world.processes) == 5
            assert not world.client.is_healthy
            with pytest.raises(EngineUnavailable, match="killed by SIGABRT"):
                world.submit(marked())
            assert len(world.reasons) == 1

    asyncio.run(run(main()))


def test_a_sequence_that_hangs_engines_fails_alone_and_leaves_stacks_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, f"hang:{MARK}")

    async def main() -> None:
        async with supervised(watchdog_s=0.3) as world:
            wanted = submits(4)
            mailboxes = [world.submit(one) for one in wanted]
            bad = world.submit(marked())
            with pytest.raises(GenerationError, match="died of this request 3 times"):
                await text_of(bad)
            texts = await asyncio.gather(*(text_of(mailbox) for mailbox in mailboxes))
            assert texts == [text_alone(one) for one in wanted]

    asyncio.run(run(main()))
    assert 'faults.py", line' in capfd.readouterr().err


def test_an_engine_killed_for_standing_still_is_not_said_to_have_lacked_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "hang:any")

    async def main() -> None:
        async with supervised(watchdog_s=0.1, backoff_s=()) as world:
            with pytest.raises(EngineUnavailable) as caught:
                await text_of(world.submit(marked()))
            assert caught.value.message.endswith("it stood still, and was killed")

    asyncio.run(run(main()))


def test_a_server_that_stops_waits_for_no_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "abort:any")

    async def main() -> None:
        async with supervised(backoff_s=(1000.0,)) as world:
            world.submit(marked())
            await world.client.wait_closed()
            await asyncio.sleep(0)

    asyncio.run(run(main()))


def test_an_engine_that_dies_of_repacked_weights_is_followed_by_one_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "segv:repack")

    async def main() -> None:
        async with supervised() as world:  # which measures nothing, and dies in its first step
            wanted = submits(4)
            texts = await asyncio.gather(*(text_of(world.submit(one)) for one in wanted))
            assert texts == [text_alone(one) for one in wanted]
            assert len(world.processes) == 2
            os.kill(world.processes[-1].pid, signal.SIGKILL)
            again = submit_of(3, 5, 50)
            assert await text_of(world.submit(again)) == text_alone(again)
            assert len(world.processes) == 3  # in safe mode at once
            assert "tgi_llamacpp_engine_safe_mode 1" in world.client.recovery.lines()

    asyncio.run(run(main()))
    (first, _) = [r for r in caplog.records if "safe mode" in r.message]
    assert first.levelname == "WARNING"
    assert "killed by SIGSEGV" in first.message
    assert "--disable-repack" in first.message


def test_an_engine_that_dies_of_repacked_weights_as_it_warms_up_is_followed_by_one_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "abort:repack")

    async def main() -> None:
        config = msgspec.structs.replace(ENGINE_CONFIG, max_warm_up_ms=50)
        async with supervised(config=config) as world:
            wanted = submit_of(3, 5, 50)
            assert await text_of(world.submit(wanted)) == text_alone(wanted)
            assert len(world.processes) == 2

    asyncio.run(run(main()))


def test_safe_mode_that_does_not_help_ends_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "abort:any")

    async def main() -> None:
        async with supervised() as world:
            with pytest.raises(EngineUnavailable, match="ended 5 times"):
                await text_of(world.submit(marked()))
            assert "tgi_llamacpp_engine_safe_mode 0" in world.client.recovery.lines()

    asyncio.run(run(main()))
    assert len([r for r in caplog.records if "serves in safe mode" in r.message]) == 1


def test_an_engine_that_is_killed_from_outside_is_followed_by_one_of_its_kind() -> None:
    async def main() -> None:
        async with supervised() as world:
            os.kill(world.processes[0].pid, signal.SIGKILL)
            wanted = submit_of(3, 5, 50)
            assert await text_of(world.submit(wanted)) == text_alone(wanted)
            assert "tgi_llamacpp_engine_safe_mode 0" in world.client.recovery.lines()

    asyncio.run(run(main()))


def test_with_repack_turned_off_there_is_no_safe_mode(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "abort:any")

    async def main() -> None:
        config = msgspec.structs.replace(ENGINE_CONFIG, repack=False)
        async with supervised(config=config) as world:
            with pytest.raises(EngineUnavailable, match="ended 5 times"):
                await text_of(world.submit(marked()))

    asyncio.run(run(main()))
    assert "safe mode" not in caplog.text
