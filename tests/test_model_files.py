"""Where a model's files are looked for, and which GGUF is taken."""

from __future__ import annotations

import codecs
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tgi_llamacpp
from tests.fake_hub import serve_hub
from tgi_llamacpp import config_file
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError, UsageError
from tgi_llamacpp.router.api_keys import ApiKeys
from tgi_llamacpp.router.chat import load_chat_template
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.hub_files import TEXT_FILES
from tgi_llamacpp.router.model_files import choose_gguf, find_model, parts
from tgi_llamacpp.router.tokenizer import load_tokenizer
from tgi_llamacpp.router.tokenizer_files import TokenizerFiles
from tgi_llamacpp.router.tokenizer_json import read_tokenizer_json

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
            (["MODEL.GGUF"], "MODEL.GGUF"),
            (["M-00002-OF-00002.GGUF", "M-00001-OF-00002.GGUF"], "M-00001-OF-00002.GGUF"),
            (["._a.gguf", "b.gguf", ".cache/a-q4_k_m.gguf"], "b.gguf"),
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

    def test_a_name_may_be_asked_for_in_other_letters_where_one_alone_has_them(self) -> None:
        assert choose_gguf(["sub/Model.GGUF", "b.gguf"], "model.gguf") == "sub/Model.GGUF"
        with pytest.raises(StartupError, match=r"the model has M\.gguf, m\.GGUF"):
            choose_gguf(["m.GGUF", "M.gguf"], "m.gguf")

    def test_a_name_that_is_not_there_is_told_with_those_that_are(self) -> None:
        with pytest.raises(StartupError, match=r"--model-gguf c\.gguf: .* the model has a\.gguf"):
            choose_gguf(["a.gguf"], "c.gguf")

    def test_parts_of_a_split_model_are_counted_from_one(self) -> None:
        assert parts("x/m-00001-of-00003.gguf") == [f"x/m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
        assert parts("m.gguf") == ["m.gguf"]
        assert parts("M-00001-OF-00002.GGUF")[1] == "M-00002-OF-00002.GGUF"
        assert parts("m-00001-of-00000.gguf") == ["m-00001-of-00000.gguf"]


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
        with pytest.raises(StartupError, match=r"3 parts, and 1 of .*: .*m-00002-of-00003\.gguf"):
            find_model(local(tmp_path))
        make(tmp_path, "m-00002-of-00003.gguf")
        assert find_model(local(tmp_path)).gguf.name == "m-00001-of-00003.gguf"

    @pytest.mark.parametrize("model_id", ["/no/such/folder", "no/such/file.gguf", "a/b/c"])
    def test_what_is_not_there_is_one_sentence(self, model_id: str) -> None:
        with pytest.raises(StartupError, match="there is no such file or folder"):
            find_model(local(model_id))

    def test_a_gguf_is_served_whatever_it_is_called(self, tmp_path: Path) -> None:
        """As those in the stores of other programs, which are named by their hash."""
        make(tmp_path, "sha256-0123")
        assert find_model(local(tmp_path / "sha256-0123")).gguf == tmp_path / "sha256-0123"

    @pytest.mark.parametrize(
        ("model_id", "advice"),
        [
            ("https://huggingface.co/org/model", "URLs are not read; give the Hub's id"),
            ("org/model:Q4_K_M", "give --model-id org/model, and the name of its file"),
            ("~nobody-of-this-name/m.gguf", "there is no such file or folder in /"),
        ],
    )
    def test_what_other_programs_take_is_met_with_advice(self, model_id: str, advice: str) -> None:
        with pytest.raises(StartupError) as error:
            find_model(local(model_id))
        assert advice in str(error.value)

    def test_a_relative_path_is_said_to_be_looked_for_where(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StartupError, match=f"no such file or folder in {tmp_path}$"):
            find_model(local("models/m.gguf"))
        make(tmp_path, "models/m.gguf")
        assert find_model(local("models/m.gguf")).gguf == Path("models/m.gguf")

    def test_a_tilde_is_the_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(make(tmp_path, "m.gguf", "f/n.gguf")))
        assert find_model(local("~/m.gguf", "~/m.gguf")).gguf == tmp_path / "m.gguf"
        assert find_model(local("~/f", "~/m.gguf")).gguf == tmp_path / "m.gguf"

    def test_dot_files_are_passed_over_unless_they_are_named(self, tmp_path: Path) -> None:
        make(tmp_path, "._a-q4_k_m.gguf", "b.gguf", ".Trash-0/c-q4_k_m.gguf", "tokenizer.json")
        assert find_model(local(tmp_path)).gguf == tmp_path / "b.gguf"
        assert find_model(local(tmp_path / "b.gguf")).folder == tmp_path  # it is alone there
        named = find_model(local(tmp_path, "._a-q4_k_m.gguf"))
        assert named.gguf == tmp_path / "._a-q4_k_m.gguf"

    def test_upper_case_suffixes_are_found(self, tmp_path: Path) -> None:
        make(tmp_path, "M-00001-of-00002.GGUF", "M-00002-of-00002.GGUF", "tokenizer.json")
        first = tmp_path / "M-00001-of-00002.GGUF"
        assert find_model(local(tmp_path)).gguf == first
        assert find_model(local(tmp_path, first.name)).gguf == first
        assert find_model(local(first)).folder == tmp_path

    def test_a_folder_named_as_a_file_is_searched_and_never_read(self, tmp_path: Path) -> None:
        make(tmp_path, "a.gguf/m.gguf", "b/c.gguf/d/e.txt")
        assert find_model(local(tmp_path / "a.gguf")).gguf == tmp_path / "a.gguf/m.gguf"
        with pytest.raises(StartupError, match="no GGUF file in this folder"):
            find_model(local(tmp_path / "b"))
        with pytest.raises(StartupError, match=r"c\.gguf is a folder; name the \.gguf file in it"):
            find_model(local(tmp_path, tmp_path / "b/c.gguf"))

    def test_an_empty_folder_in_the_place_of_a_file_is_told_from_others(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "m.gguf").mkdir()
        with pytest.raises(StartupError, match="as a container has where the file to mount"):
            find_model(local(tmp_path / "m.gguf"))

    def test_a_folder_without_a_model_of_language_names_what_it_has(self, tmp_path: Path) -> None:
        make(tmp_path, "mmproj-f16.gguf")
        with pytest.raises(StartupError, match=r"no first part .* such as mmproj-f16\.gguf"):
            find_model(local(tmp_path))

    @pytest.mark.parametrize("asked", [None, "m.gguf"])
    def test_a_link_that_leads_nowhere_says_where(self, tmp_path: Path, asked: str | None) -> None:
        """As in a snapshot of the Hub's cache that was mounted without its blobs."""
        (tmp_path / "m.gguf").symlink_to("../../blobs/0123")
        for model_id in (tmp_path, tmp_path / "m.gguf"):
            with pytest.raises(
                StartupError, match=r"a link to \.\./\.\./blobs/0123, where there is"
            ):
                find_model(local(model_id, asked and tmp_path / asked))

    def test_a_folder_that_is_a_link_to_nowhere_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "models").symlink_to("/no/models")
        for model_id in (tmp_path / "models", tmp_path / "models/m.gguf"):
            with pytest.raises(StartupError, match=r"a link to /no/models, where there is nothing"):
                find_model(local(model_id))

    def test_a_broken_link_beside_the_model_harms_nobody(self, tmp_path: Path) -> None:
        make(tmp_path, "a.gguf")
        (tmp_path / "b.gguf").symlink_to("/no/b.gguf")
        assert find_model(local(tmp_path)).gguf == tmp_path / "a.gguf"

    def test_two_different_files_contradict_each_other(self, tmp_path: Path) -> None:
        make(tmp_path, "a.gguf", "b.gguf")
        with pytest.raises(StartupError, match="name different files"):
            find_model(local(tmp_path / "a.gguf", tmp_path / "b.gguf"))

    def test_a_missing_model_gguf_is_one_sentence(self, tmp_path: Path) -> None:
        make(tmp_path, "a.gguf")
        with pytest.raises(StartupError, match=r"--model-gguf /no/x\.gguf: there is no such file"):
            find_model(local(tmp_path, "/no/x.gguf"))


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder with a model that this process may not enter, root or not."""
    with tempfile.TemporaryDirectory() as name:
        folder = make(Path(name) / "closed", "m.gguf", "tokenizer.json")
        folder.parent.chmod(0o755)
        folder.chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o700)


class TestWhatMayNotBeRead:
    def test_a_file_and_a_folder_say_why_and_to_whom(self, closed: Path) -> None:
        demo = Path(tgi_llamacpp.__file__).parent / "demo"
        reason = rf"cannot be read: permission denied; the server runs as user {os.geteuid()}$"
        for config in (
            local(closed),
            local(closed / "m.gguf"),
            local(closed / "sub"),
            local(demo, closed / "m.gguf"),
            local("org/model", closed / "m.gguf"),
        ):
            with pytest.raises(StartupError, match=reason):
                find_model(config)

    def test_a_folder_below_matters_only_where_there_is_no_model_beside_it(
        self, closed: Path
    ) -> None:
        """As lost+found on a disk of its own."""
        with pytest.raises(StartupError, match=f"{closed} cannot be read: permission denied"):
            find_model(local(closed.parent))

    def test_tokenizer_files_and_keys_say_so_too(self, closed: Path) -> None:
        files = TokenizerFiles(closed, None)
        for read in (
            lambda: files.path("tokenizer.json"),
            files.chat_templates,
            files.special_tokens,
            lambda: TokenizerFiles(None, closed / "x.json").config,
            lambda: read_tokenizer_json(closed / "tokenizer.json"),
            lambda: ApiKeys(path=closed / "keys"),
        ):
            with pytest.raises(StartupError, match="cannot be read: permission denied"):
                read()
        with pytest.raises(UsageError, match="cannot be read: permission denied"):
            config_file.read(str(closed / "server.toml"))


def test_files_beside_the_model_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    for name in (*TEXT_FILES, "keys", "server.toml"):
        (tmp_path / name).symlink_to("/no/where")
    files = TokenizerFiles(tmp_path, None)
    told = "is a link to /no/where, where there is nothing"
    for name in TEXT_FILES:
        with pytest.raises(StartupError, match=f"{name} cannot be read: it {told}"):
            files.path(name)
    with pytest.raises(StartupError, match=told):
        ApiKeys(path=tmp_path / "keys")
    with pytest.raises(UsageError, match=told):
        config_file.read(str(tmp_path / "server.toml"))


UTF8, UTF16 = codecs.BOM_UTF8, codecs.BOM_UTF16_LE


@pytest.mark.parametrize(("mark", "encoding"), [(UTF8, "utf-8"), (UTF16, "utf-16-le")])
def test_byte_order_marks_are_passed_over_in_every_text(
    tmp_path: Path, mark: bytes, encoding: str
) -> None:
    """Editors and shells of Windows write them."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mark + text.encode(encoding))
        return path

    write("chat_template.jinja", "{{ 'é' }}")
    write("chat_templates/rag.jinja", "r")
    write("chat_templates/._rag.jinja", "what macOS leaves")
    write("tokenizer_config.json", '{"bos_token": "é"}')
    write("special_tokens_map.json", '{"eos_token": "e"}')
    write("generation_config.json", '{"eos_token_id": 3}')
    files = TokenizerFiles(tmp_path, None)
    assert files.chat_templates() == {"default": "{{ 'é' }}", "rag": "r"}
    assert files.special_tokens() == {"bos_token": "é", "eos_token": "e"}
    assert files.eos_ids() == [3]
    demo = Path(tgi_llamacpp.__file__).parent / "demo/tokenizer.json"
    tokenizer = read_tokenizer_json(write("tokenizer.json", demo.read_text("utf-8")))
    assert tokenizer.get_vocab_size() == read_tokenizer_json(demo).get_vocab_size()
    keys = ApiKeys(path=write("keys", "secret\n"))
    assert keys.scope_of(b"Bearer secret") is not None
    assert config_file.read(str(write("x.toml", "port = 81")))["port"].text == "81"


