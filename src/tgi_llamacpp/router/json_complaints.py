"""The words of TGI's JSON parser for values and places. Called by the reader and the shapes."""

from __future__ import annotations

from tgi_llamacpp.router import json_format


def describe_scalar(value: object) -> str:
    """A value that is neither object nor array, as TGI's messages name it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{json_format.float64(value)}`"
    return f"string {debug_quote(str(value))}"


def debug_quote(text: str) -> str:
    """`text` in double quotes, with everything that is not printable escaped."""
    return '"' + "".join(map(_debug_character, text)) + '"'


def _debug_character(character: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0", '"': '\\"', "\\": "\\\\"}
    if character in named:
        return named[character]
    return character if character.isprintable() else f"\\u{{{ord(character):x}}}"


def path_text(path: list[str | int]) -> str:
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return "".join(parts).removeprefix(".")
