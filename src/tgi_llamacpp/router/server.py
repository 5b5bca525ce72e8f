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
from pathlib import Path

import uvloop

from tgi_llamacpp import __version__, flags, logs
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.derive import Derived, derive, engine_config, router_config
from tgi_llamacpp.errors import EngineFailedError, StartupError
from tgi_llamacpp.machine import usable_cpus, usable_memory_bytes
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router import http_server
from tgi_llamacpp.router.api_keys import ApiKeys
from tgi_llamacpp.router.app import build_app
from tgi_llamacpp.router.chat import ChatTemplate, load_chat_template
from tgi_llamacpp.router.content_guard import ContentGuard, make_guard
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, read_metadata
from tgi_llamacpp.router.model_files import ModelFiles, find_model
from tgi_llamacpp.router.progress import LoadProgress
from tgi_llamacpp.router.reload import Reload
from tgi_llamacpp.router.services import TextTools
from tgi_llamacpp.router.supervisor import EngineSupervisor
from tgi_llamacpp.router.template_process import RenderLimits
from tgi_llamacpp.router.template_renderer import TemplateRenderer
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, TokenizerPool, load_tokenizer

logger = logging.getLogger(__name__)

# The validation workers are busy while the event loop has answers to send: it must not wait 5 ms
# for its turn at the interpreter.
_SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Launch:
    """All that is settled before the engine starts."""

    config: ServerConfig
    derived: Derived
    keys: ApiKeys
    name: str  # of the model, for clients
    files: ModelFiles
    metadata: GgufMetadata
    tokenizer: LoadedTokenizer
    chat_template: ChatTemplate
    content_guard: ContentGuard | None
    sock: socket.socket  # bound, not listening
    on_listening: Callable[[str], None]  # gets the URL, once requests are answered


def run(
    config: ServerConfig,
    name: str,
    on_listening: Callable[[str], None],
    read_config: Callable[[], ServerConfig],
) -> None:
    """Serve until SIGTERM or SIGINT.

    name: of the model, for clients. on_listening gets the URL, once requests are answered.
    read_config: what `config` would be if the server started now, for SIGHUP.
    Raises StartupError and UsageError, and KeyboardInterrupt on a signal before the engine starts.
    """
    logs.setup("router", config.log_level, config.json_output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing is there yet to be read again
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    logger.info("tgi-llamacpp %s", __version__)
    _warn_of_ignored(config)
    derive(config, usable_cpus())  # what contradicts itself fails here, before a download
    with _bind(config) as sock:
        launch = _prepare(config, name, sock, on_listening)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(launch, Reload(read_config)))


def _warn_of_ignored(config: ServerConfig) -> None:
    names = ["--" + name.replace("_", "-") for name in flags.ignored(config)]
    if names:
        logger.warning("%s: no effect here", ", ".join(names))


def _bind(config: ServerConfig) -> socket.socket:
    try:
        return http_server.bind(config.hostname, config.listen_port)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {config.hostname}:{config.listen_port}: {_reason(error)};"
            " choose another --port or --hostname"
        ) from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _prepare(
    config: ServerConfig, name: str, sock: socket.socket, on_listening: Callable[[str], None]
) -> Launch:
    """Find the model and load what the router needs of it."""
    keys = ApiKeys(config.api_key, config.api_key_file)
    files = find_model(config)
    metadata = read_metadata(files.gguf)
    derived = derive(config, usable_cpus(), metadata.context_length, usable_memory_bytes())
    for note in derived.notes:
        logger.info("%s", note)
    override = Path(config.tokenizer_config_path) if config.tokenizer_config_path else None
    tokenizer = load_tokenizer(metadata, folder=files.folder, tokenizer_config_path=override)
    template = load_chat_template(
        metadata, tokenizer, folder=files.folder, tokenizer_config_path=override
    )
    logger.info("model %s (%.80s)", files.gguf, metadata.architecture)
    logger.info("tokenizer: %s; chat template: %s", tokenizer.source, template.source or "none")
    return Launch(
        config=config,
        derived=derived,
        keys=keys,
        name=name,
        files=files,
        metadata=metadata,
        tokenizer=tokenizer,
        chat_template=template,
        content_guard=make_guard(config.special_tokens_in_content, tokenizer),
        sock=sock,
        on_listening=on_listening,
    )


