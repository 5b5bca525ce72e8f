"""Engines that are killed, stopped and broken under streams: what clients see of it is a pause."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import tgi_llamacpp
from tests.adversity.streams import Body, Events, bodies, run_all
from tests.server_process import PATIENCE_S, ServerProcess, Watched
from tgi_llamacpp.engine.faults import VARIABLE

DEMO = Path(tgi_llamacpp.__file__).parent / "demo"
MARK = 771  # a token that no other request here comes near


class Moments:
    """Wakes whoever waits for so many more events of the streams."""

    def __init__(self) -> None:
        self.num_events = 0
        self._goal: int | None = None
        self._reached = asyncio.Event()

    def on_event(self) -> None:
        self.num_events += 1
        if self._goal is not None and self.num_events >= self._goal:
            self._reached.set()

    async def after(self, num_events: int) -> None:
        self._goal = self.num_events + num_events
        self._reached.clear()
        await self._reached.wait()


def engine_pid(server: ServerProcess, epoch: int) -> int:
    """Of the engine with this number, once it is started."""
    return int(server.wait_for(rf"engine {epoch} started, pid (\d+)"))


def recoveries_s(server: ServerProcess) -> list[float]:
    return [float(s) for s in re.findall(r"goes on, ([\d.]+) s after", server.text)]


def metric(server: ServerProcess, name: str) -> float:
    text = httpx.get(server.url + "/metrics", timeout=PATIENCE_S).text
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])


def health(server: ServerProcess) -> int:
    return httpx.get(server.url + "/health", timeout=PATIENCE_S).status_code


async def kill_now_and_then(
    server: ServerProcess, moments: Moments, num_kills: int, dice: random.Random, num_events: int
) -> None:
    """Kill one engine after the other, each after up to num_events events or while it loads."""
    may_be_loading = False
    for epoch in range(1, num_kills + 1):
        pid = await asyncio.to_thread(engine_pid, server, epoch)
        is_loading = may_be_loading and dice.random() < 0.25
        may_be_loading = not is_loading
        if not is_loading:
            await moments.after(dice.randint(1, num_events))
        os.kill(pid, dice.choice((signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV)))


def check_kills(
    exact: tuple[str, ...], num_streams: int, num_tokens: int, num_kills: int, num_events: int
) -> None:
    dice = random.Random(20240807)
    requests = bodies(num_streams, num_tokens)
    flags = ("--max-batch-size=16", "--max-concurrent-requests=128")
    with ServerProcess("serve", *exact, *flags) as server:
        undisturbed = asyncio.run(run_all(server.url, requests))
        assert "error" not in str(undisturbed)

        async def disturbed() -> list[list[dict[str, object]]]:
            moments = Moments()
            killer = asyncio.create_task(
                kill_now_and_then(server, moments, num_kills, dice, num_events)
            )
            events = await run_all(server.url, requests, moments.on_event)
            assert killer.done(), f"streams ended before kill {len(recoveries_s(server)) + 1}"
            await killer
            return events

        events = asyncio.run(disturbed())
        assert metric(server, "tgi_llamacpp_engine_restarts") == num_kills
        assert metric(server, "tgi_llamacpp_resubmitted_sequences") >= num_streams
        assert health(server) == 200
        assert server.stop() == 0
    for body, seen, expected in zip(requests, events, undisturbed, strict=True):
        assert seen == expected, body
    times = recoveries_s(server)
    sys.stdout.write(
        f"\n{num_streams} streams, {num_kills} kills: recovered {len(times)} times in"
        f" {min(times):.2f} to {max(times):.2f} s, {sum(times) / len(times):.2f} s on average\n"
    )


def test_streams_go_on_to_the_bit_when_their_engine_is_killed(exact: tuple[str, ...]) -> None:
    check_kills(exact, num_streams=16, num_tokens=160, num_kills=4, num_events=350)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_thirty_two_streams_survive_twenty_kills(exact: tuple[str, ...]) -> None:
    check_kills(exact, num_streams=32, num_tokens=900, num_kills=20, num_events=900)


def poison(max_tokens: int = 20) -> Body:
    body = {"prompt": [5, 6, 7, MARK], "max_tokens": max_tokens, "temperature": 0}
    return "/v1/completions", body


@pytest.fixture
def engine_of() -> Iterator[list[Watched]]:
    """Handles to close."""
    handles: list[Watched] = []
    yield handles
    for handle in handles:
        handle.close()


def test_what_comes_without_an_engine_waits_up_to_the_limit_and_is_served() -> None:
    body = {"prompt": "one", "max_tokens": 3, "temperature": 0}
    with ServerProcess("demo", "--max-concurrent-requests=2") as server:

        async def main() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
                os.kill(engine_pid(server, 1), signal.SIGKILL)
                await asyncio.to_thread(server.wait_for, "engine 2 started")
                os.kill(engine_pid(server, 2), signal.SIGSTOP)  # it does not come up for now
                all_three = [asyncio.create_task(complete(client)) for _ in range(3)]
                done, waiting = await asyncio.wait(all_three, return_when=asyncio.FIRST_COMPLETED)
                assert [one.result().status_code for one in done] == [429]
                assert (await client.get("/health")).status_code == 503
                assert (await client.get("/v2/health/live")).status_code == 200
                os.kill(engine_pid(server, 2), signal.SIGCONT)
                assert [(await one).status_code for one in waiting] == [200, 200]

        async def complete(client: httpx.AsyncClient) -> httpx.Response:
            return await client.post("/v1/completions", json=body)

        asyncio.run(main())
        assert server.stop() == 0


def test_a_request_that_kills_engines_is_the_only_one_that_fails(exact: tuple[str, ...]) -> None:
    requests = bodies(16, 60)
    environment = {VARIABLE: f"abort:{MARK}"}
    with ServerProcess("serve", *exact, "--max-batch-size=16", **environment) as server:
        expected = asyncio.run(run_all(server.url, requests))
        *events, (failure,) = asyncio.run(run_all(server.url, [*requests, poison()]))
        assert events == expected
        assert failure["status"] == 424
        assert failure["error"]["message"] == (
            "Request failed during generation:"
            " the engine died of this request 3 times, the last time alone with it"
        )
        assert metric(server, "tgi_llamacpp_engine_restarts") == 3
        # Sent again to a server without other work, it ends no more than itself.
        ((failure,),) = asyncio.run(run_all(server.url, [poison()]))
        assert failure["status"] == 424
        assert asyncio.run(run_all(server.url, requests[:1])) == expected[:1]
        assert health(server) == 200
        assert server.stop() == 0


def test_a_long_prompt_that_kills_engines_while_it_is_aside_fails_alone(
    exact: tuple[str, ...],
) -> None:
    requests = bodies(4, 200)
    long = ("/v1/completions", {"prompt": [5, 6, 7, MARK] * 80, "max_tokens": 5})
    flags = ("--max-input-tokens=500", "--max-total-tokens=800", "--max-batch-size=8")
    with ServerProcess("serve", *exact, *flags, **{VARIABLE: f"abort:{MARK}"}) as server:
        expected = asyncio.run(run_all(server.url, requests))

        async def with_a_long_one() -> tuple[list[Events], list[Events]]:
            moments = Moments()
            streams = asyncio.create_task(run_all(server.url, requests, moments.on_event))
            await moments.after(20)
            failed = await run_all(server.url, [long])
            return await streams, failed

        events, ((failure,),) = asyncio.run(with_a_long_one())
        assert events == expected
        assert failure["status"] == 424
        assert "in advance_aside" in server.text
        assert health(server) == 200
        assert server.stop() == 0


def test_a_stopped_engine_is_noticed_and_replaced(exact: tuple[str, ...]) -> None:
    requests = bodies(8, 200)
    with ServerProcess("serve", *exact, "--engine-watchdog-s=1") as server:
        expected = asyncio.run(run_all(server.url, requests))

        async def with_a_stop() -> list[list[dict[str, object]]]:
            moments = Moments()
            streams = asyncio.create_task(run_all(server.url, requests, moments.on_event))
            await moments.after(100)
            os.kill(engine_pid(server, 1), signal.SIGSTOP)
            async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
                while (await client.get("/health")).status_code == 200:
                    await asyncio.sleep(0.05)
            return await streams

        assert asyncio.run(with_a_stop()) == expected
        assert health(server) == 200
        assert "engine 1 is stuck: nothing moved for 1." in server.text
        assert server.stop() == 0


@pytest.mark.long
def test_a_request_that_hangs_engines_leaves_their_stacks_in_the_log_and_fails_alone(
    exact: tuple[str, ...],
) -> None:
    requests = bodies(4, 40)
    environment = {VARIABLE: f"hang:{MARK}"}
    with ServerProcess("serve", *exact, "--engine-watchdog-s=1", **environment) as server:
        expected = asyncio.run(run_all(server.url, requests))
        *events, (failure,) = asyncio.run(run_all(server.url, [*requests, poison()]))
        assert events == expected
        assert failure["status"] == 424
        assert server.stop() == 0
    stuck = next(n for n, line in enumerate(server.log) if "is stuck" in line)
    assert any(re.search(r'faults\.py", line \d+ in step', line) for line in server.log[stuck:])


def test_a_busy_engine_ends_within_a_second_when_its_router_is_killed(
    engine_of: list[Watched],
) -> None:
    with ServerProcess("demo") as server:
        engine_of.append(engine := Watched(server.engine_pid))
        assert server.url
        scores = [Path(f"/proc/{p}/oom_score_adj").read_text() for p in (server.pid, engine.pid)]
        assert int(scores[1]) == min(int(scores[0]) + 200, 1000)

        async def main() -> None:
            moments = Moments()
            streams = asyncio.create_task(run_all(server.url, bodies(8, 500), moments.on_event))
            await moments.after(50)
            server.signal(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await streams

        asyncio.run(main())
        assert engine.is_gone_within(1)


def test_a_model_that_does_not_load_again_ends_every_request_with_the_reason(
    tmp_path: Path,
) -> None:
    shutil.copytree(DEMO, tmp_path / "model")
    path = tmp_path / "model/demo.gguf"
    endless = [body for body in bodies(12, 1500) if body[1].get("ignore_eos")]
    arguments = (f"--model-id={path}", "--max-batch-size=12", "--exit-on-engine-failure")
    with ServerProcess("serve", *arguments) as server:

        async def main() -> list[list[dict[str, object]]]:
            moments = Moments()
            streams = asyncio.create_task(run_all(server.url, endless, moments.on_event))
            await moments.after(20)
            cut = tmp_path / "cut"
            cut.write_bytes(path.read_bytes()[:50_000])
            cut.replace(path)  # and not into the file, which the engine has mapped
            os.kill(engine_pid(server, 1), signal.SIGKILL)
            return await streams

        events = asyncio.run(main())
        assert server.wait() == 3
    reason = "The engine ended, and cannot load the model again: "
    for one in events:
        assert reason in str(one)
        assert "engine_unavailable" in str(one)
    assert server.log[-1].startswith(f"Error: {reason}")
    assert "Traceback" not in server.text


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_engine_that_is_broken_for_everyone_is_given_up_after_half_a_minute() -> None:
    with ServerProcess("demo", **{VARIABLE: "abort:any"}) as server:
        events = asyncio.run(run_all(server.url, bodies(4, 60)))
        assert all("The engine ended 5 times in a row" in str(one) for one in events)
        assert health(server) == 503
        ((failure,),) = asyncio.run(run_all(server.url, [poison()]))
        assert failure["status"] == 503
        assert server.stop() == 0
