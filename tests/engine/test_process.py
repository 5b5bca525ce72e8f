"""The engine as the router starts it: a process, an inherited socket, signals, and its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.engine.router_end import TIMEOUT_S, RouterEnd
from tests.engine.simulation import submit_of, text_alone
from tgi_llamacpp.messages import Failed, Progress, Ready, StepOut

SCRIPT = """
import sys, time
from tgi_llamacpp.engine.fake_runner import FakeModel, FakeRunner, fake_limits
from tgi_llamacpp.engine.process import main

def load(config, on_progress):
    on_progress(0.5)
    if {load_s}:
        time.sleep({load_s})
    return FakeModel(256), FakeRunner(fake_limits(config, 256), step_s={step_s})

sys.exit(main(sys.argv[1:], load))
"""


class EngineProcess:
    def __init__(self, *arguments: str) -> None:
        engine_end, router_end = socket.socketpair()
        fd = str(engine_end.fileno())
        self.process = subprocess.Popen(
            [sys.executable, *arguments, "--fd", fd],
            pass_fds=[int(fd)],
            stderr=subprocess.PIPE,
            text=True,
        )
        engine_end.close()
        self.router = RouterEnd(router_end)
        self.stderr = ""

    def ends_within(self, limit_s: float) -> int:
        started_s = time.monotonic()
        self.stderr = self.process.communicate(timeout=TIMEOUT_S)[1]
        assert time.monotonic() - started_s < limit_s
        return self.process.returncode

    def close(self) -> None:
        self.router.close()
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def processes() -> Iterator[list[EngineProcess]]:
    running: list[EngineProcess] = []
    yield running
    for one in running:
        one.close()


def scripted(
    processes: list[EngineProcess], *, load_s: float = 0, step_s: float = 0
) -> EngineProcess:
    processes.append(EngineProcess("-c", SCRIPT.format(load_s=load_s, step_s=step_s)))
    return processes[-1]


def test_a_fake_engine_serves_as_a_process(processes: list[EngineProcess]) -> None:
    processes.append(EngineProcess("-m", "tgi_llamacpp.engine.fake_runner", "--num-vocab", "256"))
    engine = processes[0]
    engine.router.start()
    ready = engine.router.wait_for(Ready)
    assert ready.num_vocab == 256
    engine.router.send(submit_of(1, 3, 5))
    texts, _, _ = engine.router.collect(1)
    assert texts[1] == text_alone(submit_of(1, 3, 5))
    engine.router.close()
    assert engine.ends_within(1.0) == 0
    assert "Traceback" not in engine.stderr


def test_it_ends_within_a_second_when_the_router_goes_during_a_load(
    processes: list[EngineProcess],
) -> None:
    engine = scripted(processes, load_s=60)
    engine.router.start()
    engine.router.wait_for(Progress)
    engine.router.close()
    assert engine.ends_within(1.0) == 0


def test_it_ends_within_a_second_when_the_router_goes_during_a_long_step(
    processes: list[EngineProcess],
) -> None:
    engine = scripted(processes, step_s=60)
    engine.router.start()
    engine.router.wait_for(Ready)
    engine.router.send(submit_of(1, 3, 5))
    engine.router.close()
    assert engine.ends_within(1.0) == 0


def test_the_signals_of_a_terminal_do_not_end_it(processes: list[EngineProcess]) -> None:
    engine = scripted(processes)
    engine.router.start()
    engine.router.wait_for(Ready)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        engine.process.send_signal(number)
    engine.router.send(submit_of(1, 3, 5))
    engine.router.wait_for(StepOut)
    engine.router.close()
    assert engine.ends_within(1.0) == 0


def test_its_failure_is_in_its_exit_code_and_on_one_line_of_its_log(
    processes: list[EngineProcess],
) -> None:
    engine = scripted(processes)
    engine.router.start()
    engine.router.wait_for(Ready)
    engine.router.start()
    assert engine.router.wait_for(Failed).message.startswith("a second Start arrived")
    assert engine.ends_within(1.0) == 1
    assert "ERROR engine: a second Start arrived" in engine.stderr
    assert "Traceback" not in engine.stderr


def test_without_a_socket_it_explains_its_use() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tgi_llamacpp.engine.fake_runner"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 2
    assert "--fd" in done.stderr
