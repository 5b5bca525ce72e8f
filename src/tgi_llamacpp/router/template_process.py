"""The process that renders chat templates: somebody else's programs, under limits that hold.

A template may loop for ever or ask for all memory, and nothing stops a Python thread that does. So
it runs here: the kernel ends this process when a render takes too much CPU time, and refuses it
memory beyond a bound. It is told on a socket what to render, and ends with it. Started and
called by router/template_renderer.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import resource
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import msgspec

from tgi_llamacpp.errors import TemplateError
from tgi_llamacpp.router.chat import ChatTemplate


@dataclass(frozen=True)
class RenderLimits:
    """What one render may take."""

    max_cpu_s: float = 2.0  # of this process, user and system
    max_wall_s: float = 20.0  # as the router's clock has it
    max_memory_bytes: int = 256 << 20  # more than the process has before
    max_prompt_bytes: int = 9_000_000


class Rendered(msgspec.Struct, frozen=True, array_like=True):
    """An answer: a prompt, or a complaint. After `is_last` the process is gone."""

    text: str = ""
    complaint: str | None = None
    is_last: bool = False


class Probe(msgspec.Struct, frozen=True):
    """Asks whether the template of this name works at all."""

    name: str


class Render(msgspec.Struct, frozen=True):
    """Asks for a prompt: the arguments of ChatTemplate.render."""

    messages: list[dict[str, Any]]
    options: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Answer until the socket is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    sock = socket.socket(fileno=parser.parse_args(argv).fd)
    # The router closes its end when it is done; what comes of writing then is of no interest.
    with contextlib.suppress(EOFError, OSError), sock, sock.makefile("rwb") as stream:
        _serve(cast(BinaryIO, stream))


def _serve(stream: BinaryIO) -> None:
    template, limits = pickle.load(stream)
    template.load_renderer()
    _limit(limits)
    is_last = False
    while not is_last:
        request = pickle.load(stream)
        signal.setitimer(signal.ITIMER_PROF, limits.max_cpu_s)  # SIGPROF ends the process
        answer = _answer(template, limits, request)
        data = msgspec.msgpack.encode(answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        stream.write(len(data).to_bytes(8, "little") + data)
        stream.flush()
        is_last = answer.is_last


def _limit(limits: RenderLimits) -> None:
    with open("/proc/self/statm") as statm:
        mapped_bytes = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    most = mapped_bytes + limits.max_memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(template: ChatTemplate, limits: RenderLimits, request: Probe | Render) -> Rendered:
    try:
        if isinstance(request, Probe):
            template.probe(request.name)
            return Rendered()
        text = template.render(request.messages, **request.options)
        num_bytes = len(text.encode())
    except TemplateError as error:
        is_memory = isinstance(error.__cause__, MemoryError)
        return Rendered(complaint=error.reason, is_last=is_memory)
    except MemoryError:
        return Rendered(complaint="MemoryError", is_last=True)
    except UnicodeEncodeError:
        return Rendered(complaint="the prompt holds half of a surrogate pair")
    if num_bytes > limits.max_prompt_bytes:
        limit = limits.max_prompt_bytes
        return Rendered(complaint=f"the prompt has {num_bytes} bytes, and {limit} is the limit")
    return Rendered(text)


if __name__ == "__main__":
    # Not main() itself: what is sent is of the module by its own name, and this one is __main__.
    from tgi_llamacpp.router import template_process

    template_process.main()
