"""Safe mode: an engine that keeps the weights as the file has them, after one died of its kernels.

llama.cpp repacks weights for the CPU's matrix instructions, and its kernels for them differ by CPU
and compiler. An engine that dies of a fault before it has completed a step may have died of those.
Owns the rule; supervisor.py and rollover.py start the engines.
"""

from __future__ import annotations

import signal

import msgspec

from tgi_llamacpp.config import EngineConfig

# What a process gets for what it did itself. SIGKILL and SIGTERM come from outside.
_FAULTS = frozenset(
    (
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGTRAP,
    )
)


def may_help(config: EngineConfig, returncode: int | None) -> bool:
    """Whether an engine that ended so may do better without repacked weights.

    returncode: negative for a signal, as subprocess has it.
    """
    return config.repack and returncode is not None and -returncode in _FAULTS


def without_repack(config: EngineConfig) -> EngineConfig:
    """The configuration of an engine in safe mode."""
    return msgspec.structs.replace(config, repack=False)


class SafeMode:
    """Whether the next engine is started in safe mode.

    It is on after an engine died of a fault before it completed a step, and stays on while the
    engines in it are of use. One that is of no use either turns it off, and it is not tried again
    before an engine was of use.
    """

    def __init__(self, *, is_on: bool = False) -> None:
        self.is_on = is_on
        self.cause = ""  # what the engine died of for which it was turned on
        self._has_failed = False

    def apply(self, config: EngineConfig) -> EngineConfig:
        """What the next engine is started with."""
        return without_repack(config) if self.is_on else config

    def on_useless_end(self, config: EngineConfig, returncode: int | None, cause: str) -> None:
        """An engine ended before it completed a step. config: what was asked for."""
        if not may_help(config, returncode):
            return
        if self.is_on:
            self.is_on, self._has_failed = False, True
        elif not self._has_failed:
            self.is_on, self.cause = True, cause

    def on_useful_end(self) -> None:
        """An engine ended that had completed steps."""
        self._has_failed = False


def warning(epoch: int, cause: str) -> str:
    """The line of the log for an engine that serves in safe mode."""
    return (
        f"engine {epoch} serves in safe mode: the engine before it ended ({cause}) and had not"
        " completed a step, so this one does without repacked weights and their kernels. Prompts"
        " take up to four times as long to read. Report the CPU, the compiler and the weight type;"
        " --disable-repack starts the server this way at once"
    )
