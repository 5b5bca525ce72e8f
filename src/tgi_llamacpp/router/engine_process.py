"""The engine as a child process: its start, its end, and what its exit status says.

Owns the process and the socketpair; frames are EngineClient's affair. Called by server.py. To start
an engine again is one more EngineProcess with the same client.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys

_EXIT_GRACE_S = 5.0  # an engine whose socket is closed ends itself within a second


class EngineProcess:
    """One engine, from its start to its end.

    It has its own process group, so that a terminal's signals reach the router alone, and no
    standard input. `sock` is the router's end: closing it ends the engine.
    """

    def __init__(self) -> None:
        self.sock, engine_end = socket.socketpair()
        fd = engine_end.fileno()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tgi_llamacpp.engine", "--fd", str(fd)],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd],
                process_group=0,
            )
        finally:
            engine_end.close()

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

    async def stop(self) -> None:
        """Wait for an engine whose socket was closed, and end it where it does not end itself."""
        if await self.wait() is None:
            self.kill()
            await self.wait()


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
        "SIGILL": "killed by SIGILL, since this build uses instructions that this CPU lacks:"
        " build the package on this machine, or with llamacpp_native=OFF",
    }
    return hints.get(name, f"killed by {name}")
