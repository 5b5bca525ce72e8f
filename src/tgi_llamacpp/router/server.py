"""The router process from its start to its exit.

Owns the order of things: limits, port, model files, text, engine, listen; then, on a signal, the
same backwards. Every failure on the way up is one StartupError. Called by cli.py.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

import uvloop

from tgi_llamacpp import __version__, logs
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.derive import derive
from tgi_llamacpp.errors import EngineFailedError, StartupError, reason
from tgi_llamacpp.machine import usable_cpus
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router import http_server
from tgi_llamacpp.router.api_keys import ApiKeys
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.preparation import Preparation, prepare
from tgi_llamacpp.router.progress import LoadProgress
from tgi_llamacpp.router.reload import Reload
from tgi_llamacpp.router.rollover import Rollover
from tgi_llamacpp.router.serving import Engine, Front, make_serving
from tgi_llamacpp.router.supervisor import EngineSupervisor
from tgi_llamacpp.router.text_workers import TextWorkers

logger = logging.getLogger(__name__)

# The validation workers are busy while the event loop has answers to send: it must not wait 5 ms
# for its turn at the interpreter.
_SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Launch:
    """All that is settled before the engine starts."""

    prepared: Preparation
    keys: ApiKeys
    fixed_name: str | None  # of the model, for clients, whatever the configuration says
    sock: socket.socket  # bound, not listening
    on_listening: Callable[[str], None]  # gets the URL, once requests are answered

    @property
    def config(self) -> ServerConfig:
        return self.prepared.config


def run(
    config: ServerConfig,
    name: str | None,
    on_listening: Callable[[str], None],
    read_config: Callable[[], ServerConfig],
) -> None:
    """Serve until SIGTERM or SIGINT.

    name: of the model, for clients; its --model-id where it has none. on_listening gets the URL,
    once requests are answered.
    read_config: what `config` would be if the server started now, for SIGHUP.
    Raises StartupError and UsageError, and KeyboardInterrupt on a signal before the engine starts.
    """
    logs.setup("router", config.log_level, config.json_output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reload = Reload(read_config)
    signal.signal(signal.SIGHUP, lambda number, frame: reload.request())  # for when it is up
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    logger.info("tgi-llamacpp %s", __version__)
    derive(config, usable_cpus())  # what contradicts itself fails here, before a download
    with _bind(config) as sock:
        keys = ApiKeys(config.api_key, config.api_key_file)
        launch = Launch(prepare(config, name), keys, name, sock, on_listening)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(launch, reload))


def _bind(config: ServerConfig) -> socket.socket:
    try:
        return http_server.bind(config.hostname, config.listen_port)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {config.hostname}:{config.listen_port}: {reason(error)};"
            " choose another --port or --hostname"
        ) from error


async def _serve(launch: Launch, reload: Reload) -> None:
    """Engine up, serve, engine down."""
    prepared, client = launch.prepared, EngineClient()
    signals = _Signals(reload)
    failure = _Failure(launch.config, signals)
    supervisor = EngineSupervisor(
        client,
        prepared.engine_settings,
        on_give_up=lambda reason: failure.on_give_up(client, reason),
    )
    workers = TextWorkers(prepared)
    preparation = asyncio.create_task(workers.prepare())
    try:
        ready = await _start_engine(supervisor, launch)
        await preparation
        engine = Engine(client, supervisor)
        front = Front(make_serving(prepared, engine, ready, workers, launch.keys))
        await _answer(launch, front, reload, signals, failure)
    except asyncio.CancelledError:
        logger.info("told to stop before the model was loaded")
    finally:
        await supervisor.stop()
        await asyncio.gather(preparation, return_exceptions=True)  # or what it raised is a warning
        workers.close()
    if failure.reason is not None:
        raise EngineFailedError(failure.reason)
    logger.info("stopped")


async def _answer(
    launch: Launch, front: Front, reload: Reload, signals: _Signals, failure: _Failure
) -> None:
    """Answer requests until told to stop. The engine is up."""
    config = launch.config

    def on_switch(new: ServerConfig) -> None:
        logs.setup("router", new.log_level, new.json_output)
        server.shutdown_timeout_s = new.shutdown_timeout

    rollover = Rollover(
        front,
        launch.fixed_name,
        on_give_up=failure.on_give_up,
        on_switch=on_switch,
    )
    server = http_server.HttpServer(
        front,
        shutdown_timeout_s=config.shutdown_timeout,
        on_listening=lambda: _announce(launch),
        on_cut=lambda: rollover.give_up("The server is stopping"),
    )
    signals.server, failure.front = server, front
    if failure.reason is not None:
        server.stop()
    try:
        _listen(launch)
        reload.on_reload.append(lambda new: launch.keys.reload(new.api_key, new.api_key_file))
        reload.open(rollover.apply, front.serving.services.metrics.count_reload)
        await server.serve(sockets=[launch.sock])
    finally:
        await reload.stop()
        await rollover.stop()


class _Failure:
    """Why the server ends by itself, where it was told to when there is no engine any more."""

    def __init__(self, config: ServerConfig, signals: _Signals) -> None:
        self.front: Front | None = None  # once it is there
        self.reason: str | None = None
        self._config = config
        self._signals = signals

    def on_give_up(self, client: EngineClient, reason: str) -> None:
        config = self._config
        if self.front is not None:
            serving = self.front.serving
            if serving.engine.client is not client:  # one that former requests finish on
                return
            config = serving.prepared.config
        if not config.exit_on_engine_failure:
            return
        self.reason = reason
        if self._signals.server is not None:  # else it is stopped as soon as it is there
            self._signals.server.stop()


class _Signals:
    """SIGTERM and SIGINT: while the model loads they cancel the task, later they stop a server.

    SIGHUP reloads.
    """

    def __init__(self, reload: Reload) -> None:
        self.server: http_server.HttpServer | None = None
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, reload.request)

    def _on_signal(self) -> None:
        if self.server is not None:
            self.server.stop()
        elif self._task is not None:
            self._task.cancel()


async def _start_engine(supervisor: EngineSupervisor, launch: Launch) -> Ready:
    is_watched = sys.stderr.isatty() and not launch.config.json_output
    progress = LoadProgress(sys.stderr if is_watched else None)
    try:
        ready = await supervisor.start(progress.show)
    finally:
        progress.finish()
    for note in ready.notes:
        logger.info("%s", note)
    return ready


def _listen(launch: Launch) -> None:
    """Take connections from here on; until now they were refused."""
    gc.collect()
    gc.freeze()  # what is loaded stays: a full collection over it would stop every stream for 70 ms
    try:
        launch.sock.listen(http_server.BACKLOG)
    except OSError as error:  # another server bound the port as well, and was quicker
        port = launch.config.listen_port
        raise StartupError(f"cannot listen on port {port}: {reason(error)}") from error


def _announce(launch: Launch) -> None:
    url = http_server.url_of(launch.sock)
    logger.info("listening on %s", url)
    launch.on_listening(url)
