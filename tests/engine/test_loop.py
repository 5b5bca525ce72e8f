"""The engine over a real socketpair, in a thread: handshake, steps, aborts, slow readers, ends."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tests.engine.router_end import EPOCH, TIMEOUT_S, RouterEnd, rows_of_step
from tests.engine.simulation import submit_of, text_alone
from tgi_llamacpp import __version__
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine import curve_upkeep, loop, transport
from tgi_llamacpp.engine.fake_runner import FakeModel, FakeRunner, fake_limits
from tgi_llamacpp.engine.model import Model, OnProgress
from tgi_llamacpp.engine.process import serve
from tgi_llamacpp.engine.runner import Plan, Runner, StepResult, StepStatus
from tgi_llamacpp.errors import RunnerError, StartupError
from tgi_llamacpp.messages import (
    PROTOCOL_VERSION,
    Abort,
    Failed,
    Finish,
    Progress,
    PromptLogprobs,
    Ready,
    Stats,
    StepOut,
    Submit,
)
from tgi_llamacpp.step_page import StepPage

NUM_VOCAB = 256  # that of simulation.text_alone


class GatedRunner(FakeRunner):
    """Counts its steps, waits at a gate before each, and can break. The first ones may be slow."""

    def __init__(self, config: EngineConfig, num_slow_steps: int = 0) -> None:
        super().__init__(
            replace(fake_limits(config, NUM_VOCAB), has_aside=True, aside_bytes=3 << 20)
        )
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.aside_gate = threading.Event()
        self.aside_gate.set()
        self.entered_aside = threading.Event()
        self.breaks = False
        self.is_full = False
        self.num_steps = 0
        self._num_slow_steps = num_slow_steps
        self.is_closed = False

    def step(self, plan: Plan) -> StepResult:
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        if self.breaks:
            raise RunnerError("llama_decode returned -3:\nthe device is lost")
        if self.is_full:
            return self._result(StepStatus.NO_KV_SPACE, [])
        self._step_s = 0.05 if self.num_steps < self._num_slow_steps else 0.0
        self.num_steps += 1
        return super().step(plan)

    def advance_aside(self, max_s: float, max_rows: int) -> bool:
        self.entered_aside.set()
        assert self.aside_gate.wait(TIMEOUT_S)
        return super().advance_aside(max_s, 10)

    def close(self) -> None:
        self.is_closed = True


class Engine:
    """`serve` in a thread, and the router's end of its socket."""

    model = FakeModel(num_vocab=NUM_VOCAB, bos_id=3, context_length=100)
    error: StartupError | None = None
    num_slow_steps = 0
    runner: GatedRunner

    def __init__(self) -> None:
        engine_end, router_end = socket.socketpair()
        self._sock = engine_end
        self.router = RouterEnd(router_end)
        self.page = StepPage()
        self.exit_code: int | None = None
        self.levels: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._sock:
            self.exit_code = serve(
                self._sock,
                self._load,
                lambda config: self.levels.append(config.log_level),
                lambda: False,
                self.page,
            )

    def _load(self, config: EngineConfig, on_progress: OnProgress) -> tuple[Model, Runner]:
        for percent in (0.0, 0.001, 0.5, 0.5, 1.0):
            assert on_progress(percent)
        if self.error:
            raise self.error
        self.runner = GatedRunner(config, self.num_slow_steps)
        return self.model, self.runner

    def start(self, **changes: object) -> Ready:
        self.router.start(**changes)
        return self.router.wait_for(Ready)

    def join(self) -> int | None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "the engine does not end"
        return self.exit_code

    def close(self) -> None:
        if hasattr(self, "runner"):
            self.runner.gate.set()
            self.runner.aside_gate.set()
        self.router.close()
        self.join()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


# Start


def test_loading_is_told_by_per_cent_and_then_what_was_loaded(engine: Engine) -> None:
    engine.router.start()
    assert [engine.router.receive() for _ in range(3)] == [
        Progress(0.0),
        Progress(0.5),
        Progress(1.0),
    ]
    ready = engine.router.receive()
    assert ready == Ready(
        epoch=EPOCH,
        protocol_version=PROTOCOL_VERSION,
        package_version=__version__,
        num_vocab=NUM_VOCAB,
        bos_id=3,
        eog_ids=[255],
        pieces_hash="fake",
        num_slots=4,
        max_sequence_tokens=100,
        max_batch_total_tokens=512,
        device="none",
        notes=[
            "--max-total-tokens is lowered from 128 to 100,"
            " the context that the model was trained for."
        ],
    )
    assert engine.levels == ["info"]


