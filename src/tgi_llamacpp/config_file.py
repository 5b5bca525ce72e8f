"""The file of --config: TOML, one key a setting, named as its flag is.

Turns each value into the text that a command line would have for it, so that flags.py reads both by
the same rules. Knows no flag. Called by flags.py, at the start and at every SIGHUP.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass

from tgi_llamacpp.errors import UsageError
from tgi_llamacpp.files import path_of, why, without_mark

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it is written, and its value as a command line would have it."""

    key: str
    text: str | list[str]


def read(path: str) -> dict[str, Entry]:
    """What the file sets, by field: `max-total-tokens` and `max_total_tokens` are one.

    Raises UsageError: there is no such file, it is no TOML, or a value is no text, number, boolean
    or list of texts.
    """
    entries: dict[str, Entry] = {}
    for key, value in _load(path).items():
        name = key.replace("-", "_")
        if name in entries:
            raise UsageError(
                f"--config {path}: `{entries[name].key}` and `{key}` are the same setting: keep one"
            )
        entries[name] = Entry(key, _text(path, key, value))
    return entries


def _load(path: str) -> dict[str, object]:
    try:
        with path_of(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        reason = why(path_of(path), error)
        raise UsageError(f"--config {path} cannot be read: {reason}") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"--config {path} is longer than {_MAX_BYTES} bytes: is it the right one?")
    try:
        return tomllib.loads(without_mark(data).decode())
    except (ValueError, RecursionError) as error:  # both of TOML and of UTF-8
        raise UsageError(
            f"--config {path} is no TOML: {error}; write one `key = value` a line, and quote texts"
        ) from error


def _text(path: str, key: str, value: object) -> str | list[str]:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return _as_argument(path, key, str(value))
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [_as_argument(path, key, item) for item in value]
    if isinstance(value, dict):
        raise UsageError(f"--config {path}: `{key}` is a table: write its keys without one")
    raise UsageError(
        f"--config {path}: `{key}` must be a text, a number, true or false, or a list of texts"
    )


def _as_argument(path: str, key: str, text: str) -> str:
    """As Python has it from a command line: decoded from the bytes by the locale's encoding."""
    if "\0" in text:
        raise UsageError(f"--config {path}: `{key}` has a zero byte")
    return os.fsdecode(text.encode())
