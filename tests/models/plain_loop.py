"""The plain loop over llama.cpp's C API (plain_loop.cpp), in a process that may die of any text.

Built from the headers and libraries that the server runs on. Knows no test.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

SOURCE = Path(__file__).with_suffix(".cpp")
NUM_THREADS = 1  # as the server of the tests: steady on a machine that is busy


@dataclass(frozen=True)
class Likeliest:
    """The token that a greedy loop takes."""

    id: int
    piece: bytes  # of its text; empty for a control token
    lead: float  # of its logit, over the second best; alone in a pass or not, whichever is less


def build_plain_loop(llamacpp_source: Path, libraries: Path, folder: Path) -> Path:
    """Compiles it into the folder; the path of the program."""
    program = folder / "plain_loop"
    include = [f"-I{llamacpp_source / name}" for name in ("include", "ggml/include")]
    link = [f"-L{libraries}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}"]
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++17", "-O2", *include, str(SOURCE), "-o", str(program), *link]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return program


class PlainLoop:
    """The program with one model. A context manager; the process is killed at the end."""

    def __init__(self, program: Path, model: Path, num_cells: int) -> None:
        self._found: dict[tuple[int, ...], list[Likeliest]] = {}
        self._command = [str(program), str(model), str(num_cells), str(NUM_THREADS)]
        self._start()

    def __enter__(self) -> PlainLoop:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def tokenize(self, text: str, *, add_special: bool) -> list[int] | None:
        """llama_tokenize's ids; None where it does not survive the text."""
        try:
            answer = self._ask("tokenize", int(add_special), text.encode().hex() or "-")
        except BrokenPipeError:
            self._process.communicate()
            self._start()
            return None
        return [int(word) for word in answer]

    def greedy(self, ids: list[int], count: int) -> list[Likeliest]:
        """The tokens after these, fewer where the model ends: then the last one is its end."""
        if (count, *ids) not in self._found:  # tests ask for the same again
            words = iter(self._ask("greedy", count, *ids))
            self._found[count, *ids] = [
                Likeliest(int(number), bytes.fromhex(piece.strip("-")), float(lead))
                for number, piece, lead in zip(words, words, words, strict=True)
            ]
        return self._found[count, *ids]

    def score(self, ids: list[int]) -> list[float]:
        """The log-probability of each token but the first, after those before it."""
        return [float(word) for word in self._ask("score", *ids)]

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ready, context_length = self._read().split()
        assert ready == "ready"
        self.context_length = int(context_length)

    def _ask(self, *words: object) -> list[str]:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        return self._read().split()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BrokenPipeError(f"the plain loop ended with code {self._process.wait()}")
        return line