def test_more_slots_than_rows_of_a_step_are_not_used_and_that_is_said(engine: Engine) -> None:
    ready = engine.start(
        max_physical_batch_total_tokens=2, max_total_tokens=64, max_batch_total_tokens=256
    )
    assert ready.num_slots == 2
    assert ready.notes == ["--max-batch-size is lowered from 4 to 2, the rows of a step."]


def test_end_of_generation_of_the_configuration_counts_too(engine: Engine) -> None:
    first = text_alone(submit_of(1, 3, 1))[0]
    ready = engine.start(extra_eog_ids=[first])
    assert ready.eog_ids == sorted([first, 255])
    engine.router.send(submit_of(1, 3, 9))
    _, finishes, _ = engine.router.collect(1)
    assert finishes == {1: Finish.EOG}


def test_a_model_that_does_not_load_is_one_sentence_and_exit_code_1(engine: Engine) -> None:
    engine.error = StartupError("Failed to load model x.gguf: it is truncated")
    engine.router.start()
    failed = engine.router.wait_for(Failed)
    assert failed == Failed(EPOCH, "Failed to load model x.gguf: it is truncated")
    assert engine.join() == 1


def test_a_router_that_leaves_before_it_starts_anything_ends_the_engine(engine: Engine) -> None:
    engine.router.close()
    assert engine.join() == 0


# Steps


def test_what_a_busy_start_could_not_measure_is_measured_while_no_request_runs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_upkeep, "FIRST_WAIT_S", 0.0)
    engine.num_slow_steps = 2
    engine.start(max_warm_up_ms=40)
    assert engine.runner.num_steps == 2
    assert engine.router.wait_for(Stats).num_curves == 1
    assert engine.runner.num_steps > 10
    engine.router.send(submit := submit_of(1, 3, 9))
    assert engine.router.collect(1)[0] == {1: text_alone(submit)}


def test_a_failure_of_the_only_sequence_is_told_at_once(engine: Engine) -> None:
    engine.start()
    engine.runner.is_full = True
    engine.router.send(submit_of(1, 3, 9))
    _, _, failures = engine.router.collect(1)
    assert "no room for this sequence" in failures[1]
    stats = engine.router.wait_for(Stats)
    assert stats.prefill.num_retried == 1
    assert sum(stats.prefill.whole.counts) == 0


def test_sequences_get_their_text_and_end_once(engine: Engine) -> None:
    engine.start(max_total_tokens=64)
    submits = [submit_of(i, 3 + i, 5 + 2 * i) for i in range(10)]
    for submit in submits:
        engine.router.send(submit)
    texts, finishes, failures = engine.router.collect(len(submits))
    assert texts == {one.seq_id: text_alone(one) for one in submits}
    assert set(finishes) == set(range(10))
    assert not failures


def test_a_step_is_one_frame_for_all_its_sequences(engine: Engine) -> None:
    engine.start()
    engine.runner.gate.clear()
    for seq_id in (1, 2, 3):
        engine.router.send(submit_of(seq_id, 1, 3))
    engine.runner.gate.set()
    frames: list[list[tuple[int, int, Finish]]] = []
    while sum(len(frame) for frame in frames) < 9:
        frames.append(rows_of_step(engine.router.wait_for(StepOut)))
    assert max(len(frame) for frame in frames) == 3


def test_those_who_come_together_start_together(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("MAX_GATHER_S", "MAX_PAUSE_S"):
        monkeypatch.setattr(loop, limit, TIMEOUT_S)
    engine.start()
    for seq_id in (1, 2, 3):
        engine.router.send(replace_more_follow(submit_of(seq_id, 2, 3), seq_id < 3))
    admitted = np.frombuffer(engine.router.wait_for(StepOut).admitted, np.int64)
    assert admitted.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("share", "is_awaited"), [(1e6, True), (0.0, False)])
def test_who_comes_a_moment_later_is_awaited_where_a_prompt_takes_long(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, share: float, is_awaited: bool
) -> None:
    monkeypatch.setattr(loop, "MAX_GATHER_S", 0.5)
    monkeypatch.setattr(loop, "MAX_DOUBT_S", TIMEOUT_S)
    monkeypatch.setattr(loop, "DOUBT_SHARE", share)
    engine.start()
    engine.router.send(submit_of(1, 2, 3))
    assert engine.runner.entered.wait(0.1) != is_awaited
    engine.router.send(submit_of(2, 2, 3))
    admitted = np.frombuffer(engine.router.wait_for(StepOut).admitted, np.int64)
    assert admitted.tolist() == ([1, 2] if is_awaited else [1])


