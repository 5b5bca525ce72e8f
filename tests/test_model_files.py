"""Where a model's files are looked for, and which GGUF is taken."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_hub import serve_hub
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.model_files import choose_gguf, find_model, parts

SHA = "0123456789abcdef0123456789abcdef01234567"


def local(model_id: Path | str, model_gguf: Path | str | None = None) -> ServerConfig:
    return ServerConfig(model_id=str(model_id), model_gguf=str(model_gguf) if model_gguf else None)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"GGUF")
    return folder


class TestChoice:
    @pytest.mark.parametrize(
        ("names", "taken"),
        [
            (["b.gguf", "a.gguf", "README.md"], "a.gguf"),
            (["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
            (["m-f16.gguf", "m-q4_0.gguf", "m-iq1_s.gguf"], "m-q4_0.gguf"),
            (["mmproj-model-f16.gguf", "model.gguf"], "model.gguf"),
            (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], "m-00001-of-00002.gguf"),
            (["Q8_0/m.gguf", "sub/n.gguf"], "Q8_0/m.gguf"),
            (["mmproj.gguf", "m-00002-of-00002.gguf"], None),
            ([], None),
        ],
    )
    def test_one_of_several_files_is_taken_by_a_fixed_rule(
        self, names: list[str], taken: str | None
    ) -> None:
        assert choose_gguf(names, None) == taken

    def test_a_file_asked_for_by_name_is_taken(self) -> None:
        assert choose_gguf(["a.gguf", "sub/b.gguf"], "b.gguf") == "sub/b.gguf"
        assert choose_gguf(["a.gguf", "sub/b.gguf"], "sub/b.gguf") == "sub/b.gguf"

    def test_a_name_that_is_not_there_is_told_with_those_that_are(self) -> None:
        with pytest.raises(StartupError, match=r"--model-gguf c\.gguf: .* the model has a\.gguf"):
            choose_gguf(["a.gguf"], "c.gguf")

    def test_parts_of_a_split_model_are_counted_from_one(self) -> None:
        assert parts("x/m-00001-of-00003.gguf") == [f"x/m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
        assert parts("m.gguf") == ["m.gguf"]


class TestLocalModels:
    def test_a_folder_gives_its_gguf_and_its_tokenizer_files(self, tmp_path: Path) -> None:
        make(tmp_path, "m.gguf", "tokenizer.json")
        found = find_model(local(tmp_path))
        assert (found.gguf, found.folder, found.sha) == (tmp_path / "m.gguf", tmp_path, None)

    def test_a_folder_with_several_says_which_it_took(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make(tmp_path, "b.gguf", "a.gguf")
        caplog.set_level(logging.INFO)
        assert find_model(local(tmp_path)).gguf == tmp_path / "a.gguf"
        assert caplog.messages == ["2 GGUF files, taking a.gguf; --model-gguf names another"]

    def test_model_gguf_may_name_a_file_of_the_folder_or_one_elsewhere(
        self, tmp_path: Path
    ) -> None:
        model = make(tmp_path / "model", "a.gguf", "b.gguf")
        other = make(tmp_path / "other", "c.gguf") / "c.gguf"
        assert find_model(local(model, "b.gguf")).gguf == model / "b.gguf"
        found = find_model(local(model, other))
        assert (found.gguf, found.folder) == (other, model)

    def test_a_folder_without_a_gguf_names_the_flag(self, tmp_path: Path) -> None:
        make(tmp_path, "model.safetensors")
        with pytest.raises(StartupError, match=r"no GGUF file in this folder.*--model-gguf"):
            find_model(local(tmp_path))

    def test_a_file_alone_in_its_folder_has_the_tokenizer_beside_it(self, tmp_path: Path) -> None:
        make(tmp_path, "m.gguf", "tokenizer.json")
        assert find_model(local(tmp_path / "m.gguf")).folder == tmp_path

    def test_a_file_among_others_is_read_by_itself(self, tmp_path: Path) -> None:
        make(tmp_path, "m.gguf", "n.gguf", "tokenizer.json")
        found = find_model(local(tmp_path / "m.gguf"))
        assert (found.gguf, found.folder) == (tmp_path / "m.gguf", None)

    def test_a_split_model_must_be_whole(self, tmp_path: Path) -> None:
        make(tmp_path, "m-00001-of-00003.gguf", "m-00003-of-00003.gguf")
        with pytest.raises(StartupError, match=r"1 parts are missing: .*m-00002-of-00003\.gguf"):
            find_model(local(tmp_path))
        make(tmp_path, "m-00002-of-00003.gguf")
        assert find_model(local(tmp_path)).gguf.name == "m-00001-of-00003.gguf"

    @pytest.mark.parametrize("model_id", ["/no/such/folder", "no/such/file.gguf", "a/b/c"])
    def test_what_is_not_there_is_one_sentence(self, model_id: str) -> None:
        with pytest.raises(StartupError, match="there is no such file or folder"):
            find_model(local(model_id))

    def test_a_file_that_is_no_gguf_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path, "model.safetensors")
        with pytest.raises(StartupError, match=r"a file must be a \.gguf"):
            find_model(local(tmp_path / "model.safetensors"))

    def test_two_different_files_contradict_each_other(self, tmp_path: Path) -> None:
        make(tmp_path, "a.gguf", "b.gguf")
        with pytest.raises(StartupError, match="name different files"):
            find_model(local(tmp_path / "a.gguf", tmp_path / "b.gguf"))

    def test_a_missing_model_gguf_is_one_sentence(self, tmp_path: Path) -> None:
        make(tmp_path, "a.gguf")
        with pytest.raises(StartupError, match=r"--model-gguf /no/x\.gguf: there is no such file"):
            find_model(local(tmp_path, "/no/x.gguf"))


REPOSITORIES: dict[str, dict[str, bytes]] = {
    "org/model": {
        "README.md": b"read me",
        "m-Q2_K.gguf": b"GGUF two",
        "m-Q4_K_M.gguf": b"GGUF four",
        "tokenizer.json": b"{}",
        "generation_config.json": b"{}",
        "pytorch_model.bin": b"weights",
    },
    "org/split": {"m-00001-of-00002.gguf": b"GGUF 1", "m-00002-of-00002.gguf": b"GGUF 2"},
    "org/safetensors": {"model.safetensors": b"weights", "tokenizer.json": b"{}"},
}


class HubClient:
    """find_model in a process of its own, since huggingface_hub reads its variables once."""

    SCRIPT = """
