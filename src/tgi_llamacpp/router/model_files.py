"""Finding a model's files: --model-id, --revision and --model-gguf become paths.

Owns the rule which of several GGUF files is taken. Reads no file's content; the Hub is
hub_files.py's affair. Called once, by the router as it starts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router import hub_files

logger = logging.getLogger(__name__)

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Files of a model's repository that are no weights of a language model.
_SIDE_FILES = ("mmproj", "imatrix")
# What is taken where there is a choice: the usual compromise, then TGI's own quantization.
_PREFERRED = ("q4_k_m", "q4_0")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the model lies. Split weights are named by their first part."""

    gguf: Path
    folder: Path | None  # may hold tokenizer.json, generation_config.json and so on
    sha: str | None = None  # the Hub's commit
    pipeline_tag: str | None = None  # the Hub's


def find_model(config: ServerConfig) -> ModelFiles:
    """The files to serve, downloaded where they are on the Hub.

    Raises StartupError: nothing there, or no GGUF among it.
    """
    source = Path(config.model_id).expanduser()
    if source.is_dir():
        return ModelFiles(_local_gguf(source, config.model_gguf), source)
    if source.is_file():
        return _single_file(source, config.model_gguf)
    if not _is_hub_id(config.model_id):
        raise StartupError(f"--model-id {config.model_id}: there is no such file or folder")
    return _from_hub(config)


def choose_gguf(names: Iterable[str], asked: str | None) -> str | None:
    """The file to take of those in a folder or repository; None where none is a language model.

    One asked for by name, else a Q4_K_M, else a Q4_0, else the first in order. A model in several
    parts counts as one file, its first.
    Raises StartupError: the one asked for is not among them.
    """
    choices = sorted(name for name in names if _is_weights(name))
    if asked is not None:
        for name in choices:
            if asked in (name, Path(name).name):
                return name
        raise StartupError(_not_found(asked, choices))
    for wanted in _PREFERRED:
        for name in choices:
            if wanted in name.lower().replace("-", "_"):
                return name
    return choices[0] if choices else None


def parts(name: str) -> list[str]:
    """The names of all parts of a model, which is `name` alone where it is not split."""
    match = _SPLIT.search(name)
    if match is None:
        return [name]
    total = match[2]
    stem = name[: match.start()]
    return [f"{stem}-{i:05}-of-{total}{name[-5:]}" for i in range(1, int(total) + 1)]


def _is_weights(name: str) -> bool:
    """Whether it is a GGUF of a language model, and no later part of one."""
    file = Path(name).name.lower()
    if not file.endswith(".gguf") or any(side in file for side in _SIDE_FILES):
        return False
    match = _SPLIT.search(file)
    return match is None or int(match[1]) == 1


def _is_hub_id(model_id: str) -> bool:
    return _HUB_ID.fullmatch(model_id) is not None and not model_id.endswith(".gguf")


def _single_file(gguf: Path, asked: str | None) -> ModelFiles:
    """--model-id names a GGUF. Its folder's tokenizer is its own only where it is alone there."""
    if gguf.suffix.lower() != ".gguf":
        raise StartupError(f"--model-id {gguf}: a file must be a .gguf")
    if asked is not None and Path(asked).resolve() != gguf.resolve():
        raise StartupError(f"--model-id {gguf} and --model-gguf {asked} name different files")
    _check_parts(gguf)
    models = [path for path in gguf.parent.glob("*.gguf") if _is_weights(path.name)]
    return ModelFiles(gguf, gguf.parent if models == [gguf] else None)


def _local_gguf(folder: Path, asked: str | None) -> Path:
    """The weights that go with a local folder."""
    if asked is not None and Path(asked).expanduser().is_file():
        return _asked_file(asked)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]
    name = choose_gguf(names, asked)
    if name is None:
        raise StartupError(
            f"--model-id {folder}: no GGUF file in this folder; name one with --model-gguf"
        )
    _log_choice(names, name)
    _check_parts(folder / name)
    return folder / name


def _asked_file(asked: str) -> Path:
    path = Path(asked).expanduser()
    if not path.is_file():
        raise StartupError(f"--model-gguf {asked}: there is no such file")
    _check_parts(path)
    return path


def _from_hub(config: ServerConfig) -> ModelFiles:
    """A Hub model: its small files, and its weights unless --model-gguf is a local path."""
    asked = config.model_gguf
    if asked is not None and (Path(asked).expanduser().is_file() or _looks_local(asked)):
        return _local_weights_of_hub_model(config, asked)
    repository = hub_files.open_repository(config.model_id, config.revision)
    name = choose_gguf(repository.names, config.model_gguf)
    if name is None:
        raise StartupError(
            f"--model-id {config.model_id}: no GGUF file in this repository of the Hub;"
            " name one with --model-gguf, or serve a repository that has one"
        )
    _log_choice(repository.names, name)
    folder = repository.download_text_files()
    paths = [repository.download(part) for part in parts(name)]
    return ModelFiles(paths[0], folder, repository.sha, repository.pipeline_tag)


def _local_weights_of_hub_model(config: ServerConfig, asked: str) -> ModelFiles:
    """TGI's usual form: the weights are here, the tokenizer on the Hub.

    Without the Hub the GGUF's own tokenizer does, since a GGUF is complete in itself.
    """
    gguf = _asked_file(asked)
    try:
        repository = hub_files.open_repository(config.model_id, config.revision)
        folder = repository.download_text_files()
    except StartupError as error:
        logger.warning("%s; using the tokenizer in %s instead", error, gguf)
        return ModelFiles(gguf, None)
    return ModelFiles(gguf, folder, repository.sha, repository.pipeline_tag)


def _looks_local(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _check_parts(gguf: Path) -> None:
    missing = [part for part in parts(str(gguf)) if not Path(part).is_file()]
    if missing:
        raise StartupError(f"{gguf} is split, and {len(missing)} parts are missing: {missing[0]}")


def _log_choice(names: Iterable[str], taken: str) -> None:
    num_models = sum(map(_is_weights, names))
    if num_models > 1:
        logger.info("%d GGUF files, taking %s; --model-gguf names another", num_models, taken)


def _not_found(asked: str, choices: list[str]) -> str:
    if not choices:
        return f"--model-gguf {asked}: there is no such file, and no GGUF beside the model"
    listed = ", ".join(choices[:8]) + (", ..." if len(choices) > 8 else "")
    return f"--model-gguf {asked}: there is no such file; the model has {listed}"
