"""The whole program on the demo model: start, answer, stop, and every way that fails."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import gguf
import httpx
import pytest

import tgi_llamacpp
from tests.fake_hub import serve_hub
from tests.server_process import PATIENCE_S, ServerProcess, Watched, copy_of_demo_model

DEMO = Path(tgi_llamacpp.__file__).parent / "demo"
CAPITAL = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 32,
}


def endless(max_tokens: int = 1500) -> dict[str, object]:
    """A stream of exactly so many tokens: it still runs when something happens to it."""
    return {
        "prompt": "one two three",
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=PATIENCE_S)


def post(url: str, body: object) -> httpx.Response:
    return httpx.post(url, json=body, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("demo", LOG_LEVEL="debug") as process:
        yield process
        assert process.stop() == 0


@pytest.fixture
def engine_of() -> Iterator[list[Watched]]:
    """Handles to close."""
    handles: list[Watched] = []
    yield handles
    for handle in handles:
        handle.close()


class TestAnswers:
    def test_health_and_ping_say_that_it_is_ready(self, server: ServerProcess) -> None:
        for path in ("/health", "/ping"):
            assert get(server.url + path).status_code == 200

    def test_a_prompt_is_completed(self, server: ServerProcess) -> None:
        body = {"inputs": "Hello", "parameters": {"max_new_tokens": 5, "details": True}}
        answer = post(server.url + "/generate", body).json()
        assert answer["details"]["finish_reason"] in ("length", "eos_token")
        assert 1 <= answer["details"]["generated_tokens"] <= 5
        assert isinstance(answer["generated_text"], str)

    def test_the_line_that_the_demo_prints_works_and_its_answer_is_right(
        self, server: ServerProcess
    ) -> None:
        url = server.url
        (line,) = (text for text in server.output if text.startswith("curl "))
        _, address, _, header, _, body = shlex.split(line)
        assert address == url + "/v1/chat/completions"
        name, _, value = header.partition(": ")
        answer = httpx.post(address, headers={name: value}, content=body, timeout=PATIENCE_S).json()
        assert "Paris" in answer["choices"][0]["message"]["content"]

    def test_an_answer_has_the_least_tokens_that_were_asked_for(
        self, server: ServerProcess
    ) -> None:
        body = {**CAPITAL, "max_tokens": 48}
        short = post(server.url + "/v1/chat/completions", body).json()
        assert short["choices"][0]["finish_reason"] == "stop"
        num_short = short["usage"]["completion_tokens"]
        least = num_short + 8
        body |= {"min_tokens": least, "stop": ["Paris"]}
        long = post(server.url + "/v1/chat/completions", body).json()
        assert long["usage"]["completion_tokens"] >= least
        assert "Paris" in long["choices"][0]["message"]["content"]

    def test_a_prompt_is_computed_anew_where_the_request_says_so(
        self, server: ServerProcess
    ) -> None:
        text = "one two three four five six seven eight nine ten eleven twelve thirteen " * 4
        body: dict[str, object] = {"prompt": text, "max_tokens": 1}
        cached = []
        for fields in ({}, {}, {"cache_prompt": False}):
            answer = post(server.url + "/v1/completions", {**body, **fields}).json()
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached[1] > 0
        assert cached[2] == 0

    @pytest.mark.parametrize(
        ("question", "answer"),
        [
            ("Hello", "Hello! How can I help you?"),
            ("Who are you?", "I am the demo model of tgi-llamacpp, a very small language model."),
            ("How are you?", "I am fine, thank you. How can I help you?"),
            ("Thanks!", "You are welcome!"),
            ("Bye!", "Goodbye!"),
            ("What is 58 + 67?", "58 + 67 = 125"),
            ("What is the opposite of early?", "The opposite of early is late."),
        ],
    )
    def test_the_demo_answers_what_people_try_first(
        self, server: ServerProcess, question: str, answer: str
    ) -> None:
        body = CAPITAL | {"messages": [{"role": "user", "content": question}]}
        said = post(server.url + "/v1/chat/completions", body).json()
        assert said["choices"][0]["message"]["content"] == answer

    def test_the_demo_model_is_small_and_of_a_type_with_fast_kernels(self) -> None:
        path = DEMO / "demo.gguf"
        tensors = gguf.GGUFReader(path).tensors
        types = {t.tensor_type for t in tensors if not t.name.endswith("norm.weight")}
        assert types == {gguf.GGMLQuantizationType.Q8_0}
        assert path.stat().st_size < 5_000_000

    def test_info_tells_the_models_name_and_limits(self, server: ServerProcess) -> None:
        info = get(server.url + "/info").json()
        assert info["model_id"] == "tgi-llamacpp/demo"
        assert info["max_total_tokens"] == 2048
        assert info["max_input_tokens"] == 1024

    def test_it_names_no_server_software(self, server: ServerProcess) -> None:
        assert "server" not in get(server.url + "/health").headers

    def test_no_prompt_and_no_answer_is_logged(self, server: ServerProcess) -> None:
        secret = "xylophone-quartz-7731"
        body = {"inputs": secret, "parameters": {"max_new_tokens": 4}}
        assert post(server.url + "/generate", body).status_code == 200
        assert post(server.url + "/generate", {"inputs": 7}).status_code == 422
        assert secret not in server.text


class TestStart:
    def test_connections_are_refused_until_the_model_is_loaded(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with ServerProcess("demo", f"--port={port}") as process:
            engine = process.engine_pid
            os.kill(engine, signal.SIGSTOP)  # it cannot get ready
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            os.kill(engine, signal.SIGCONT)
            assert process.url == f"http://127.0.0.1:{port}"
            assert get(process.url + "/health").status_code == 200

    def test_a_folder_or_a_file_is_served_by_the_other_command_too(self, tmp_path: Path) -> None:
        shutil.copy(DEMO / "demo.gguf", tmp_path)
        with ServerProcess("serve", "--model-id", str(tmp_path / "demo.gguf")) as process:
            answer = post(process.url + "/v1/chat/completions", CAPITAL).json()
        assert "Paris" in answer["choices"][0]["message"]["content"]

    def test_a_model_of_the_hub_is_downloaded_and_served(self, tmp_path: Path) -> None:
        sha = "89abcdef" * 5
        files = {path.name: path.read_bytes() for path in DEMO.iterdir() if path.is_file()}
        with serve_hub({"org/demo": files}, sha) as endpoint:
            environ = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
            with ServerProcess("serve", "--model-id=org/demo", **environ) as process:
                info = get(process.url + "/info").json()
                answer = post(process.url + "/v1/chat/completions", CAPITAL)
        assert (info["model_id"], info["model_sha"]) == ("org/demo", sha)
        assert info["model_pipeline_tag"] == "text-generation"
        assert "Paris" in answer.json()["choices"][0]["message"]["content"]

    def test_every_line_of_a_json_log_is_json(self) -> None:
        with ServerProcess("demo", JSON_OUTPUT="true") as process:
            post(process.url + "/generate", {"inputs": "a"})
            assert process.stop() == 0
        assert {json.loads(line)["process"] for line in process.log} == {"router", "engine"}

    def test_an_error_in_a_json_log_is_json_too(self) -> None:
        with ServerProcess("serve", "--model-id=/no/m.gguf", "--json-output") as process:
            assert process.wait() == 1
        last = [json.loads(line) for line in process.log][-1]
        assert last["level"] == "ERROR"
        assert "there is no such file or folder" in last["message"]

    def test_flags_without_effect_cost_one_line(self) -> None:
        with ServerProcess("demo", "--defrag-threshold=0.1", USAGE_STATS="off") as process:
            assert process.url
        warnings = [line for line in process.log if " WARN " in line]
        assert len(warnings) == 1
        assert "--defrag-threshold, --usage-stats: no effect here" in warnings[0]


@pytest.mark.parametrize(
    "locale", [{}, {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "POSIX"}]
)
@pytest.mark.parametrize("name", [b"mod\xe8le", "modèle".encode()])
def test_a_path_in_any_bytes_is_served_in_any_locale(
    tmp_path: Path, name: bytes, locale: dict[str, str]
) -> None:
    folder = tmp_path / os.fsdecode(name)
    model = copy_of_demo_model(folder).rename(folder / "DEMO.GGUF")
    flags = (f"--model-id={model}", "--json-output", "--max-batch-size=1")
    with ServerProcess("serve", *flags, **locale) as process:
        shown = str(folder / "DEMO.GGUF").replace("\udce8", "\ufffd")
        assert httpx.get(process.url + "/info").json()["model_id"] == shown
        (listed,) = httpx.get(process.url + "/v1/models").json()["data"]
        assert listed["id"] == shown
        body = {"inputs": "hi", "parameters": {"max_new_tokens": 2}}
        answer = httpx.post(process.url + "/generate", json=body, timeout=60)
        assert answer.status_code == 200
        assert process.stop() == 0
    messages = [json.loads(line)["message"] for line in process.log]
    assert any(name.decode("utf-8", "backslashreplace") in message for message in messages)


class TestMistakes:
    """One sentence that starts with Error, an exit code, no traceback, nothing on stdout."""

    def fails(self, process: ServerProcess, code: int) -> str:
        with process:
            assert process.wait() == code, process.text
        errors = [line for line in process.log if line.startswith("Error: ")]
        assert len(errors) == 1, process.text
        assert errors[0] == process.log[-1]
        assert "Traceback" not in process.text
        assert process.output == []
        return errors[0]

    def test_a_missing_model(self) -> None:
        error = self.fails(ServerProcess("serve", "--model-id=/no/model.gguf"), 1)
        assert error == "Error: --model-id /no/model.gguf: there is no such file or folder"

    def test_a_model_that_is_not_said(self, tmp_path: Path) -> None:
        """Also where there is one below the working directory."""
        assert "--model-id is required" in self.fails(ServerProcess("serve", "--model-id="), 2)

    def test_a_path_that_is_no_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / os.fsdecode(b"mod\xe8le.gguf")
        error = self.fails(ServerProcess("serve", f"--model-id={path}"), 1)
        assert f"{tmp_path}/mod\\xe8le.gguf: there is no such file or folder" in error

    def test_a_folder_without_a_gguf(self, tmp_path: Path) -> None:
        error = self.fails(ServerProcess("serve", f"--model-id={tmp_path}"), 1)
        assert "name one with --model-gguf" in error

    @pytest.mark.parametrize("num_bytes", [0, 3, 1000, 500_000])
    def test_a_truncated_model(self, tmp_path: Path, num_bytes: int) -> None:
        path = tmp_path / "cut.gguf"
        path.write_bytes((DEMO / "demo.gguf").read_bytes()[:num_bytes])
        assert str(path) in self.fails(ServerProcess("serve", f"--model-id={path}"), 1)

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            error = self.fails(ServerProcess("demo", f"--port={port}"), 1)
        assert f"cannot listen on 127.0.0.1:{port}: address already in use" in error

    def test_an_address_that_is_not_ours(self) -> None:
        error = self.fails(ServerProcess("demo", "--hostname=192.0.2.1"), 1)
        assert "cannot listen on 192.0.2.1:0" in error

    def test_limits_that_contradict_each_other(self) -> None:
        error = self.fails(ServerProcess("demo", "--max-input-tokens=4096"), 1)
        assert "`max_input_tokens` must be < `max_total_tokens`" in error

    def test_an_unknown_flag(self) -> None:
        assert "--bogus" in self.fails(ServerProcess("demo", "--bogus"), 2)

    def test_a_boolean_variable_that_is_neither_true_nor_false(self) -> None:
        assert "USE_MLOCK" in self.fails(ServerProcess("demo", USE_MLOCK="1"), 2)

    def test_an_unknown_command(self) -> None:
        assert "there is no command 'sevre'" in self.fails(ServerProcess("sevre"), 2)

    def test_an_engine_that_dies_while_it_loads(self) -> None:
        process = ServerProcess("demo")
        os.kill(process.engine_pid, signal.SIGKILL)
        assert "killed by SIGKILL" in self.fails(process, 1)


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_with_code_0_and_the_engine_too(
        self, number: signal.Signals, engine_of: list[Watched]
    ) -> None:
        with ServerProcess("demo") as process:
            assert process.url
            engine_of.append(engine := Watched(process.engine_pid))
            process.signal(number)
            assert process.wait() == 0
            assert engine.is_gone_within(0)
        assert "Traceback" not in process.text

    def test_a_signal_before_the_engine_starts_ends_it_with_code_0(self) -> None:
        with ServerProcess("demo") as process:
            process.wait_for("tgi-llamacpp [0-9]")
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        assert "Traceback" not in process.text

    def test_a_signal_while_the_model_loads_ends_it_with_code_0(self) -> None:
        with ServerProcess("demo") as process:
            engine = process.engine_pid
            os.kill(engine, signal.SIGSTOP)
            process.signal(signal.SIGTERM)
            process.wait_for("told to stop")
            os.kill(engine, signal.SIGCONT)
            assert process.wait() == 0

    def test_running_requests_are_finished_first(self) -> None:
        with ServerProcess("demo") as process, httpx.Client(timeout=PATIENCE_S) as client:
            path = process.url + "/v1/completions"
            with client.stream("POST", path, json=endless(300)) as answer:
                events = answer.iter_lines()
                assert next(events).startswith("data:")
                process.signal(signal.SIGTERM)
                *_, finish, done = [line for line in events if line]
            assert json.loads(finish.removeprefix("data:"))["usage"]["completion_tokens"] == 300
            assert done == "data: [DONE]"
            assert process.wait() == 0

    def test_the_engine_does_not_outlive_a_router_that_is_killed(
        self, engine_of: list[Watched]
    ) -> None:
        with ServerProcess("demo") as process:
            engine_of.append(engine := Watched(process.engine_pid))
            assert process.url
            process.signal(signal.SIGKILL)
            assert engine.is_gone_within(1)

    def test_a_router_killed_during_the_load_leaves_no_engine(
        self, engine_of: list[Watched]
    ) -> None:
        with ServerProcess("demo") as process:
            engine_of.append(engine := Watched(process.engine_pid))
            process.signal(signal.SIGKILL)
            assert engine.is_gone_within(5)  # it may still be importing


class TestEngineDeath:
    def test_it_is_reported_and_the_stream_goes_on_in_the_next_engine(self) -> None:
        with ServerProcess("demo") as process, httpx.Client(timeout=PATIENCE_S) as client:
            path = process.url + "/v1/completions"
            with client.stream("POST", path, json=endless()) as answer:
                events = answer.iter_lines()
                assert next(events).startswith("data:")
                os.kill(process.engine_pid, signal.SIGKILL)
                *_, finish, done = [line for line in events if line]
            assert json.loads(finish.removeprefix("data:"))["usage"]["completion_tokens"] == 1500
            assert done == "data: [DONE]"
            process.wait_for("engine 1 is gone: killed by SIGKILL")
            assert client.get(process.url + "/health").status_code == 200
            assert process.stop() == 0
        assert "Traceback" not in process.text
