"""What every route handler works with: the collaborators and the count of running generations.

Built once by router/app.py and passed on; nothing here is global. Knows no route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tgi_llamacpp.config import RouterConfig
from tgi_llamacpp.errors import OverloadedError
from tgi_llamacpp.router.api_keys import ApiKeys
from tgi_llamacpp.router.content_guard import ContentGuard
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.engine_client import EngineClient
from tgi_llamacpp.router.forecast import Forecast
from tgi_llamacpp.router.metrics import Metrics
from tgi_llamacpp.router.sequence_breakers import SequenceBreakers
from tgi_llamacpp.router.template_renderer import TemplateRenderer
from tgi_llamacpp.router.tokenizer import TokenizerPool


@dataclass(frozen=True, slots=True)
class TextTools:
    """Text to ids, ids to text, messages to text."""

    pool: TokenizerPool
    detokenizer: Detokenizer
    chat_template: TemplateRenderer
    content_guard: ContentGuard | None = None  # None: control tokens in contents are parsed
    chat_pool: TokenizerPool | None = None  # None: chats are rendered in `pool`

    @property
    def for_chats(self) -> TokenizerPool:
        """Workers of their own, so that a slow template is slow for nobody else."""
        return self.chat_pool or self.pool


class Permits:
    """The sequences that may run at once. There is no waiting: one too many is refused."""

    def __init__(self, max_permits: int, forecast: Forecast) -> None:
        self.max_permits = max_permits
        self.forecast = forecast
        self.num_used = 0

    def retry_after_s(self, num_missing: int) -> int:
        """Whole seconds until so many of those that run or wait will have ended."""
        return self.forecast.retry_after_s(num_missing, self.num_used)

    @contextmanager
    def hold(self, num_permits: int) -> Iterator[None]:
        """All or nothing, given back at the end of the block.

        Raises:
            OverloadedError: fewer are free.
        """
        if self.num_used + num_permits > self.max_permits:
            num_missing = self.num_used + num_permits - self.max_permits
            raise OverloadedError(self.retry_after_s(num_missing))
        self.num_used += num_permits
        try:
            yield
        finally:
            self.num_used -= num_permits


class BodyBudget:
    """The bytes of bodies that are being read and decoded, of all requests together.

    What comes after holds a permit, or is refused. So what clients send is bounded by this and by
    the permits, however many connections there are.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_used = 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """A function that takes so many bytes more; all are given back at the end of the block.

        It raises OverloadedError where they are too many.
        """
        num_held = 0

        def take(num_bytes: int) -> None:
            nonlocal num_held
            if self.num_used + num_bytes > self.max_bytes:
                raise OverloadedError(1)
            self.num_used += num_bytes
            num_held += num_bytes

        try:
            yield take
        finally:
            self.num_used -= num_held


@dataclass(frozen=True, slots=True)
class Services:
    """The router's state, shared by all requests; `cache_scope` is that of a request's key."""

    config: RouterConfig
    engine: EngineClient
    text: TextTools
    metrics: Metrics
    permits: Permits
    bodies: BodyBudget
    breakers: SequenceBreakers
    keys: ApiKeys
    model_sha: str | None
    pipeline_tag: str | None
    cache_scope: int = 0  # prefixes are shared among sequences of one scope

    def for_key(self, key_number: int) -> Services:
        """The same, as requests with this key see it."""
        if self.config.prefix_cache_scope == "all":
            return self
        return replace(self, cache_scope=key_number)
