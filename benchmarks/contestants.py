"""The programs that are compared: how each is started, asked, and stopped.

A contestant is written as a shell would run it, "tgi-llamacpp" or "llama-server -ub 256", its flags
come after those that the scenario needs. "label=/elsewhere/llama-server" gives a build of one's own
a name. Everything runs on the given number of threads, one contestant at a time.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu_quota import inside, quota
from benchmarks.load_generator import BenchError, Body, send
from benchmarks.machine_state import busy_cpus, cpu_s_of_tree
from benchmarks.make_models import ensure_model
from benchmarks.measures import Metrics, summarize
from benchmarks.scenarios import Build, Request, Scenario

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 20.0
_LOG_TAIL_BYTES = 2000

Run = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """`name` is its label; `kind` the program's own name."""

    name: str
    program: tuple[str, ...]
    kind: str
    extra: tuple[str, ...]
    num_threads: int

    def measure(self, scenario: Scenario, seed: int, repeats: int) -> list[Run]:
        """Start it, warm it up, run the scenario `repeats` times with other prompts, stop it."""
        if self.kind == "llama-batched-bench":
            return [self._measure_batched(scenario) for _ in range(repeats)]
        return self._measure_server(scenario, seed, repeats)

    def can_run(self, scenario: Scenario) -> bool:
        """llama-batched-bench has no clients and no sampling."""
        return self.kind != "llama-batched-bench" or scenario.batched is not None

    def command(self, scenario: Scenario, port: int = 0) -> list[str]:
        flags = _FLAGS[self.kind](scenario, self.num_threads, port)
        return [*self.program, *flags, *self.extra]

    def body(self, request: Request, scenario: Scenario) -> Body:
        body: Body = {
            "model": "bench",
            "prompt": request.prompt,
            "max_tokens": request.num_output_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": scenario.sampling.temperature,
            "seed": 1,
        }
        return body | _SAMPLING[self.kind](scenario)

    def _measure_server(self, scenario: Scenario, seed: int, repeats: int) -> list[Run]:
        others_busy_cpus = busy_cpus()
        runs = []
        with (
            _limited(scenario.cpu_quota) as limit,
            serving(lambda port: limit(self.command(scenario, port))) as (url, pid),
            _busy_beside(scenario.num_busy_beside, scenario.busy_nice),
        ):
            rng = random.Random(seed)
            self._ask(url, scenario, rng, scenario.warm_up)
            for _ in range(repeats):
                rng_state = rng.getstate()
                if scenario.is_warm:
                    self._ask(url, scenario, rng)
                    rng.setstate(rng_state)
                before = cpu_s_of_tree(pid), time.process_time()
                metrics = self._ask(url, scenario, rng)
                after = cpu_s_of_tree(pid), time.process_time()
                server_s, client_s = (round(b - a, 3) for a, b in zip(before, after, strict=True))
                runs.append(
                    {
                        "metrics": metrics,
                        "server_cpu_s": server_s,
                        "client_cpu_s": client_s,
                        "others_busy_cpus": others_busy_cpus,
                    }
                )
        return runs

    def _ask(
        self, url: str, scenario: Scenario, rng: random.Random, build: Build | None = None
    ) -> dict[str, Metrics]:
        streams = (build or scenario.build)(rng)
        answers = send(url, streams, lambda request: self.body(request, scenario))
        return summarize(answers)

    def _measure_batched(self, scenario: Scenario) -> Run:
        """Throughput as a client would see it: output tokens over prefill and decode together."""
        others_busy_cpus = busy_cpus()
        output = subprocess.run(
            self.command(scenario), capture_output=True, text=True, check=True
        ).stdout
        row = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        num_output = row["pl"] * row["tg"]
        metrics = {
            "num_requests": row["pl"],
            "num_prompt_tokens": row["pl"] * row["pp"],
            "num_output_tokens": num_output,
            "wall_s": round(row["t"], 4),
            "tokens_per_s": round(num_output / row["t"], 3),
            "gap_ms_p50": round(row["t_tg"] / row["tg"] * 1e3, 3),
        }
        return {"metrics": {"all": metrics}, "others_busy_cpus": others_busy_cpus}


def in_turn(contestants: Sequence[Contestant], pair: int) -> list[Contestant]:
    """Every other pair from last to first: a machine is faster after a rest than a minute later."""
    return list(contestants if pair % 2 == 0 else reversed(contestants))


def parse_contestant(text: str, num_threads: int) -> Contestant:
    """
    Raises:
        BenchError: the program is none that a bench knows, or is not there.
    """
    first, *extra = shlex.split(text)
    label, _, first = first.rpartition("=")
    kind = Path(first).name
    if kind not in _FLAGS:
        raise BenchError(f"{first!r} is none of {', '.join(_FLAGS)}")
    is_ours = kind == "tgi-llamacpp"
    program = [sys.executable, "-m", "tgi_llamacpp", "serve"] if is_ours else [find_program(first)]
    name = label or shlex.join([kind, *extra])
    return Contestant(name, tuple(program), kind, tuple(extra), num_threads)