async def _serve(launch: Launch, reload: Reload) -> None:
    """Engine up, serve, engine down."""
    client = EngineClient()
    files, config = launch.files, launch.config
    signals = _Signals(reload)
    reload.on_reload.append(lambda new: launch.keys.reload(new.api_key, new.api_key_file))
    failures: list[str] = []
    supervisor = EngineSupervisor(
        client,
        engine_config(config, launch.derived, str(files.gguf), launch.tokenizer.extra_eog_ids),
        watchdog_s=config.engine_watchdog_s,
        check=lambda ready: _check_vocabulary(ready, launch.metadata),
        on_give_up=lambda reason: _on_give_up(reason, config, signals, failures),
    )
    pool = TokenizerPool(launch.tokenizer, config.validation_workers)
    chat_pool = TokenizerPool(launch.tokenizer, config.validation_workers)
    renderer = TemplateRenderer(launch.chat_template, _render_limits(config))
    preparation = asyncio.create_task(chat_pool.run(renderer.prepare))
    try:
        ready = await _start_engine(supervisor, launch)
        await preparation
        detokenizer = Detokenizer(launch.tokenizer, extra_special_ids=ready.eog_ids)
        app = build_app(
            router_config(config, launch.derived, launch.name, ready),
            client,
            TextTools(pool, detokenizer, renderer, launch.content_guard, chat_pool),
            keys=launch.keys,
            model_sha=files.sha,
            pipeline_tag=files.pipeline_tag,
        )
        server = http_server.HttpServer(
            app,
            shutdown_timeout_s=config.shutdown_timeout,
            on_listening=lambda: _announce(launch),
            on_cut=lambda: client.give_up("The server is stopping"),
        )
        signals.server = server
        if failures:
            server.stop()
        _listen(launch)
        await server.serve(sockets=[launch.sock])
    except asyncio.CancelledError:
        logger.info("told to stop before the model was loaded")
    finally:
        await reload.stop()
        await supervisor.stop()
        await asyncio.gather(preparation, return_exceptions=True)  # or what it raised is a warning
        pool.close()
        chat_pool.close()
        renderer.close()
    if failures:
        raise EngineFailedError(failures[0])
    logger.info("stopped")


def _render_limits(config: ServerConfig) -> RenderLimits:
    """A prompt may be several times as long as the request, and memory several prompts."""
    return RenderLimits(
        max_memory_bytes=(256 << 20) + 32 * config.payload_limit,
        max_prompt_bytes=1_000_000 + 4 * config.payload_limit,
    )


def _on_give_up(reason: str, config: ServerConfig, signals: _Signals, failures: list[str]) -> None:
    if not config.exit_on_engine_failure:
        return
    failures.append(reason)
    if signals.server is not None:  # else _serve stops it as soon as it is there
        signals.server.stop()


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


def _check_vocabulary(ready: Ready, metadata: GgufMetadata) -> None:
    """The engine's ids must mean what the router's mean."""
    if ready.num_vocab != metadata.num_vocab or ready.pieces_hash != metadata.pieces_hash():
        raise StartupError(
            f"the engine read another vocabulary from {metadata.path} than the router:"
            " the file changed while it was loaded; start again"
        )


def _listen(launch: Launch) -> None:
    """Take connections from here on; until now they were refused."""
    gc.collect()
    gc.freeze()  # what is loaded stays: a full collection over it would stop every stream for 70 ms
    try:
        launch.sock.listen(http_server.BACKLOG)
    except OSError as error:  # another server bound the port as well, and was quicker
        port = launch.config.listen_port
        raise StartupError(f"cannot listen on port {port}: {_reason(error)}") from error


def _announce(launch: Launch) -> None:
    url = http_server.url_of(launch.sock)
    logger.info("listening on %s", url)
    launch.on_listening(url)