import json, logging, sys
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.model_files import find_model
logging.basicConfig(level=logging.INFO, format="%(message)s")
for line in sys.stdin:
    try:
        found = find_model(ServerConfig(**json.loads(line)))
        answer = {"gguf": str(found.gguf), "folder": found.folder and str(found.folder),
                  "sha": found.sha, "tag": found.pipeline_tag}
    except StartupError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""

    def __init__(self, endpoint: str, cache: Path, **environ: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT],
            env=os.environ
            | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
            | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def find(self, **config: str) -> dict[str, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(config) + "\n")
        self._process.stdin.flush()
        answer: dict[str, str] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_hub(REPOSITORIES, SHA) as url:
        yield url


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def hub(endpoint: str, cache: Path) -> Iterator[HubClient]:
    client = HubClient(endpoint, cache)
    yield client
    client.close()


class TestHubModels:
    def test_one_gguf_and_the_text_files_are_downloaded(self, hub: HubClient, cache: Path) -> None:
        found = hub.find(model_id="org/model")
        folder = Path(found["folder"])
        assert Path(found["gguf"]) == folder / "m-Q4_K_M.gguf"
        assert Path(found["gguf"]).read_bytes() == b"GGUF four"
        assert {path.name for path in folder.iterdir()} == {
            "m-Q4_K_M.gguf",
            "tokenizer.json",
            "generation_config.json",
        }
        assert folder.is_relative_to(cache)
        assert (found["sha"], found["tag"]) == (SHA, "text-generation")

    def test_another_file_of_the_repository_may_be_named(self, hub: HubClient) -> None:
        found = hub.find(model_id="org/model", model_gguf="m-Q2_K.gguf")
        assert Path(found["gguf"]).read_bytes() == b"GGUF two"

    def test_all_parts_of_a_split_model_are_downloaded(self, hub: HubClient) -> None:
        first = Path(hub.find(model_id="org/split")["gguf"])
        assert first.name == "m-00001-of-00002.gguf"
        assert (first.parent / "m-00002-of-00002.gguf").read_bytes() == b"GGUF 2"

    def test_local_weights_are_served_with_the_hubs_tokenizer(
        self, hub: HubClient, tmp_path: Path
    ) -> None:
        gguf = make(tmp_path, "w.gguf") / "w.gguf"
        found = hub.find(model_id="org/safetensors", model_gguf=str(gguf))
        assert found["gguf"] == str(gguf)
        assert (Path(found["folder"]) / "tokenizer.json").is_file()

    def test_local_weights_are_served_without_the_hub_too(
        self, hub: HubClient, tmp_path: Path
    ) -> None:
        gguf = make(tmp_path, "w.gguf") / "w.gguf"
        found = hub.find(model_id="org/nothing", model_gguf=str(gguf))
        assert (found["gguf"], found["folder"]) == (str(gguf), None)

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"model_id": "org/safetensors"}, "no GGUF file in this repository"),
            ({"model_id": "org/safetensors"}, "--model-gguf"),
            ({"model_id": "org/nothing"}, "the Hub has no such model, or it is private"),
            ({"model_id": "org/gated"}, "set HF_TOKEN to a token that has it"),
            ({"model_id": "org/model", "revision": "v9"}, "it has no revision v9"),
            ({"model_id": "org/model", "model_gguf": "x.gguf"}, "the model has m-Q2_K.gguf"),
        ],
    )
    def test_what_the_hub_refuses_is_one_sentence(
        self, hub: HubClient, config: dict[str, str], reason: str
    ) -> None:
        message = hub.find(**config)["error"]
        assert reason in message
        assert "\n" not in message

    def test_without_the_hub_the_cache_serves(self, hub: HubClient, cache: Path) -> None:
        hub.find(model_id="org/model")
        offline = HubClient("http://127.0.0.1:9", cache, HF_HUB_OFFLINE="1")
        found = offline.find(model_id="org/model")
        missing = offline.find(model_id="org/safetensors-2")
        offline.close()
        assert Path(found["gguf"]).read_bytes() == b"GGUF four"
        assert "the Hub cannot be reached" in missing["error"]