@pytest.mark.parametrize("limit", ["MAX_GATHER_S", "MAX_PAUSE_S"])
def test_nobody_waits_long_for_who_does_not_come(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    for name in ("MAX_GATHER_S", "MAX_PAUSE_S"):
        monkeypatch.setattr(loop, name, 0.001 if name == limit else 1000 * TIMEOUT_S)
    engine.start()
    submit = submit_of(1, 2, 3)
    engine.router.send(replace_more_follow(submit, True))
    texts, _, _ = engine.router.collect(1)
    assert texts[1] == text_alone(submit)


def replace_more_follow(submit: Submit, more_follow: bool) -> Submit:
    return msgspec.structs.replace(submit, more_follow=more_follow)


def test_what_cannot_be_run_fails_alone(engine: Engine) -> None:
    engine.start()
    engine.router.send(submit_of(1, 100, 5))
    engine.router.send(submit_of(2, 3, 5))
    texts, finishes, failures = engine.router.collect(2)
    assert "needs 105 tokens" in failures[1]
    assert "a sequence may have 100" in failures[1]
    assert list(finishes) == [2]
    assert texts[2] == text_alone(submit_of(2, 3, 5))


def test_an_abort_frees_the_slot_and_is_not_answered(engine: Engine) -> None:
    engine.start(max_batch_size=1, max_batch_total_tokens=128)
    engine.runner.gate.clear()
    engine.router.send(submit_of(1, 3, 90))
    assert engine.runner.entered.wait(TIMEOUT_S)
    engine.router.send(Abort([1, 99]))
    engine.router.send(submit_of(2, 3, 4))
    engine.runner.gate.set()
    texts, finishes, failures = engine.router.collect(1)
    assert {seq_id: len(text) for seq_id, text in texts.items()} == {1: 1, 2: 4}
    assert list(finishes) == [2]
    assert not failures
    stats = engine.router.wait_for(Stats)
    assert (stats.num_running, stats.num_waiting, stats.num_reserved_tokens) == (0, 0, 0)


def test_counters_are_told_when_the_work_has_run_out(engine: Engine) -> None:
    engine.start()
    engine.runner.gate.clear()
    for seq_id in (1, 2):
        engine.router.send(submit_of(seq_id, 5, 6))
    engine.runner.gate.set()
    engine.router.collect(2)
    while (stats := engine.router.wait_for(Stats)).num_running:
        pass
    assert stats.epoch == EPOCH
    assert stats.num_decode_tokens == 12
    assert stats.num_prefill_tokens == 8
    assert stats.num_shared_steps >= 4
    assert stats.num_steps == engine.runner.num_steps
    assert stats.step_s > 0
    num_timed = sum(stats.prefill.whole.counts) + sum(stats.decode.whole.counts)
    assert num_timed == stats.num_steps
    assert stats.admissions.sizes.total == 2


def test_the_log_says_how_many_steps_were_shared(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "tgi_llamacpp.engine"):
        engine.start()
        engine.runner.gate.clear()
        engine.router.send(submit_of(1, 5, 6))
        engine.router.send(submit_of(2, 5, 6))
        engine.runner.gate.set()
        engine.router.collect(2)
        engine.router.close()
        engine.join()
    text = caplog.text
    assert "shared by several sequences: 12 tokens decoded, 8 prefilled" in text
    assert "step: 2 rows, 2 decode, 0 prefill, 0 dummy, of 2 sequences: ok" in text
    assert "4 sequences at once, of up to 100 tokens each and 512 together, in split KV" in text
    assert "computed aside, in 3.0 MiB of cells more" in text


# A prompt aside


def submit_one_that_goes_aside(engine: Engine) -> None:
    """Beside a stream; its first slice waits at the gate."""
    engine.start(min_aside_tokens=20)
    engine.runner.aside_gate.clear()
    engine.runner.gate.clear()
    engine.router.send(submit_of(1, 5, 60))
    assert engine.runner.entered.wait(TIMEOUT_S)
    engine.router.send(submit_of(2, 60, 3))
    engine.runner.gate.set()
    assert engine.runner.entered_aside.wait(TIMEOUT_S)


def test_the_page_names_the_one_aside_while_a_slice_of_it_runs(engine: Engine) -> None:
    submit_one_that_goes_aside(engine)
    assert engine.page.read().entries == [(2, 0)]
    engine.runner.aside_gate.set()
    texts, _, failures = engine.router.collect(2)
    assert not failures
    assert texts[2] == text_alone(submit_of(2, 60, 3))
    stats = engine.router.wait_for(Stats)
    while stats.num_running:
        stats = engine.router.wait_for(Stats)
    assert stats.num_aside == 1
    assert 0 < stats.aside_s < stats.step_s


def test_an_engine_whose_router_is_gone_ends_with_a_prompt_half_computed(engine: Engine) -> None:
    submit_one_that_goes_aside(engine)
    engine.router.close()
    engine.runner.aside_gate.set()
    assert engine.join() == 0
    assert engine.runner.is_closed


# The end


def test_a_broken_backend_is_one_sentence_and_exit_code_1(engine: Engine) -> None:
    engine.start()
    engine.runner.breaks = True
    engine.router.send(submit_of(1, 3, 5))
    failed = engine.router.wait_for(Failed)
    assert failed.message == "llama_decode returned -3: the device is lost"
    assert engine.join() == 1
    assert engine.runner.is_closed


def test_a_bug_of_ours_is_told_and_ends_the_engine(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.start()
    engine.runner.num_cells = lambda slot: 5  # type: ignore[method-assign]
    engine.router.send(submit_of(1, 3, 1))
    assert "cells of slot 0 are off" in engine.router.wait_for(Failed).message
    assert engine.join() == 1
    assert "bug of its own" in caplog.text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"\x03\x00\x00\x00abc", "not a message", id="not msgpack"),
        pytest.param(b"\xff\xff\xff\xff", "over the limit", id="too long"),
    ],
)
def test_what_is_no_frame_ends_the_engine_with_a_sentence(
    engine: Engine, data: bytes, words: str
) -> None:
    engine.start()
    engine.router.sock.sendall(data)
    assert words in engine.router.wait_for(Failed).message
    assert engine.join() == 1


