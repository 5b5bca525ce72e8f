"""What loading gives: the facts about a model that the engine tells the router, and its runner.

native.Model and native.Runner satisfy this, and so does FakeModel (fake_runner.py). process.py
takes the function that loads, so that the whole process runs without a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.runner import Runner


class Model(Protocol):
    """A loaded model, as far as the router has to know it."""

    @property
    def num_vocab(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eog_ids(self) -> frozenset[int]: ...

    @property
    def pieces_hash(self) -> str: ...

    @property
    def context_length(self) -> int:
        """Tokens that it was trained for."""

    @property
    def description(self) -> str: ...

    @property
    def device(self) -> str: ...

    def close(self) -> None: ...


OnProgress = Callable[[float], bool]
"""Gets the loaded fraction, 0 to 1, and answers whether to go on."""

Load = Callable[[EngineConfig, OnProgress], tuple[Model, Runner]]
"""Raises StartupError with one sentence where the model cannot be served."""
