"""nginx as docs/operations.md sets it up: events pass at once, and who hangs up frees a place."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server_process import PATIENCE_S, ServerProcess

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
DOCUMENT = Path(__file__).parent.parent / "docs/operations.md"
STREAM = {"prompt": "one two three", "max_tokens": 1500, "ignore_eos": True, "stream": True}

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("demo") as process:
        yield process
        assert process.stop() == 0


@pytest.fixture(scope="module")
def proxy(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where nginx answers for the server."""
    folder = tmp_path_factory.mktemp("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(_config(folder, port, server.url.removeprefix("http://")))
    command = [str(NGINX), "-p", str(folder), "-c", str(config), "-g", "daemon off;"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _config(folder: Path, port: int, upstream: str) -> str:
    """The document's example, with these addresses and with its files in the folder."""
    found = re.search(r"^nginx:\n\n((?:    .*\n)+)", DOCUMENT.read_text(), re.MULTILINE)
    assert found is not None
    example = textwrap.dedent(found[1])
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("server 127.0.0.1:3000;", f"server {upstream};"),
    ):
        assert old in example
        example = example.replace(old, new)
    user = "user root root;\n" if os.geteuid() == 0 else ""  # workers write there too
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    return (
        f"{user}pid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{own}{example}}}\n"
    )


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            continue
        return
    raise AssertionError(f"nginx does not listen: it exited with {process.poll()}")


def num_running(server: ServerProcess) -> int:
    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    found = re.search(r"^tgi_batch_current_size (\d+)$", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_an_answer_comes_through_the_proxy_as_it_is(server: ServerProcess, proxy: str) -> None:
    body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 8}}
    for path in ("/generate", "/generate_stream"):
        direct, proxied = (
            httpx.post(url + path, json=body, timeout=PATIENCE_S) for url in (server.url, proxy)
        )
        assert proxied.status_code == 200
        assert proxied.text == direct.text


def test_events_pass_at_once_and_who_hangs_up_frees_a_place(
    server: ServerProcess, proxy: str
) -> None:
    with (
        httpx.Client(base_url=proxy, timeout=PATIENCE_S) as client,
        client.stream("POST", "/v1/completions", json=STREAM) as answer,
    ):
        events = answer.iter_lines()  # held: to drop it is to hang up
        assert next(events).startswith("data:")
        while num_running(server) == 0:  # the engine tells four times a second
            pass
    while num_running(server):
        pass
    assert any("the client went away" in line for line in server.log)


def test_the_servers_own_limit_of_a_body_is_the_one_that_speaks(proxy: str) -> None:
    body = b'{"inputs": "' + b"a" * 2_000_000 + b'"}'
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{proxy}/generate", content=body, headers=headers, timeout=PATIENCE_S)
    assert answer.status_code == 413
    assert "length limit exceeded" in answer.text