def find_program(name: str) -> str:
    """A path stays; a bare name is sought beside LLAMA_SERVER, in the reference build, in PATH."""
    if "/" in name:
        candidates = [Path(name)]
    else:
        beside = os.environ.get("LLAMA_SERVER")
        folders = [Path(beside).parent] if beside else []
        folders.append(Path(__file__).parents[1] / "build/reference/bin")
        candidates = [folder / name for folder in folders]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return str(candidate)
    if "/" not in name and (found := shutil.which(name)):
        return found
    raise BenchError(
        f"{name} is not there: run `python -m benchmarks.build_reference`, "
        "or set LLAMA_SERVER to the path of a llama-server"
    )


def _llama_server_flags(scenario: Scenario, num_threads: int, port: int) -> list[str]:
    """Its defaults for that number of slots: split KV, -b 2048, -ub 512."""
    return [
        *("-m", str(ensure_model(scenario.model)), "--host", "127.0.0.1", "--port", str(port)),
        *("-t", str(num_threads), "-np", str(scenario.num_slots)),
        *("-c", str(scenario.num_slots * scenario.slot_tokens)),
    ]


def _tgi_llamacpp_flags(scenario: Scenario, num_threads: int, port: int) -> list[str]:
    return [
        *("--model-id", str(ensure_model(scenario.model)), "--hostname", "127.0.0.1"),
        *("--port", str(port), *_threads(scenario, num_threads)),
        *("--max-batch-size", str(scenario.num_slots)),
        *("--max-input-tokens", str(scenario.slot_tokens - 1)),
        *("--max-total-tokens", str(scenario.slot_tokens)),
        *("--max-concurrent-requests", str(4 * scenario.num_slots)),
    ]


def _threads(scenario: Scenario, num_threads: int) -> list[str]:
    """Under a quota they follow from it."""
    return [] if scenario.cpu_quota else ["--n-threads", str(num_threads)]


def _batched_bench_flags(scenario: Scenario, num_threads: int, port: int) -> list[str]:
    if scenario.batched is None:
        raise BenchError(f"llama-batched-bench cannot do the work of {scenario.name}")
    num_prompt, num_output, num_streams = map(str, scenario.batched)
    return [
        *("-m", str(ensure_model(scenario.model)), "-t", str(num_threads)),
        *("-c", str(scenario.num_slots * scenario.slot_tokens), "--output-format", "jsonl"),
        *("-npp", num_prompt, "-ntg", num_output, "-npl", num_streams),
    ]


def _llama_server_sampling(scenario: Scenario) -> Body:
    """Its own defaults cut more than was asked, and its penalties look back 64 tokens only."""
    sampling = scenario.sampling
    if sampling.temperature == 0:
        return {}
    return {
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": scenario.slot_tokens,
    }


def _tgi_llamacpp_sampling(scenario: Scenario) -> Body:
    sampling = scenario.sampling
    values = {"top_p": sampling.top_p, "repetition_penalty": sampling.repetition_penalty}
    return {name: value for name, value in values.items() if value != 1.0}


_FLAGS = {
    "llama-server": _llama_server_flags,
    "tgi-llamacpp": _tgi_llamacpp_flags,
    "llama-batched-bench": _batched_bench_flags,
}
_SAMPLING = {"llama-server": _llama_server_sampling, "tgi-llamacpp": _tgi_llamacpp_sampling}


@contextmanager
def serving(command: Callable[[int], list[str]]) -> Iterator[tuple[str, int]]:
    """(url of the completions route, process id) of a server that is ready; stopped afterwards."""
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command(port), stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, port)
            yield f"http://127.0.0.1:{port}/v1/completions", process.pid
        except BaseException:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            _stop(process)


@contextmanager
def _limited(cpu_quota: float | None) -> Iterator[Callable[[list[str]], list[str]]]:
    """What makes a command one that has so many CPUs' time."""
    if cpu_quota is None:
        yield lambda command: command
        return
    with quota(cpu_quota) as group:
        yield lambda command: inside(group, command)


@contextmanager
def _busy_beside(num_processes: int, nice: int) -> Iterator[None]:
    """Processes that compute without end, as a compiler in the background does."""
    with ExitStack() as stack:
        for _ in range(num_processes):
            command = ["nice", "-n", str(nice), sys.executable, "-c", "while True: pass"]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise BenchError(f"the server exited with {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise BenchError(f"the server was not ready within {_START_TIMEOUT_S:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