def test_the_mark_of_a_template_in_a_gguf_or_a_config_is_passed_over(tmp_path: Path) -> None:
    demo = read_metadata(Path(tgi_llamacpp.__file__).parent / "demo/demo.gguf")
    tokenizer = load_tokenizer(demo)
    marked = dataclasses.replace(demo, chat_templates={"default": "\ufeffhi"})
    assert load_chat_template(marked, tokenizer).render([]) == "hi"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "\\ufeffho"}')
    assert load_chat_template(marked, tokenizer, folder=tmp_path).render([]) == "ho"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer; fetch"),
        (b"\n<!DOCTYPE html><html>", "it is a web page; download the file itself"),
        (b"<HTML><head>", "it is a web page"),
        (b"\0" * 5000, "it is zeros, as of a download that did not finish"),
        (b"\0\5\x16\7" + b"\0" * 100, "what macOS keeps beside a file"),
        (b"tjgg" + b"\1" * 500, "a model in a format before GGUF"),
        (b"PK\3\4" + b"\1" * 500, "it is an archive; unpack it"),
        (b"\x40\1\0\0\0\0\0\0{" + b"x" * 500, "it is of Safetensors; convert it to GGUF"),
        (b"Invalid username or password.", "holds the text 'Invalid username or password.'; downl"),
        (b"Entry not found" + b"\1" * 500, "it begins with b'Entr'; give a .gguf file"),
        (b"GGUF\3\0\0\0", "is truncated"),
    ],
)
def test_what_is_saved_in_the_place_of_a_model_is_named(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(StartupError) as error:
        read_metadata(find_model(local(path)).gguf)
    assert reason in str(error.value)
    assert str(path) in str(error.value)


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
    "org/letters": {"._M.gguf": b"\0\5\x16\7", ".x/M.gguf": b"GGUF x", "M.GGUF": b"GGUF M"},
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

    def test_dot_files_are_passed_over_and_upper_case_is_found(self, hub: HubClient) -> None:
        for asked in ({}, {"model_gguf": "M.GGUF"}, {"model_gguf": "m.gguf"}):
            found = hub.find(model_id="org/letters", **asked)
            assert Path(found["gguf"]).read_bytes() == b"GGUF M"

    def test_a_cache_that_cannot_be_written_to_is_not_the_hubs_fault(
        self, endpoint: str, tmp_path: Path
    ) -> None:
        (tmp_path / "home").write_text("a file, where a folder is wanted")
        full = HubClient(endpoint, tmp_path / "home")
        message = full.find(model_id="org/model")["error"]
        full.close()
        assert "the Hub cannot be reached" not in message
        assert "set HF_HOME to a folder" in message

    def test_empty_variables_are_as_unset(self, endpoint: str, tmp_path: Path) -> None:
        client = HubClient(endpoint, tmp_path, HF_TOKEN="", HF_HUB_CACHE="", HF_HUB_OFFLINE="")
        found = client.find(model_id="org/model")
        client.close()
        assert Path(found["gguf"]).is_relative_to(tmp_path / "hub")

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
