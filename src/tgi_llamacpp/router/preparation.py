"""What a configuration comes to: the model's files, its text side, and every limit.

Owns all that can be found out of a model without an engine, and with it most mistakes. Called by
server.py as it starts and by rollover.py when another configuration is to be served.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from tgi_llamacpp import flags
from tgi_llamacpp.config import EngineConfig, ServerConfig
from tgi_llamacpp.derive import Derived, derive, engine_config
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.files import path_of, unreadable
from tgi_llamacpp.machine import usable_cpus, usable_memory_bytes
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router.chat import ChatTemplate, load_chat_template
from tgi_llamacpp.router.content_guard import ContentGuard, make_guard
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, read_metadata
from tgi_llamacpp.router.model_files import ModelFiles, find_model, parts
from tgi_llamacpp.router.supervisor import EngineSettings
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, load_tokenizer

logger = logging.getLogger(__name__)

FileState = tuple[str, int, int, int, int]
"""Path, device, inode, size and time of change: equal for a file that nobody replaced."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """A configuration and its model, ready for an engine."""

    config: ServerConfig
    derived: Derived
    name: str  # of the model, for clients
    files: ModelFiles
    weights: tuple[FileState, ...]  # of every part, before it was read
    metadata: GgufMetadata
    pieces_hash: str  # of metadata's tokens
    tokenizer: LoadedTokenizer
    chat_template: ChatTemplate
    content_guard: ContentGuard | None

    @property
    def engine_config(self) -> EngineConfig:
        path = str(self.files.gguf)
        return engine_config(self.config, self.derived, path, self.tokenizer.extra_eog_ids)

    @property
    def engine_settings(self) -> EngineSettings:
        return EngineSettings(self.engine_config, self.config.engine_watchdog_s, self.check)

    @property
    def num_weight_bytes(self) -> int:
        return sum(size for _, _, _, size, _ in self.weights)

    def check(self, ready: Ready) -> None:
        """The engine's ids must mean what the router's mean.

        Raises StartupError.
        """
        metadata = self.metadata
        if ready.num_vocab != metadata.num_vocab or ready.pieces_hash != self.pieces_hash:
            raise StartupError(
                f"the engine read another vocabulary from {metadata.path} than the router:"
                " the file changed while it was loaded; start again"
            )


def prepare(config: ServerConfig, name: str | None) -> Preparation:
    """Find the model and load what the router needs of it.

    name: of the model, for clients; its --model-id where it has none.
    Raises StartupError and UsageError.
    """
    _warn_of_ignored(config)
    files = find_model(config)
    weights = tuple(_state_of(Path(part)) for part in parts(str(files.gguf)))
    metadata = read_metadata(files.gguf)
    derived = derive(config, usable_cpus(), metadata.context_length, usable_memory_bytes())
    for note in derived.notes:
        logger.info("%s", note)
    override = path_of(config.tokenizer_config_path) if config.tokenizer_config_path else None
    tokenizer = load_tokenizer(metadata, folder=files.folder, tokenizer_config_path=override)
    template = load_chat_template(
        metadata, tokenizer, folder=files.folder, tokenizer_config_path=override
    )
    logger.info("model %s (%.80s)", files.gguf, metadata.architecture)
    logger.info("tokenizer: %s; chat template: %s", tokenizer.source, template.source or "none")
    return Preparation(
        config=config,
        derived=derived,
        name=name or _shown(config.model_id),
        files=files,
        weights=weights,
        metadata=metadata,
        pieces_hash=metadata.pieces_hash(),
        tokenizer=tokenizer,
        chat_template=template,
        content_guard=make_guard(config.special_tokens_in_content, tokenizer),
    )


def _shown(model_id: str) -> str:
    """A --model-id as clients get it: a path may have bytes that are no UTF-8."""
    return os.fsencode(model_id).decode("utf-8", "replace")


def _warn_of_ignored(config: ServerConfig) -> None:
    names = ["--" + name.replace("_", "-") for name in flags.ignored(config)]
    if names:
        logger.warning("%s: no effect here", ", ".join(names))
    if config.api_key is None and config.api_key_file is None:
        for name in flags.empty_keys(os.environ):
            logger.warning("%s is empty, which is as unset: requests need no key", name)


async def prepare_beside(config: ServerConfig, name: str | None) -> Preparation:
    """prepare(), while the event loop goes on. A server that stops does not wait for it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Preparation] = loop.create_future()

    def settle(prepared: Preparation | None, error: Exception | None) -> None:
        if result.done():  # nobody waits any more
            return
        if error is not None:
            result.set_exception(error)
        elif prepared is not None:
            result.set_result(prepared)

    def work() -> None:
        prepared, error = None, None
        try:
            prepared = prepare(config, name)
        except Exception as caught:
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, prepared, error)

    threading.Thread(target=work, name="preparation", daemon=True).start()
    return await result


def _state_of(path: Path) -> FileState:
    try:
        state = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
