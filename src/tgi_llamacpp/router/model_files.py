"""Finding a model's files: --model-id, --revision and --model-gguf become paths.

Owns the rule which of several GGUF files is taken. Reads no file's content; the Hub is
hub_files.py's affair. Called once, by the router as it starts.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.files import Kind, find_below, kind, path_of, unreadable
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
    source = path_of(config.model_id)
    found = _local_kind(config.model_id)
    if found == "folder":
        return ModelFiles(_local_gguf(source, config.model_gguf), source)
    if found is not None:
        return _single_file(source, config.model_gguf)
    if not _is_hub_id(config.model_id):
        raise StartupError(_not_here(config.model_id))
    return _from_hub(config)


def choose_gguf(names: Iterable[str], asked: str | None) -> str | None:
    """The file to take of those in a folder or repository; None where none is a language model.

    One asked for by name, else a Q4_K_M, else a Q4_0, else the first in order. A model in several
    parts counts as one file, its first.
    Raises StartupError: the one asked for is not among them.
    """
    choices = sorted(name for name in names if _is_weights(name))
    if asked is not None:
        if (name := _named(asked, choices)) is not None:
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
    if match is None or int(match[2]) == 0:
        return [name]
    start, stop = match.span(1)
    return [f"{name[:start]}{i:05}{name[stop:]}" for i in range(1, int(match[2]) + 1)]


def _named(asked: str, choices: list[str]) -> str | None:
    """The one that is asked for: by its path, its name, or its name in other letters."""
    for name in choices:
        if asked in (name, Path(name).name):
            return name
    folded = asked.casefold()
    alike = [name for name in choices if folded in (name.casefold(), Path(name).name.casefold())]
    return alike[0] if len(alike) == 1 else None


def _is_gguf(name: str) -> bool:
    """Whether it is named as one, and no dot file, such as macOS leaves beside each file."""
    path = Path(name)
    is_hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() == ".gguf" and not is_hidden


def _is_weights(name: str) -> bool:
    """Whether it is a GGUF of a language model, and no later part of one."""
    file = Path(name).name.lower()
    if not _is_gguf(name) or any(side in file for side in _SIDE_FILES):
        return False
    match = _SPLIT.search(file)
    return match is None or int(match[1]) == 1


def _is_hub_id(model_id: str) -> bool:
    return _HUB_ID.fullmatch(model_id) is not None and not model_id.lower().endswith(".gguf")


def _local_kind(text: str) -> Kind | None:
    """What a setting names here. What may be meant for the Hub is not looked for where the working
    directory is closed to the server."""
    if not os.path.isabs(path_of(text)) and not os.access(os.curdir, os.X_OK):
        return None
    return kind(path_of(text))


def _single_file(gguf: Path, asked: str | None) -> ModelFiles:
    """--model-id names a GGUF. Its folder's tokenizer is its own only where it is alone there."""
    if asked is not None and os.path.realpath(path_of(asked)) != os.path.realpath(gguf):
        raise StartupError(f"--model-id {gguf} and --model-gguf {asked} name different files")
    _check_parts(gguf)
    return ModelFiles(gguf, gguf.parent if _models_in(gguf.parent) == [gguf.name] else None)


def _models_in(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _is_weights(name)]
    except OSError:  # it may be entered and not listed
        return []


def _local_gguf(folder: Path, asked: str | None) -> Path:
    """The weights that go with a local folder."""
    if asked is not None and _is_local(asked):
        return _asked_file(asked)
    if asked is not None and kind(folder / path_of(asked)) == "file":
        name = asked
    else:
        names, errors = find_below(folder)
        chosen = choose_gguf(names, asked) if names or not errors else None
        if chosen is None:
            raise _without_model(folder, names, errors)
        _log_choice(names, chosen)
        name = chosen
    _check_parts(folder / name)
    return folder / name


def _without_model(folder: Path, names: list[str], errors: list[OSError]) -> StartupError:
    """A folder was searched, and no language model was found."""
    if errors:
        return unreadable(Path(errors[0].filename), errors[0])
    others = [name for name in names if _is_gguf(name)]
    remedy = "name one with --model-gguf"
    if others:
        found = f"no first part of a language model among its GGUF files, such as {others[0]}"
    elif not names and folder.suffix.lower() == ".gguf":
        found = "it is an empty folder, as a container has where the file to mount was not found"
        remedy = "check the path on the host"
    else:
        found = "no GGUF file in this folder"
    return StartupError(f"--model-id {folder}: {found}; {remedy}")


def _asked_file(asked: str) -> Path:
    path = path_of(asked)
    found = kind(path)
    if found is None:
        raise StartupError(f"--model-gguf {asked}: there is no such file")
    if found == "folder":
        raise StartupError(f"--model-gguf {asked} is a folder; name the .gguf file in it")
    _check_parts(path)
    return path


def _from_hub(config: ServerConfig) -> ModelFiles:
    """A Hub model: its small files, and its weights unless --model-gguf is a local path."""
    asked = config.model_gguf
    if asked is not None and _is_local(asked):
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


def _is_local(asked: str) -> bool:
    """Whether --model-gguf is a path, and not the name of one of the model's files."""
    return asked.startswith(("/", "./", "../", "~")) or _local_kind(asked) == "file"


def _check_parts(gguf: Path) -> None:
    """All parts are there.

    Raises StartupError, also where a link leads nowhere.
    """
    names = parts(str(gguf))
    missing = [name for name in names if kind(Path(name)) is None]
    if missing:
        raise StartupError(
            f"{gguf} is one of {len(names)} parts, and {len(missing)} of them cannot be found:"
            f" {missing[0]}; download all parts"
        )


def _not_here(model_id: str) -> str:
    """Why a --model-id that is no file, folder or id of the Hub is not served."""
    if "://" in model_id:
        return f"--model-id {model_id}: URLs are not read; give the Hub's id, such as org/model"
    name, _, tag = model_id.partition(":")
    if tag and _is_hub_id(name):
        return (
            f"--model-id {model_id}: an id of the Hub has no tag; give --model-id {name}, and the"
            " name of its file as --model-gguf"
        )
    path = path_of(model_id)
    place = "" if path.is_absolute() else f" in {_working_directory()}"
    return f"--model-id {model_id}: there is no such file or folder{place}"


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "the working directory, which is gone"


def _log_choice(names: Iterable[str], taken: str) -> None:
    num_models = sum(map(_is_weights, names))
    if num_models > 1:
        logger.info("%d GGUF files, taking %s; --model-gguf names another", num_models, taken)


def _not_found(asked: str, choices: list[str]) -> str:
    if not choices:
        return f"--model-gguf {asked}: there is no such file, and no GGUF beside the model"
    listed = ", ".join(choices[:8]) + (", ..." if len(choices) > 8 else "")
    return f"--model-gguf {asked}: there is no such file; the model has {listed}"
