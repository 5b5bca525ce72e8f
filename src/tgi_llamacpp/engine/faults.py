"""Faults on purpose: an engine that dies or hangs at a marked token, for tests of what survives it.

With the mark `repack` it fails in its first pass, warm-up included, where weights are repacked.

A variable of the environment turns one on as the engine starts, and says so in the log; no request,
flag or message reaches it. Called by process.py.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import cast

import numpy as np

from tgi_llamacpp.engine.runner import Int32s, Plan, Runner, StepResult
from tgi_llamacpp.errors import StartupError

VARIABLE = "TGI_LLAMACPP_TEST_FAULT"
INTEGRITY_VARIABLE = "TGI_LLAMACPP_TEST_INTEGRITY"  # to check the scheduler after every turn
_KINDS = ("abort", "segv", "hang")
_ANY = "any"
_REPACK = "repack"

log = logging.getLogger(__name__)


def with_repack_fault(runner: Runner, fault: str | None, *, is_repacked: bool) -> Runner:
    """The runner, or where weights are repacked one that fails in every pass: KIND:repack."""
    kind, _, mark = (fault or "").partition(":")
    if mark != _REPACK or kind not in _KINDS or not is_repacked:
        return runner
    log.warning("%s=%s is set: this engine will fail, for a test", VARIABLE, fault)
    return cast("Runner", FaultyRunner(runner, kind, None))


def with_fault(runner: Runner, fault: str | None) -> Runner:
    """The runner, or one that fails as `fault` says: KIND:ID, or KIND:any for every step.

    Raises StartupError where it is neither.
    """
    if not fault:
        return runner
    kind, _, mark = fault.partition(":")
    if mark == _REPACK:
        return runner
    if kind not in _KINDS or not (mark == _ANY or mark.isdecimal()):
        raise StartupError(f"{VARIABLE}={fault}: expected {' or '.join(_KINDS)}, a colon and an id")
    log.warning("%s=%s is set: this engine will fail, for a test", VARIABLE, fault)
    return cast("Runner", FaultyRunner(runner, kind, None if mark == _ANY else int(mark)))


class FaultyRunner:
    """A runner whose step never ends well when the marked id (None: any) is among its rows.

    Nor does a slice of a prompt aside that has it.
    """

    def __init__(self, runner: Runner, kind: str, token_id: int | None) -> None:
        self._runner = runner
        self._kind = kind
        self._token_id = token_id
        self._aside_ids = np.empty(0, np.int32)

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def step(self, plan: Plan) -> StepResult:
        if self._token_id is None or self._token_id in plan.token_ids:
            self._fail()
        return self._runner.step(plan)

    def begin_aside(self, token_ids: Int32s) -> None:
        self._aside_ids = token_ids
        self._runner.begin_aside(token_ids)

    def advance_aside(self, max_s: float, max_rows: int) -> bool:
        if self._token_id is None or self._token_id in self._aside_ids:
            self._fail()
        return self._runner.advance_aside(max_s, max_rows)

    def _fail(self) -> None:
        if self._kind == "abort":
            os.abort()
        if self._kind == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        while True:
            time.sleep(1)
