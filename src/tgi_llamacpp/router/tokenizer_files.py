"""The JSON files that lie beside a model: tokenizer.json, tokenizer_config.json and their kin.

Finds and reads them, and says what they name as special tokens and as ends of a generation. Builds
no tokenizer and renders nothing. Called by tokenizer.py and chat.py as the router starts.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.files import find_below, kind, unreadable, without_mark

SPECIAL_TOKEN_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class TokenizerFiles:
    """One model's files. `config_path`, where given, stands for the folder's tokenizer_config.json.

    Reading raises StartupError for a file that is there and is no JSON object.
    """

    def __init__(self, folder: Path | None, config_path: Path | None) -> None:
        self._folder = folder
        self._config_path = config_path

    def path(self, name: str) -> Path | None:
        """The file of that name, if there is one.

        Raises StartupError: it cannot be told, or it is a link that leads nowhere.
        """
        if self._folder is None:
            return None
        path = self._folder / name
        return path if kind(path) == "file" else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json, {} where there is none."""
        if self._config_path is not None:
            return read_json(self._config_path)
        return self.read("tokenizer_config.json")

    @property
    def config_name(self) -> str:
        """What to call `config` in messages."""
        return str(self._config_path or "tokenizer_config.json")

    def read(self, name: str) -> dict[str, Any]:
        """The JSON object in the file of that name, {} where there is none."""
        path = self.path(name)
        return {} if path is None else read_json(path)

    def chat_templates(self) -> dict[str, str]:
        """The text of chat_template.jinja as `default`, and of those in chat_templates/ beside it.

        {} where there is no chat_template.jinja.
        """
        default = self.path("chat_template.jinja")
        if default is None:
            return {}
        folder = default.parent / "chat_templates"
        names, errors = find_below(folder) if kind(folder) == "folder" else ([], [])
        if errors:
            raise unreadable(folder, errors[0])
        named = [folder / name for name in names if Path(name).match("*.jinja")]
        return {path.stem: _read_text(path) for path in named} | {"default": _read_text(default)}

    def special_tokens(self) -> dict[str, str]:
        """The named special tokens that the files give, such as {"bos_token": "<s>"}."""
        config, token_map = self.config, self.read("special_tokens_map.json")
        texts = {name: _token_text(config.get(name)) for name in SPECIAL_TOKEN_NAMES}
        for name in SPECIAL_TOKEN_NAMES:
            if name not in config:  # null in the config means: none
                texts[name] = _token_text(token_map.get(name))
        return {name: text for name, text in texts.items() if text is not None}

    def eos_ids(self) -> list[int]:
        """generation_config.json's eos_token_id, which may be one id or several."""
        ids = self.read("generation_config.json").get("eos_token_id")
        ids = ids if isinstance(ids, list) else [ids]
        return [i for i in ids if isinstance(i, int) and not isinstance(i, bool)]


def read_bytes(path: Path) -> bytes:
    """What a text file holds, without its byte order mark.

    Raises StartupError: it cannot be read.
    """
    try:
        return without_mark(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        StartupError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise StartupError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(value, dict):
        raise StartupError(f"{path} holds no JSON object; download it again")
    return value


def _read_text(path: Path) -> str:
    return read_bytes(path).decode("utf-8", "replace")


def _token_text(value: object) -> str | None:
    """A token is a string, or an object with its text as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
