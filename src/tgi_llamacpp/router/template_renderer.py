"""Chat templates rendered in processes of their own, which may die of it.

Owns those processes: one is kept warm, another is started when that one is busy for longer than a
start takes, and one that dies is replaced when the next chat comes. A template that dies of a plain
conversation is refused from the start, with the reason. Called by the chat routes, in a worker.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec

from tgi_llamacpp.errors import EngineUnavailable, TemplateError
from tgi_llamacpp.router.chat import ChatTemplate
from tgi_llamacpp.router.template_process import Probe, Render, Rendered, RenderLimits

logger = logging.getLogger(__name__)

_START_S = 120.0  # for the imports, on a machine that is busy
_EXIT_S = 5.0
_MAX_REPLY_HEAD_BYTES = 10_000  # beside the prompt, a complaint for example
# What Python, and a template that asks for the date, may need. No token and no key.
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


class TemplateRenderer:
    """Renders as `template` does, in another process, within `limits`."""

    def __init__(self, template: ChatTemplate, limits: RenderLimits | None = None) -> None:
        self._template = template
        self._limits = limits or RenderLimits()
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        self._lock = threading.Lock()  # of the next one, and of who takes from the idle ones
        self._num_asking = 0
        self._start_s = 0.0  # that the last process took to its first answer

    def prepare(self) -> None:
        """Start a process, and refuse for good what takes too much there; the log says so."""
        for name in self._template.names:
            try:
                self._ask(Probe(name))
            except _TooMuchError as error:
                self._template.refuse(name, str(error))
                logger.warning("chat template %r is refused: %s", name, error)
                self._close_idle()  # they know it as good
            except TemplateError as error:
                logger.warning("chat template %r: %s", name, error.reason)

    def render(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """The prompt of a conversation, as ChatTemplate.render has it.

        Raises:
            TemplateError: there is no template, it complains, or it takes too much.
            EngineUnavailable: there is no process to render in.
        """
        if not self._template.names:
            return self._template.render(messages, **options)  # which says that there is none
        return self._ask(Render(messages, options))

    def close(self) -> None:
        """End the processes. Nothing is rendered any more."""
        self._close_idle()

    def _ask(self, request: Probe | Render) -> str:
        with self._lock:
            self._num_asking += 1
            is_alone = self._num_asking == 1
            child = self._next_idle(0.0)
        try:
            answer = self._answer(request, child, is_alone=is_alone)
        finally:
            with self._lock:
                self._num_asking -= 1
        if answer.is_last:
            raise _TooMuchError(
                f"it takes more than {self._limits.max_memory_bytes >> 20} MiB of memory"
            )
        if answer.complaint is not None:
            raise TemplateError(answer.complaint)
        return answer.text

    def _answer(self, request: Probe | Render, child: _Child | None, *, is_alone: bool) -> Rendered:
        """From this process, or from one that is idle before another could be started."""
        if child is None and not is_alone:
            child = self._next_idle(self._start_s)
        is_new = child is None
        started_s = time.monotonic()
        child = child or _Child(self._template, self._limits)
        try:
            answer = child.ask(request)
        except BaseException:
            child.close()
            raise
        if is_new:
            self._start_s = time.monotonic() - started_s
        if answer.is_last:
            child.close()
        else:
            self._idle.put(child)
        return answer

    def _next_idle(self, max_s: float) -> _Child | None:
        """A process that waits for work, as soon as there is one; None after max_s."""
        deadline_s = time.monotonic() + max_s
        while True:
            try:
                child = self._idle.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                return None
            if child.is_alive:
                return child
            child.close()

    def _close_idle(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().close()


class _TooMuchError(TemplateError):
    """A limit was reached."""

    def __str__(self) -> str:
        return self.reason


class _Child:
    """One process, from its start to its end."""

    def __init__(self, template: ChatTemplate, limits: RenderLimits) -> None:
        self._limits = limits
        self._sock, far_end = socket.socketpair()
        self._has_answered = False
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "tgi_llamacpp.router.template_process"),
                    f"--fd={far_end.fileno()}",
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[far_end.fileno()],
                process_group=0,
                env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            )
        except OSError as error:
            self._sock.close()
            raise EngineUnavailable(f"Chats cannot be rendered now: {error.strerror}") from error
        finally:
            far_end.close()
        self._setup = pickle.dumps((template, limits))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Probe | Render) -> Rendered:
        """Raises TemplateError where the process dies of it, or does not answer in time."""
        limits = self._limits
        self._sock.settimeout(limits.max_wall_s if self._has_answered else _START_S)
        try:
            setup, self._setup = self._setup, b""
            self._sock.sendall(setup + pickle.dumps(request))
            num_bytes = int.from_bytes(self._receive(8), "little")
            if num_bytes > limits.max_prompt_bytes + _MAX_REPLY_HEAD_BYTES:
                raise _TooMuchError(f"the prompt has more than {limits.max_prompt_bytes} bytes")
            answer = msgspec.msgpack.decode(self._receive(num_bytes), type=Rendered)
        except TimeoutError as error:
            raise _TooMuchError(f"it takes longer than {limits.max_wall_s:g} s") from error
        except OSError as error:
            raise self._epitaph() from error
        self._has_answered = True
        return answer

    def _receive(self, num_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < num_bytes:
            chunk = self._sock.recv(min(num_bytes - len(data), 1 << 20))
            if not chunk:
                raise ConnectionResetError
            data += chunk
        return bytes(data)

    def _epitaph(self) -> TemplateError:
        self.close(_EXIT_S)  # it is about to end
        if self._process.returncode == -signal.SIGPROF:
            return _TooMuchError(f"it takes more than {self._limits.max_cpu_s:g} s of CPU time")
        return _TooMuchError(
            f"the process that renders it ended with status {self._process.returncode}"
        )

    def close(self, grace_s: float = 0.0) -> None:
        """End it. Idempotent."""
        self._sock.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_EXIT_S)