def test_the_first_message_must_be_start(engine: Engine) -> None:
    engine.router.send(submit_of(1, 3, 5))
    assert "expected Start" in engine.router.wait_for(Failed).message
    assert engine.join() == 1


def test_a_second_start_is_refused(engine: Engine) -> None:
    engine.start()
    engine.router.start()
    assert "second Start" in engine.router.wait_for(Failed).message
    assert engine.join() == 1


def test_a_router_that_leaves_in_the_middle_ends_the_engine_in_order(engine: Engine) -> None:
    engine.start()
    engine.router.send(submit_of(1, 3, 90))
    engine.router.wait_for(StepOut)
    engine.router.close()
    assert engine.join() == 0
    assert engine.runner.is_closed


# A router that does not read


def test_a_slow_reader_pauses_the_engine_and_loses_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONGESTED_BYTES", 2_000)
    monkeypatch.setattr(transport, "FULL_BYTES", 10_000)
    sizes: list[int] = []
    is_full = threading.Event()
    drain = transport.Channel.drain

    def seen_drain(channel: transport.Channel, timeout_s: float | None) -> None:
        sizes.append(channel.num_outbox_bytes)
        is_full.set()
        drain(channel, timeout_s)

    monkeypatch.setattr(transport.Channel, "drain", seen_drain)
    engine.model = replace(engine.model, context_length=1 << 20)
    engine.start(max_total_tokens=4096, max_batch_total_tokens=4 * 4096)
    submits = [submit_of(seq_id, 2, 400, ignore_eog=True) for seq_id in range(60)]
    for submit in submits:
        engine.router.send(submit)
    assert is_full.wait(TIMEOUT_S)
    assert engine.runner.num_steps < len(submits) / 4 * 400
    texts, finishes, _ = engine.router.collect(len(submits))
    assert len(finishes) == len(submits)
    assert texts[59] == text_alone(submits[59])
    assert all(len(text) == 400 for text in texts.values())
    assert max(sizes) < 10_000 + 2_000  # the mark, and a frame each of a step and of stats


def test_a_congested_engine_admits_nobody(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONGESTED_BYTES", -1)
    engine.start()
    engine.router.send(submit_of(1, 3, 5))
    engine.router.send(Submit(2, b"", b"", 5, submit_of(1, 3, 5).params))
    _, _, failures = engine.router.collect(1)  # the inbox is still read
    assert list(failures) == [2]
    assert engine.runner.num_steps == 0


def test_a_prompts_logprobs_come_whole_before_its_first_token(engine: Engine) -> None:
    engine.start()
    submit = submit_of(1, 40, 3, prompt_logprobs=True)
    engine.router.send(submit)
    num_scored = 0
    while True:
        message = engine.router.receive()
        if isinstance(message, StepOut) and rows_of_step(message):
            break
        if isinstance(message, PromptLogprobs):
            assert message.start == 1 + num_scored
            num_scored += len(message.logprobs) // 4
    assert num_scored == 39


def test_a_sequence_without_tokens_to_come_ends_with_its_prompt(engine: Engine) -> None:
    engine.start()
    for prompt_tokens, is_scored in ((1, True), (20, True), (20, False)):
        submit = submit_of(prompt_tokens + is_scored, prompt_tokens, 0, prompt_logprobs=is_scored)
        engine.router.send(submit)
        num_scored, message = 0, None
        while message is None or not message.finish:
            message = engine.router.wait_for(PromptLogprobs)
            assert message.seq_id == submit.seq_id
            num_scored += len(message.logprobs) // 4
        assert Finish(message.finish) is Finish.LENGTH
        assert num_scored == (prompt_tokens - 1 if is_scored else 0)
