"""What becomes of open sequences when their engine dies: who goes on, and who is blamed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from array import array
from collections.abc import AsyncIterator

import pytest

from tests.conftest import ENGINE_CONFIG
from tests.fake_engine import FakeEngine, FakeToken, prompt_logprobs, step_out
from tgi_llamacpp.errors import GenerationError
from tgi_llamacpp.messages import Abort, Failed, Finish, SamplingParams, Submit
from tgi_llamacpp.router.blame import CrashRecord
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.mailbox import NO_TOKEN, Mailbox
from tgi_llamacpp.router.open_sequence import OpenSequence
from tgi_llamacpp.router.recovery import BACKOFF_S, Patience
from tgi_llamacpp.router.watchdog import Watchdog
from tgi_llamacpp.step_page import PageState, StepEntry

PARAMS = SamplingParams(seed=7)


def prompt_of(number: int) -> bytes:
    return array("i", [number, 1, 1]).tobytes()


def script(submit: Submit) -> list[FakeToken]:
    """Four tokens that name the sequence by its prompt, without those it came with."""
    (number, *_) = array("i", submit.prompt_ids)
    tokens = [FakeToken(10 * number + i) for i in range(4)]
    tokens[-1] = FakeToken(tokens[-1].id, finish=Finish.LENGTH)
    return tokens[len(submit.generated_ids) // 4 :]


class Engines:
    """A client, and one engine after the other behind it, stepped by the test."""

    def __init__(self) -> None:
        self.client = EngineClient()
        self.engine: FakeEngine
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, is_doubted: bool = False) -> FakeEngine:
        near, far = socket.socketpair()
        self.engine = FakeEngine(far, script)
        self.engine.is_auto = False
        self._tasks.append(asyncio.create_task(self.engine.run()))
        await self.client.start(near, ENGINE_CONFIG, is_doubted=is_doubted)
        return self.engine

    def submit(self, number: int) -> tuple[OpenSequence, Mailbox]:
        mailbox = Mailbox()
        return self.client.submit(mailbox, prompt_of(number), 4, PARAMS), mailbox

    async def crash(self, *entries: tuple[OpenSequence, int] | StepEntry) -> None:
        self.engine.die()
        await self.client.wait_closed()
        page = [
            one if isinstance(one, StepEntry) else StepEntry(one[0].seq_id, one[1])
            for one in entries
        ]
        self.client.blame(page)

    async def close(self) -> None:
        await self.client.close()
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def engines() -> AsyncIterator[Engines]:
    one = Engines()
    await one.start()
    yield one
    await one.close()


async def tokens_of(mailbox: Mailbox, count: int) -> list[int]:
    rows: list[int] = []
    while len(rows) < count:
        rows += [row.token_id for row in await mailbox.take()]
    return rows


def test_a_sequence_goes_on_in_the_next_engine_where_it_stopped() -> None:
    async def main() -> None:
        async with engines() as world:
            sequence, mailbox = world.submit(3)
            await world.engine.wait_for(Submit)
            world.engine.step()
            world.engine.step()
            assert await tokens_of(mailbox, 2) == [30, 31]
            admitted_s = sequence.admitted_s
            await world.crash((sequence, 5))
            engine = await world.start()
            (submit,) = await engine.wait_for(Submit)
            assert submit.generated_ids == array("i", [30, 31]).tobytes()
            engine.step()
            engine.step()
            assert await tokens_of(mailbox, 2) == [32, 33]
            assert sequence.admitted_s == admitted_s  # what came before is no time in the queue
            assert world.client.num_open == 0
            assert world.client.recovery.num_restarts == 1
            assert world.client.recovery.num_resubmitted == 1

    asyncio.run(main())


def test_the_next_engine_is_asked_for_the_same_as_the_one_before() -> None:
    async def main() -> None:
        async with engines() as world:
            params = SamplingParams(min_new_tokens=3)
            world.client.submit(Mailbox(), prompt_of(3), 4, params, takes_prefix=False)
            (before,) = await world.engine.wait_for(Submit)
            world.engine.step()
            await world.crash()
            (after,) = await (await world.start()).wait_for(Submit)
            assert isinstance(before, Submit)
            assert isinstance(after, Submit)
            assert before.params == after.params == params
            assert not before.takes_prefix
            assert not after.takes_prefix

    asyncio.run(main())


def test_what_an_engine_found_cached_does_not_count_where_the_next_computes_it() -> None:
    async def main() -> None:
        async with engines() as world:
            world.engine.num_cached = 2
            begun, mailbox = world.submit(1)
            await world.engine.wait_for(Submit)
            world.engine.step()
            await tokens_of(mailbox, 1)
            fresh, _ = world.submit(2)
            fresh.num_cached_tokens = 2  # the engine said so, and gave no token
            await world.crash()
            await world.start()
            assert fresh.num_cached_tokens == 0
            assert begun.num_cached_tokens == 2  # its answer has begun with them

    asyncio.run(main())


def test_what_comes_between_two_engines_waits_and_keeps_its_place() -> None:
    async def main() -> None:
        async with engines() as world:
            world.submit(1)
            await world.engine.wait_for(Submit)
            await world.crash()
            world.submit(2)
            gone, _ = world.submit(3)
            world.client.abort([gone])
            engine = await world.start()
            world.submit(4)
            submits = await engine.wait_for(Submit, 3)
            assert [array("i", one.prompt_ids)[0] for one in submits] == [1, 2, 4]
            assert world.client.recovery.num_resubmitted == 1

    asyncio.run(main())


def test_rows_of_the_engine_before_are_dropped() -> None:
    async def main() -> None:
        async with engines() as world:
            sequence, mailbox = world.submit(1)
            await world.crash()
            engine = await world.start()
            engine.send(step_out(1, [(sequence.seq_id, FakeToken(99))], []))
            engine.send(step_out(2, [(sequence.seq_id, FakeToken(10))], []))
            assert await tokens_of(mailbox, 1) == [10]

    asyncio.run(main())


def test_after_two_crashes_suspects_run_alone_and_the_one_that_kills_alone_ends() -> None:
    async def main() -> None:
        async with engines() as world:
            good, bad, bystander = world.submit(1), world.submit(2), world.submit(3)
            for _ in range(2):
                await world.crash((good[0], 2), (bad[0], 2))
                engine = await world.start()
            (first,) = await engine.wait_for(Submit)
            assert first.seq_id == good[0].seq_id
            engine.step()  # it is past it, so it makes way; this row may not come again
            assert await tokens_of(good[1], 1) == [10]
            _, second = await engine.wait_for(Submit, 2)
            assert second.seq_id == bad[0].seq_id
            assert await engine.wait_for(Abort) == [Abort([first.seq_id])]
            engine.send(step_out(3, [(first.seq_id, FakeToken(11))], []))  # was under way
            world.submit(4)  # waits, too
            await world.crash((bad[0], 2))
            with pytest.raises(GenerationError, match="the engine died of this request 3 times"):
                await bad[1].take()
            engine = await world.start()
            submits = await engine.wait_for(Submit, 3)
            assert [array("i", one.prompt_ids)[0] for one in submits] == [1, 3, 4]
            for _ in range(4):
                engine.step()
            assert await tokens_of(good[1], 3) == [11, 12, 13]
            assert await tokens_of(bystander[1], 4) == [30, 31, 32, 33]

    asyncio.run(main())


def test_a_suspect_whose_client_goes_makes_way() -> None:
    async def main() -> None:
        async with engines() as world:
            one, two, three = world.submit(1), world.submit(2), world.submit(3)
            for _ in range(2):
                await world.crash((one[0], 2), (two[0], 2))
                engine = await world.start()
            await engine.wait_for(Submit)
            world.client.abort([one[0]])
            await engine.wait_for(Submit, 2)
            engine.fail_all("no room")
            submits = await engine.wait_for(Submit, 3)
            assert submits[2].seq_id == three[0].seq_id
            with pytest.raises(GenerationError, match="no room"):
                await two[1].take()

    asyncio.run(main())


def test_a_row_that_was_under_way_when_a_suspect_made_way_does_not_count_twice() -> None:
    async def main() -> None:
        async with engines() as world:
            one, two = world.submit(1), world.submit(2)
            for _ in range(2):
                await world.crash((one[0], 2), (two[0], 2))
                engine = await world.start()
            (before,) = await engine.wait_for(Submit)
            engine.step()
            assert await tokens_of(one[1], 1) == [10]
            await engine.wait_for(Submit, 2)
            world.client.abort([two[0]])
            *_, again = await engine.wait_for(Submit, 3)
            assert again.generated_ids == array("i", [10]).tobytes()
            engine.send(step_out(3, [(before.seq_id, FakeToken(11))], []))
            for _ in range(3):
                engine.step()
            assert await tokens_of(one[1], 3) == [11, 12, 13]

    asyncio.run(main())


def test_an_engines_last_words_are_kept_until_the_next_one_starts() -> None:
    async def main() -> None:
        async with engines() as world:
            world.engine.send(Failed(1, "the device is lost"))
            await world.crash()
            assert world.client.last_words == "the device is lost"
            await world.start()
            assert world.client.last_words is None

    asyncio.run(main())


def test_a_doubted_engine_has_to_do_a_step_before_it_gets_anything() -> None:
    async def main() -> None:
        async with engines() as world:
            sequence, mailbox = world.submit(1)
            await world.crash((sequence, 2))
            for _ in range(5):
                engine = await world.start(is_doubted=True)
                (probe,) = await engine.wait_for(Submit)
                await world.crash(StepEntry(probe.seq_id, 0))
                assert world.client.num_open == 1
            engine = await world.start(is_doubted=True)
            (probe,) = await engine.wait_for(Submit)
            engine.send(step_out(7, [(probe.seq_id, FakeToken(9, finish=Finish.LENGTH))], []))
            _, submit = await engine.wait_for(Submit, 2)
            assert submit.seq_id == sequence.seq_id
            engine.step()
            assert await tokens_of(mailbox, 1) == [10]

    asyncio.run(main())


def test_an_engine_killed_between_two_steps_is_held_against_nobody() -> None:
    async def main() -> None:
        async with engines() as world:
            suspect = world.submit(1)
            for _ in range(2):
                await world.crash((suspect[0], 2))
                await world.start()
            for _ in range(5):  # alone in the engine, but not running
                await world.crash()
                await world.start()
            assert world.client.num_open == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("crashes", "is_suspect"),
    [
        ([(5, 0)], False),
        ([(5, 0), (5, 0)], True),
        ([(5, 0), (0, 0)], True),  # again on its way there
        ([(5, 0), (6, 0)], False),  # a prompt that got further
        ([(5, 0), (5, 0), (6, 1)], False),
        ([(5, 0), (0, 3)], False),  # it had got further in between
        ([(5, 0), (0, 3), (0, 3)], True),
    ],
)
def test_a_crash_counts_where_there_was_no_progress(
    crashes: list[tuple[int, int]], is_suspect: bool
) -> None:
    record = CrashRecord()
    for position, num_generated in crashes:
        record.count(position, num_generated)
    assert record.is_suspect == is_suspect


class TestPatience:
    def crash(self, patience: Patience, **changes: object) -> float | None:
        """The delay before the next start; None when there is none."""
        facts: dict[str, object] = {
            "num_steps": 0, "had_work": True, "ready_s": 1.0, "is_explained": False,
        }  # fmt: skip
        patience.on_crash(**(facts | changes))  # type: ignore[arg-type]
        return None if patience.is_over else patience.delay_s

    def test_five_useless_engines_in_a_row_over_half_a_minute_are_enough(self) -> None:
        patience = Patience()
        delays = [self.crash(patience) for _ in range(5)]
        assert delays == [*BACKOFF_S, None]
        assert sum(BACKOFF_S) >= 30

    def test_an_engine_that_was_of_use_starts_the_count_again(self) -> None:
        patience = Patience()
        for _ in range(10):
            for _ in range(4):
                assert self.crash(patience)
            assert self.crash(patience, num_steps=2) == 0.0

    def test_a_probe_alone_is_of_use_where_somebody_may_be_to_blame(self) -> None:
        patience = Patience()
        assert self.crash(patience)
        assert self.crash(patience, num_steps=1, is_explained=True) == 0.0
        assert self.crash(patience)
        assert [self.crash(patience, num_steps=1) for _ in range(4)][-1] is None

    def test_an_engine_without_work_is_not_held_against_the_next(self) -> None:
        patience = Patience()
        assert {self.crash(patience, had_work=False, ready_s=100.0) for _ in range(9)} == {0.0}
        assert [self.crash(patience, had_work=False) for _ in range(5)][-1] is None

    def test_the_same_sentence_twice_in_a_row_is_enough(self) -> None:
        patience = Patience()
        assert not patience.on_failed_load("no memory", is_certain=True)
        assert not patience.on_failed_load("bad file", is_certain=True)
        assert patience.on_failed_load("bad file", is_certain=True)
        assert not patience.on_failed_load("killed", is_certain=False)
        assert not patience.on_failed_load("killed", is_certain=False)
        assert patience.is_over


class TestWatchdog:
    def seconds_until(
        self, page: PageState, *, limit_s: float = 10, has_work: bool = True, tick_s: float = 1
    ) -> tuple[float | None, float | None]:
        """When it is stalled and when it is stuck, of a thousand seconds."""
        now_s = 0.0
        watchdog = Watchdog(limit_s, lambda: now_s)
        watchdog.look(page, has_work=has_work)
        stalled_s: float | None = None
        while now_s < 1000:
            now_s += tick_s
            watchdog.look(page, has_work=has_work)
            stalled_s = now_s if stalled_s is None and watchdog.is_stalled else stalled_s
            if watchdog.is_stuck:
                return stalled_s, now_s
        return stalled_s, None

    def test_a_step_that_does_not_end_is_noticed(self) -> None:
        assert self.seconds_until(PageState(1, 1, 0, [])) == (3, 11)

    def test_a_long_prompt_and_a_first_step_have_more_time(self) -> None:
        assert self.seconds_until(PageState(1, 1, 512, [])) == (13, 51)
        assert self.seconds_until(PageState(1, 0, 0, [])) == (11, 41)

    def test_without_work_or_limit_nothing_is_amiss(self) -> None:
        assert self.seconds_until(PageState(1, 1, 0, []), has_work=False) == (None, None)
        assert self.seconds_until(PageState(1, 1, 0, []), limit_s=0) == (None, None)

    def test_a_router_that_was_stopped_blames_nobody(self) -> None:
        stalled_s, stuck_s = self.seconds_until(PageState(1, 1, 0, []), tick_s=100)
        assert (stalled_s, stuck_s) == (200, 600)

    def test_every_beat_starts_the_clock_again(self) -> None:
        now_s = 0.0
        watchdog = Watchdog(10, lambda: now_s)
        for num_beats in range(100):
            watchdog.look(PageState(num_beats, 1, 0, []), has_work=True)
            now_s += 2
            assert not watchdog.is_stalled


def test_a_prompt_is_scored_on_from_where_the_engine_died() -> None:
    async def main() -> None:
        async with engines() as world:
            mailbox = Mailbox()
            opened = world.client.submit(mailbox, prompt_of(3), 0, PARAMS, prompt_logprobs=True)
            (submit,) = await world.engine.wait_for(Submit)
            assert (submit.prompt_logprobs, submit.num_scored) == (True, 0)
            world.engine.send(prompt_logprobs(world.engine.epoch, submit, range(1, 2)))
            scores = opened.scores
            assert scores is not None
            while not scores.num_scored:
                await asyncio.sleep(0)
            await world.crash((opened, 1))
            engine = await world.start()
            (again,) = await engine.wait_for(Submit)
            assert (again.prompt_logprobs, again.num_scored) == (True, 1)
            engine.send(prompt_logprobs(engine.epoch, again, range(2, 3), is_end=True))
            (row,) = await mailbox.take()
            assert (row.token_id, row.finish) == (NO_TOKEN, Finish.LENGTH)
            assert scores.is_complete
            assert [token.logprob for token in scores.tokens()][1:] == [-0.25, -0.5]
            assert world.client.num_open == 0

    asyncio.run(main())
