"""The threads that tokenize and the process that renders chats, of one model.

Owns their start and their end. Built by server.py and by rollover.py, one for each model served.
"""

from __future__ import annotations

from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import EngineUnavailable, StartupError
from tgi_llamacpp.messages import Ready
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.preparation import Preparation
from tgi_llamacpp.router.services import TextTools
from tgi_llamacpp.router.template_process import RenderLimits
from tgi_llamacpp.router.template_renderer import TemplateRenderer
from tgi_llamacpp.router.tokenizer import TokenizerPool


class TextWorkers:
    """What text of one model is worked on with."""

    def __init__(self, prepared: Preparation) -> None:
        num_workers = prepared.config.validation_workers
        self._prepared = prepared
        self._pool = TokenizerPool(prepared.tokenizer, num_workers)
        self._chat_pool = TokenizerPool(prepared.tokenizer, num_workers)
        self._renderer = TemplateRenderer(prepared.chat_template, _render_limits(prepared.config))

    async def prepare(self) -> None:
        """Render once, so that no request waits for what the first render needs.

        Raises StartupError where there is no process to render in.
        """
        try:
            await self._chat_pool.run(self._renderer.prepare)
        except EngineUnavailable as error:
            raise StartupError(error.message) from error

    def tools(self, ready: Ready) -> TextTools:
        """For the handlers, with what the engine says of the vocabulary."""
        detokenizer = Detokenizer(self._prepared.tokenizer, extra_special_ids=ready.eog_ids)
        guard = self._prepared.content_guard
        return TextTools(self._pool, detokenizer, self._renderer, guard, self._chat_pool)

    def close(self) -> None:
        """End them; jobs that run end first. Idempotent."""
        self._pool.close()
        self._chat_pool.close()
        self._renderer.close()


def _render_limits(config: ServerConfig) -> RenderLimits:
    """A prompt may be several times as long as the request, and memory several prompts."""
    return RenderLimits(
        max_memory_bytes=(256 << 20) + 32 * config.payload_limit,
        max_prompt_bytes=1_000_000 + 4 * config.payload_limit,
    )
