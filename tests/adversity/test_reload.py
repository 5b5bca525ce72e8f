"""SIGHUP under load: what clients see of another model, and of one that cannot be had."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.adversity.streams import bodies, run_all
from tests.exact_model import EXACT_KV
from tests.server_process import PATIENCE_S, ServerProcess
from tgi_llamacpp.engine.faults import VARIABLE

NUM_TOKENS = 120
SIZE = ("--max-batch-size=16", "--max-concurrent-requests=64")


class Site:
    """Folders with copies of a model, and the file of settings that names one."""

    def __init__(self, folder: Path, source: Path) -> None:
        self._folder = folder
        self._source = source
        self._config = folder / "server.toml"
        self.first, self.second = self.model("first"), self.model("second")
        self.serve(self.first)

    def model(self, name: str) -> Path:
        folder = shutil.copytree(self._source.parent, self._folder / name)
        return folder / self._source.name

    def of_another_vocabulary(self) -> Path:
        """The model, with a token that is spelled otherwise."""
        path = self.model("other")
        data = path.read_bytes()
        piece = b"\x05\0\0\0\0\0\0\0\xc4\xa0the"  # length and text of the token " the"
        assert data.count(piece) == 1
        path.write_bytes(data.replace(piece, piece[:-3] + b"eht"))
        (path.parent / "tokenizer.json").unlink()
        return path

    def serve(self, model: Path, *lines: str) -> None:
        self._config.write_text("\n".join([f"model-id = '{model}'", *lines]))

    def server(self, *arguments: str, **environ: str) -> ServerProcess:
        return ServerProcess("serve", f"--config={self._config}", *SIZE, *arguments, **environ)


@pytest.fixture
def site(tmp_path: Path, exact_model: Path) -> Site:
    return Site(tmp_path, exact_model)


def reloads(server: ServerProcess) -> dict[str, int]:
    lines = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text.splitlines()
    rows = (line.split('"') for line in lines if line.startswith("tgi_llamacpp_reloads{"))
    return {outcome: int(value[2:]) for _, outcome, value in rows if int(value[2:])}


def streams_with(server: ServerProcess, act: Callable[[], None]) -> list[list[dict[str, object]]]:
    """Sixteen streams, at whose hundredth event something happens; all that they said."""
    num_events = 0

    def on_event() -> None:
        nonlocal num_events
        num_events += 1
        if num_events == 100:
            act()

    return asyncio.run(run_all(server.url, bodies(16, NUM_TOKENS), on_event))


def hang_up(server: ServerProcess) -> None:
    os.kill(server.pid, signal.SIGHUP)


def test_sixteen_streams_go_on_to_the_bit_when_the_model_is_loaded_anew(site: Site) -> None:
    with site.server(*EXACT_KV) as server:
        expected = streams_with(server, lambda: None)
        assert "error" not in str(expected)

        def act() -> None:
            site.serve(site.second, "max-best-of = 3")
            hang_up(server)

        assert streams_with(server, act) == expected
        server.wait_for("sequences moved to engine 2")
        info = httpx.get(f"{server.url}/info").json()
        assert (info["model_id"], info["max_best_of"]) == (str(site.second), 3)
        models = httpx.get(f"{server.url}/v1/models").json()
        assert models["data"][0]["id"] == str(site.second)
        assert reloads(server) == {"moved": 1}
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.stop() == 0


def test_with_another_vocabulary_streams_finish_where_they_began(site: Site) -> None:
    other = site.of_another_vocabulary()
    with site.server(*EXACT_KV) as server:
        expected = streams_with(server, lambda: None)

        def act() -> None:
            site.serve(other)
            hang_up(server)

        assert streams_with(server, act) == expected
        server.wait_for("new requests go to engine 2")
        server.wait_for("engine 1 has finished its requests")
        assert httpx.get(f"{server.url}/info").json()["model_id"] == str(other)
        again = asyncio.run(run_all(server.url, bodies(1, 20)))
        assert "error" not in str(again)
        assert reloads(server) == {"drained": 1}
        assert server.stop() == 0


def test_what_cannot_be_served_is_told_and_changes_nothing(site: Site, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(site.first.read_bytes()[:50_000])
    with site.server() as server:
        assert server.url
        for model, lines, reason in (
            (broken, (), "is truncated"),
            (site.first, ("max-input-tokens = 4096",), "`max_input_tokens` must be <"),
            (site.first, ("max-input-tokns = 5",), "did you mean `max-input-tokens`"),
            (tmp_path / "none.gguf", (), "there is no such file"),
        ):
            site.serve(model, *lines)
            hang_up(server)
            server.wait_for(f"not reloaded: .*{reason}")
            assert httpx.get(f"{server.url}/health").status_code == 200
        site.serve(site.first, "max-best-of = 1", "aip-http-port = 81")
        hang_up(server)
        server.wait_for("reloaded: the model and the engine's settings are as they were")
        server.wait_for("aip_http_port stays None until the server is restarted, not 81")
        assert httpx.get(f"{server.url}/info").json()["max_best_of"] == 1
        assert reloads(server) == {"failed": 4, "kept": 1}
        assert server.stop() == 0


def test_an_engine_that_dies_as_it_loads_is_nobodys_loss(site: Site) -> None:
    with site.server(*EXACT_KV) as server:
        expected = streams_with(server, lambda: None)
        assert streams_with(server, lambda: kill_the_next(site, server)) == expected
        server.wait_for("not reloaded: .*SIGKILL")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.stop() == 0


def kill_the_next(site: Site, server: ServerProcess) -> None:
    """Ask for the second model, and kill the engine that loads it."""
    site.serve(site.second)
    hang_up(server)
    kill_engine(server, 2)


def kill_engine(server: ServerProcess, number: int) -> None:
    """As soon as it is started."""
    pid = int(server.wait_for(rf"engine {number} started, pid (\d+)"))
    os.kill(pid, signal.SIGKILL)


def test_an_engine_that_dies_while_another_loads_loses_nothing(site: Site) -> None:
    with site.server(*EXACT_KV) as server:
        expected = streams_with(server, lambda: None)

        def act() -> None:
            site.serve(site.second)
            hang_up(server)
            server.wait_for("engine 2 started")
            kill_engine(server, 1)

        assert streams_with(server, act) == expected
        server.wait_for(r"reloaded: \d+ sequences moved")
        assert server.stop() == 0


def test_hangups_during_a_reload_are_one_more_and_requests_are_served(site: Site) -> None:
    with site.server() as server:
        assert server.url
        site.serve(site.second)
        hang_up(server)
        server.wait_for("engine 2 started")
        for _ in range(5):
            hang_up(server)
            assert "error" not in str(asyncio.run(run_all(server.url, bodies(2, 20))))
        server.wait_for("another reload follows")
        server.wait_for("as they were")
        assert reloads(server) in ({"moved": 1, "kept": 1}, {"moved": 1, "kept": 2})
        assert server.stop() == 0


def test_a_hangup_before_the_server_is_up_is_a_reload_once_it_is(site: Site) -> None:
    with site.server() as server:
        server.wait_for("tgi-llamacpp [0-9]")
        site.serve(site.second, "prometheus-port = 9001")
        hang_up(server)
        server.wait_for("sequences moved to engine 2")
        server.wait_for("--prometheus-port: no effect here")
        assert server.stop() == 0


def test_a_server_told_to_stop_during_a_reload_stops(site: Site) -> None:
    with site.server() as server:
        assert server.url
        site.serve(site.second)
        hang_up(server)
        server.wait_for("engine 2 started")
        assert server.stop() == 0
        assert "reloaded:" not in server.text
        assert "Traceback" not in server.text


def test_a_server_whose_engine_was_given_up_serves_again_after_a_hangup(site: Site) -> None:
    with site.server() as server:
        assert server.url
        cut = site.first.with_name("cut")
        cut.write_bytes(site.first.read_bytes()[:50_000])
        cut.replace(site.first)  # and not into the file, which the engine has mapped
        kill_engine(server, 1)
        server.wait_for("no other engine will be started")
        assert httpx.get(f"{server.url}/health").status_code == 503
        site.serve(site.second)
        hang_up(server)
        server.wait_for("reloaded: 0 sequences moved")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert "error" not in str(asyncio.run(run_all(server.url, bodies(2, 20))))
        assert server.stop() == 0


@pytest.fixture
def no_memory(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which the machine says that it has none left."""
    folder = tmp_path / "patched"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from tgi_llamacpp import machine\nmachine.available_memory_bytes = lambda: 1000 << 10\n"
    )
    yield {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    shutil.rmtree(folder)


def test_without_room_for_both_streams_pause(site: Site, no_memory: dict[str, str]) -> None:
    with site.server(*EXACT_KV, **no_memory) as server:
        expected = streams_with(server, lambda: None)

        def act() -> None:
            site.serve(site.second)
            hang_up(server)

        assert streams_with(server, act) == expected
        server.wait_for(r"no room for a second engine: \d+ MiB needed, 1 MiB available; open")
        server.wait_for("reloaded: engine 2 serves")
        assert reloads(server) == {"paused": 1}
        site.serve(site.of_another_vocabulary())
        hang_up(server)
        server.wait_for("not reloaded: no room for a second engine")
        assert "error" not in str(asyncio.run(run_all(server.url, bodies(2, 20))))
        assert server.stop() == 0


def test_an_engine_that_does_not_load_in_the_pause_gives_way_to_the_former(
    site: Site, no_memory: dict[str, str]
) -> None:
    with site.server(*EXACT_KV, **no_memory) as server:
        expected = streams_with(server, lambda: None)
        assert streams_with(server, lambda: kill_the_next(site, server)) == expected
        server.wait_for("not reloaded: .*SIGKILL")
        server.wait_for("engine 3 goes on")
        assert httpx.get(f"{server.url}/info").json()["model_id"] == str(site.first)
        assert reloads(server) == {"failed": 1}
        assert server.stop() == 0


@pytest.mark.parametrize("has_room", [True, False])
def test_an_engine_that_loads_and_computes_nothing_does_not_serve(
    site: Site, no_memory: dict[str, str], has_room: bool
) -> None:
    environ = {VARIABLE: "abort:any"} | ({} if has_room else no_memory)
    with site.server(**environ) as server:
        assert server.url
        site.serve(site.second)
        hang_up(server)
        server.wait_for("not reloaded: the engine .* not compute a token: it ended; .*SIGABRT")
        if not has_room:
            server.wait_for("engine 4 goes on")  # after one in safe mode, which failed too
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/info").json()["model_id"] == str(site.first)
        assert reloads(server) == {"failed": 1}
        assert server.stop() == 0


def test_where_kernels_of_repacked_weights_fault_start_and_reload_come_to_safe_mode(
    site: Site,
) -> None:
    with site.server(**{VARIABLE: "segv:repack"}) as server:
        server.wait_for("engine 1 did not come up: .*SIGSEGV")
        server.wait_for("engine 2 serves in safe mode: .*SIGSEGV.* --disable-repack")
        assert "tgi_llamacpp_engine_safe_mode 1" in httpx.get(f"{server.url}/metrics").text
        site.serve(site.second)
        hang_up(server)
        server.wait_for("engine 4 serves in safe mode")
        assert httpx.get(f"{server.url}/info").json()["model_id"] == str(site.second)
        assert "tgi_llamacpp_engine_safe_mode 1" in httpx.get(f"{server.url}/metrics").text
        assert server.stop() == 0
