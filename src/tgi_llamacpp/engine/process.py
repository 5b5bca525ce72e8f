"""The life of the engine process: Start in, the model loaded, Ready out, then the loop.

Takes the function that loads, so it knows no llama.cpp. Every way it can end is here: the router is
gone (exit code 0), or one sentence in a Failed frame and in the log (exit code 1). Called by
__main__.py and, with the fake model, by fake_runner.py.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

from tgi_llamacpp import __version__, logs
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine import faults
from tgi_llamacpp.engine.curve_upkeep import CurveUpkeep
from tgi_llamacpp.engine.limits import EngineLimits, resolve_limits
from tgi_llamacpp.engine.loop import EngineLoop
from tgi_llamacpp.engine.model import Load, Model, OnProgress
from tgi_llamacpp.engine.runner import Runner
from tgi_llamacpp.engine.scheduler import Scheduler
from tgi_llamacpp.engine.transport import Channel, RouterGoneError, RouterWatch
from tgi_llamacpp.engine.warm_up import measure_widths
from tgi_llamacpp.errors import RunnerError, StartupError
from tgi_llamacpp.messages import (
    PROTOCOL_VERSION,
    Failed,
    FrameError,
    Progress,
    Ready,
    Start,
)
from tgi_llamacpp.step_page import StepPage

_LAST_WORDS_S = 1.0  # that a Failed frame may take to be read
_OOM_HANDICAP = 200  # of the thousandths of memory that the kernel compares processes by

log = logging.getLogger(__name__)


def main(argv: Sequence[str], load: Load) -> int:
    """Run the engine on the inherited socket; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="tgi_llamacpp.engine", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the socket to the router")
    parser.add_argument("--page-fd", type=int, help="the page that tells it what runs")
    arguments = parser.parse_args(argv)
    # The terminal's signals are for the router, which ends us by closing the socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the router asks a stuck engine where it is
    logs.setup("engine", "info", json_output=False)  # until Start says how
    _offer_itself_to_the_oom_killer()
    for fd in (arguments.fd, arguments.page_fd):
        if fd is not None:  # a debugger that ggml starts must not keep the socket open
            os.set_inheritable(fd, False)
    with socket.socket(fileno=arguments.fd) as sock:
        watch = RouterWatch(sock.fileno())
        watch.start()
        page = StepPage(arguments.page_fd)
        return serve(sock, load, _set_up_logs, lambda: watch.is_gone, page)


def _offer_itself_to_the_oom_killer() -> None:
    """Where memory runs out, it had better be the process that can be replaced."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        score = int(file.read())
        file.seek(0)
        file.write(str(min(score + _OOM_HANDICAP, 1000)))


def _set_up_logs(config: EngineConfig) -> None:
    logs.setup("engine", config.log_level, config.json_output)


def serve(
    sock: socket.socket,
    load: Load,
    set_up_logs: Callable[[EngineConfig], None],
    is_router_gone: Callable[[], bool],
    page: StepPage | None = None,
) -> int:
    """The protocol from Start to the end; the exit code. Touches nothing else of the process."""
    channel = Channel(sock)
    page = page or StepPage()
    epoch = 0
    with contextlib.ExitStack() as resources:
        try:
            start = channel.receive_start()
            epoch = start.epoch
            set_up_logs(start.config)
            model, runner = _load(channel, start, load, is_router_gone, resources)
            _run(channel, start, model, runner, page)
        except RouterGoneError:
            return 0
        except Exception as error:
            if is_router_gone():
                return 0
            _say_failed(channel, epoch, error)  # first, as freeing a dead device may be the end
            return 1
    raise AssertionError("the loop ends by raising")


def _load(
    channel: Channel,
    start: Start,
    load: Load,
    is_router_gone: Callable[[], bool],
    resources: contextlib.ExitStack,
) -> tuple[Model, Runner]:
    started_s = time.monotonic()
    model, runner = load(start.config, _progress(channel, is_router_gone))
    resources.callback(model.close)
    resources.callback(runner.close)
    log.info(
        "loaded %s (%s) on %s in %.1f s",
        start.config.model_path,
        model.description,
        model.device,
        time.monotonic() - started_s,
    )
    return model, runner


def _run(channel: Channel, start: Start, model: Model, runner: Runner, page: StepPage) -> None:
    limits, notes = resolve_limits(start.config, model, runner.limits)
    log.info(
        "%d sequences at once, of up to %d tokens each and %d together, in %s KV of %d cells:"
        " %.1f MiB",
        limits.max_running,
        limits.max_sequence_tokens,
        limits.max_budget_tokens,
        "unified" if runner.limits.is_unified else "split",
        runner.limits.max_pool_tokens,
        runner.limits.cache_bytes / (1 << 20),
    )
    if runner.limits.has_aside:
        log.info(
            "long prompts beside running answers are computed aside, in %.1f MiB of cells more",
            runner.limits.aside_bytes / (1 << 20),
        )
    if limits.max_host_cache_bytes:
        log.info(
            "prefixes that leave it are kept in up to %d MiB of host memory",
            limits.max_host_cache_bytes >> 20,
        )
    fault = os.environ.get(faults.VARIABLE)
    runner = faults.with_repack_fault(runner, fault, is_repacked=start.config.repack)
    max_warm_up_s = start.config.max_warm_up_ms / 1000
    curve = measure_widths(runner, runner.limits.num_slots, time.perf_counter, max_warm_up_s)
    runner = faults.with_fault(runner, fault)
    scheduler = Scheduler(runner, limits, start.epoch, curve)
    while scheduler.prepare_one():
        pass
    upkeep = CurveUpkeep(runner, scheduler.costs, max_warm_up_s)
    channel.send(_ready(start.epoch, model, limits, notes))
    gc.freeze()  # what is here stays: leave it out of every later collection
    is_checked = bool(os.environ.get(faults.INTEGRITY_VARIABLE))
    EngineLoop(scheduler, runner, channel, start.epoch, page, upkeep, is_checked=is_checked).run()


def _progress(channel: Channel, is_router_gone: Callable[[], bool]) -> OnProgress:
    """Sends a frame for each whole per cent, and stops the load when nobody waits for it."""
    told_percent = -1

    def on_progress(fraction: float) -> bool:
        nonlocal told_percent
        percent = int(fraction * 100)
        if percent > told_percent:
            told_percent = percent
            try:
                channel.send(Progress(fraction))
            except RouterGoneError:  # which must not be thrown through llama.cpp
                return False
        return not is_router_gone()

    return on_progress


def _ready(epoch: int, model: Model, limits: EngineLimits, notes: list[str]) -> Ready:
    return Ready(
        epoch=epoch,
        protocol_version=PROTOCOL_VERSION,
        package_version=__version__,
        num_vocab=model.num_vocab,
        bos_id=model.bos_id,
        eog_ids=sorted(limits.eog_ids),
        pieces_hash=model.pieces_hash,
        num_slots=limits.max_running,
        max_sequence_tokens=limits.max_sequence_tokens,
        max_batch_total_tokens=limits.max_budget_tokens,
        device=model.device,
        notes=notes,
    )


def _say_failed(channel: Channel, epoch: int, error: Exception) -> None:
    if isinstance(error, RunnerError | FrameError):
        log.error("%s", error)
    elif not isinstance(error, StartupError):  # which is the router's last words
        log.error("the engine met a bug of its own", exc_info=error)
    message = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(RouterGoneError):
        channel.send(Failed(epoch, message))
        deadline_s = time.monotonic() + _LAST_WORDS_S
        while channel.num_outbox_bytes and (left_s := deadline_s - time.monotonic()) > 0:
            channel.drain(left_s)
