"""The models of `make test-models`: every GGUF of a folder that generates text, served once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import tgi_llamacpp.native
from tests.exact_model import EXACT_KV
from tests.llamacpp_source import llamacpp_source as llamacpp_source
from tests.models.fetch import FOLDER_VARIABLE, models_folder
from tests.models.plain_loop import PlainLoop, build_plain_loop
from tests.server_process import ServerProcess
from tgi_llamacpp.engine.faults import INTEGRITY_VARIABLE
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, read_metadata

NUM_CELLS = 4096  # of the longest conversation
MAX_BATCH_SIZE = 8
MAX_PERMITS = 64
# For models without a chat template, so that they can be had through the door of chats too.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}assistant:"
)
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class RealModel:
    path: Path
    metadata: GgufMetadata

    @property
    def max_total_tokens(self) -> int:
        return min(NUM_CELLS, self.metadata.context_length or NUM_CELLS)

    @property
    def has_template(self) -> bool:
        return bool(self.metadata.chat_templates)

    @property
    def keeps_beginnings(self) -> bool:
        """Whether a part of what was computed is of use; a recurrent state is of use only whole."""
        names = (f"{self.metadata.architecture}.{name}" for name in ("ssm.", "wkv.", "shortconv."))
        return not any(key.startswith(name) for name in names for key in self.metadata.values)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "gguf" in metafunc.fixturenames:
        paths: list[Path | None] = [*_models(models_folder())]
        ids = [path.name for path in paths if path is not None] or ["none"]
        metafunc.parametrize("gguf", paths or [None], ids=ids, scope="session")


def _models(folder: Path) -> list[Path]:
    """Each file, or the first part of several."""
    paths = sorted(folder.glob("**/*.gguf"))
    return [path for path in paths if _LATER_PART.search(path.name) is None]


@pytest.fixture(scope="session")
def model(gguf: Path | None) -> RealModel:
    if gguf is None:
        pytest.fail(f"{models_folder()} has no GGUF: run `make models`, or set {FOLDER_VARIABLE}")
    try:
        return RealModel(gguf, read_metadata(gguf))
    except StartupError as error:
        if "which generates no text" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def plain_loop_program(llamacpp_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    libraries = Path(tgi_llamacpp.native._build_info.__file__).parent / "lib"
    return build_plain_loop(llamacpp_source, libraries, tmp_path_factory.mktemp("plain_loop"))


@pytest.fixture(scope="session")
def plain_loop(model: RealModel, plain_loop_program: Path) -> Iterator[PlainLoop]:
    with PlainLoop(plain_loop_program, model.path, model.max_total_tokens) as loop:
        yield loop


@dataclass(frozen=True)
class Served:
    """A server of the model, and its settings, which a reload reads again."""

    process: ServerProcess
    config: Path
    model: RealModel
    client: httpx.Client

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer, which must be a 200."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def engine_pid(self) -> int:
        """Of the engine that was started last."""
        return int(re.findall(r"engine \d+ started, pid (\d+)", self.process.text)[-1])

    def name_model(self, path: Path) -> None:
        """In the settings, for the next reload."""
        write_settings(self.config, path, self.model)


def write_settings(config: Path, path: Path, model: RealModel) -> None:
    lines = [f"model-id = {json.dumps(str(path))}"]
    if not model.has_template:
        template = config.with_name("tokenizer_config.json")
        template.write_text(json.dumps({"chat_template": PLAIN_TEMPLATE}))
        lines.append(f"tokenizer-config-path = {json.dumps(str(template))}")
    config.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def served(model: RealModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = tmp_path_factory.mktemp("served") / "server.toml"
    write_settings(config, model.path, model)
    flags = (
        f"--config={config}",
        f"--max-batch-size={MAX_BATCH_SIZE}",
        f"--max-concurrent-requests={MAX_PERMITS}",
        f"--max-total-tokens={model.max_total_tokens}",
        f"--max-input-tokens={model.max_total_tokens - 64}",
        "--cache-ram=16",  # full soon, so that it is no growth of the memory
    )
    with ServerProcess("serve", *EXACT_KV, *flags, **{INTEGRITY_VARIABLE: "1"}) as process:
        with httpx.Client(base_url=process.url, timeout=600) as client:
            yield Served(process, config, model, client)
        assert process.stop() == 0
        assert "Traceback" not in process.text
