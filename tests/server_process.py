"""A real server in a process of its own, as tests see it: its log, its URL, its engine."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

import tgi_llamacpp

PATIENCE_S = 60.0  # for what takes a second on a machine that has nothing else to do


def copy_of_demo_model(folder: Path) -> Path:
    """The demo model in `folder`, with its tokenizer beside it; the path of the GGUF."""
    shutil.copytree(Path(tgi_llamacpp.__file__).parent / "demo", folder, dirs_exist_ok=True)
    return folder / "demo.gguf"


class ServerProcess:
    """`tgi-llamacpp ...` on a free port. As a context it is killed at the end, engine and all.

    command: serve or demo. arguments: its flags. environ: variables beside PATH and PYTHONPATH.
    It decodes on one thread, which is quick enough, and steady on a machine that is busy.
    python: the interpreter, where it is not that of the tests.
    """

    def __init__(
        self, command: str, *arguments: str, python: str = sys.executable, **environ: str
    ) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        program = [python, "-m", "tgi_llamacpp", command]
        self._process = subprocess.Popen(
            [*program, "--hostname=127.0.0.1", "--port=0", *arguments],
            env=kept | {"HOME": "/nonexistent", "HF_HUB_OFFLINE": "1", "N_THREADS": "1"} | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.output: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stderr, self.log)),
            threading.Thread(target=self._read, args=(self._process.stdout, self.output)),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """Once it answers."""
        return self.wait_for(r"listening on (http://\S+?)[\s\"]")

    @property
    def engine_pid(self) -> int:
        """Once it is started."""
        return int(self.wait_for(r"engine \d+ started, pid (\d+)"))

    def wait_for(self, pattern: str) -> str:
        """The first group of the pattern, once a line of the log has it."""
        found: list[str] = []

        def is_there() -> bool:
            matches = (re.search(pattern, line + "\n") for line in self.log)
            found[:] = [match[1] if match.re.groups else match[0] for match in matches if match]
            return bool(found) or not self._readers[0].is_alive()

        with self._news:
            assert self._news.wait_for(is_there, PATIENCE_S), self.text
        assert found, f"it ended without {pattern!r}:\n{self.text}"
        return found[0]

    def is_listening(self) -> bool:
        """Once it answers, or has ended without."""
        self.wait_for(r"listening on http|^Error: |\"level\": *\"ERROR\"")
        return any("listening on http" in line for line in self.log)

    @property
    def text(self) -> str:
        return "\n".join(self.log)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once it has ended and its whole log is read."""
        code = self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return code

    def stop(self) -> int:
        """Ask it to end; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


class Watched:
    """Another process, by a handle that stays its own after it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def is_gone_within(self, seconds: float) -> bool:
        return bool(select.select([self._fd], [], [], seconds)[0])

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        os.close(self._fd)
