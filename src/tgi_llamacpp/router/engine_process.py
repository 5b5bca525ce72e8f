"""The engine as a child process: its start, its end, and what its exit status says.

Owns the process, the socketpair and the page that tells what it runs; frames are EngineClient's
affair. Called by supervisor.py. To start an engine again is one more EngineProcess with the same
client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from tgi_llamacpp.step_page import StepPage, create_page_file

_EXIT_GRACE_S = 5.0  # an engine whose socket is closed ends itself within a second
_DUMP_S = 0.5  # that a stuck engine has to write its stacks


class EngineProcess:
    """One engine, from its start to its end.

    It has its own process group, so that a terminal's signals reach the router alone, and no
    standard input. `sock` is the router's end: closing it ends the engine. `page` can be read until
    `close`, also when the engine is gone.

    arguments: what Python runs, `-m` and a module with its own arguments.
    """

    def __init__(self, arguments: Sequence[str] = ("-m", "tgi_llamacpp.engine")) -> None:
        self.sock, engine_end = socket.socketpair()
        fd, page_fd = engine_end.fileno(), create_page_file()
        try:
            self.page = StepPage(page_fd)
            self._process = subprocess.Popen(
                [sys.executable, "-P", *arguments, f"--fd={fd}", f"--page-fd={page_fd}"],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd, page_fd],
                process_group=0,
            )
        finally:
            engine_end.close()
            os.close(page_fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    async def wait(self, timeout_s: float = _EXIT_GRACE_S) -> int | None:
        """The exit status once it has ended; None where it still runs after timeout_s."""
        try:
            return await asyncio.to_thread(self._process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it now. No error where it has ended."""
        self._process.kill()

    async def kill_stuck(self) -> None:
        """End it, after it had a moment to write its threads' stacks to the log."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
        await self.wait(_DUMP_S)
        self.kill()

    async def stop(self) -> int | None:
        """Wait for an engine whose socket was closed, and end it where it does not end itself.

        Returns its exit status.
        """
        self.sock.close()
        if (returncode := await self.wait()) is None:
            self.kill()
            returncode = await self.wait()
        return returncode

    async def end(self) -> int | None:
        """Stop it, and keep nothing of it; its exit status. A caller in a hurry may cancel this."""
        try:
            return await self.stop()
        finally:
            if self.returncode is None:
                self.kill()
            self.close()

    def close(self) -> None:
        """Give the page back. Idempotent."""
        self.page.close()


def describe_exit(returncode: int | None) -> str:
    """An exit status in words, for the log."""
    if returncode is None:
        return "it closed its socket and still runs"
    if returncode >= 0:
        return f"it exited with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hints = {
        "SIGKILL": "killed by SIGKILL, as the kernel does when memory runs out",
        # A CPU that lacks what the build was compiled for is told when the native core is imported.
        "SIGILL": "killed by SIGILL, an instruction that this CPU refused",
    }
    return hints.get(name, f"killed by {name}")
