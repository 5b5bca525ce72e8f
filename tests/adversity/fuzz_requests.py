"""Requests beyond what the OpenAPI document allows, each from a seed and its number alone.

A request begins as one that fits the document; then values, keys, bytes, headers, path and method
go wrong, some or none of them. `smaller` gives what a failing request can be reduced to.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Json = Any
Headers = tuple[tuple[bytes, bytes], ...]

_SHORT = {"max_tokens", "max_new_tokens"}
_OTHER_SHORT = {"max_completion_tokens", "n_predict", "min_tokens"}
_FEW = {"n", "n_cmpl", "best_of"}
_MAX_DEPTH = 6
_WORDS = (
    "stone",
    "river",
    "Ünïcødé",
    "日本語",
    "🙂",
    "\u202e",
    "the",
    "<|im_end|>",
    "\x00",
    "{{7*7}}",
)
_NUMBERS = (0, 1, -1, 2, 0.5, -0.0, 1e-45, 3.4e38, 1e308, 2**31, 2**32, 2**53, 2**63, 2**64, 10**40)
_TYPES = (
    b"application/json; charset=utf-16",
    b"text/plain",
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x",
    b"application/json, text/html",
    b"\xff\xfe",
    b"",
)
_NAMES = (b"Accept", b"Authorization", b"Content-Encoding", b"Cookie", b"Expect", b"Forwarded")
_MORE_NAMES = (b"Origin", b"Range", b"Upgrade", b"X-Forwarded-For", b"X-Request-Timeout", b"x-")
_METHODS = ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "GET", "POST", "TRACE")
_PATHS = ("/..%2f..%2fetc/passwd", "/%00", "/%ff%fe", "//", "/generate/", "/*", "/" + "a" * 5000)


@dataclasses.dataclass(frozen=True)
class FuzzRequest:
    """As it goes on the wire, but for Host, Content-Length and Connection."""

    method: str
    path: str
    headers: Headers
    content: bytes

    def wire(self) -> bytes:
        head = f"{self.method} {self.path} HTTP/1.1\r\n".encode()
        own = [(b"Host", b"fuzz"), (b"Connection", b"close")]
        own.append((b"Content-Length", str(len(self.content)).encode()))
        lines = [name + b": " + value + b"\r\n" for name, value in (*own, *self.headers)]
        return head + b"".join(lines) + b"\r\n" + self.content


class RequestMaker:
    """Draws requests to the operations of one OpenAPI document."""

    def __init__(self, document: Json, seed: int) -> None:
        self._seed = seed
        self._schemas = document["components"]["schemas"]
        found = [
            (method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        self._with_body = [one for one in found if "requestBody" in one[2]]
        self._others = [one for one in found if "requestBody" not in one[2]]

    def make(self, number: int) -> FuzzRequest:
        dice = random.Random(f"{self._seed}.{number}")
        method, path, operation = dice.choice(
            self._with_body if dice.random() < 0.9 else self._others
        )
        path = path.replace("{", "").replace("}", "")
        content = self._content(dice, operation)
        headers: Headers = ((b"Content-Type", b"application/json"),)
        if dice.random() < 0.15:
            headers = tuple(_any_headers(dice))
        if dice.random() < 0.03:
            method = dice.choice(_METHODS)
        if dice.random() < 0.03:
            path = dice.choice(_PATHS)
        return FuzzRequest(method, path, headers, content)

    def _content(self, dice: random.Random, operation: Json) -> bytes:
        if "requestBody" not in operation:
            return b"" if dice.random() < 0.8 else dice.randbytes(20)
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = self._value(dice, schema, "", 0)
        for _ in range(dice.choice((0, 0, 1, 1, 1, 2, 3))):
            body = _mutated(dice, body)
        content = json.dumps(body, ensure_ascii=dice.random() < 0.5).encode(errors="surrogatepass")
        return _damaged(dice, content) if dice.random() < 0.2 else content

    def _value(self, dice: random.Random, schema: Json, name: str, depth: int) -> Json:
        """A value that fits the schema, as far as schemas of this document go."""
        if name in _SHORT or name in _OTHER_SHORT:
            return dice.randint(1, 6)
        if name in _FEW:
            return dice.randint(1, 2)
        if "$ref" in schema:
            return self._value(dice, self._schemas[schema["$ref"].rpartition("/")[2]], name, depth)
        for either in ("oneOf", "anyOf"):
            if either in schema:
                return self._value(dice, dice.choice(schema[either]), name, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return dice.choice(schema["enum"])
        kind = schema.get("type", "any")
        kind = dice.choice(kind) if isinstance(kind, list) else kind
        return self._of_type(dice, kind, schema, depth)

    def _of_type(self, dice: random.Random, kind: str, schema: Json, depth: int) -> Json:
        if kind == "object":
            return self._object(dice, schema, depth)
        if kind == "array":
            item = schema.get("items", {})
            return [self._value(dice, item, "", depth + 1) for _ in range(dice.randint(0, 3))]
        if kind == "string":
            return _text(dice)
        if kind in ("integer", "number"):
            return _number(dice, kind, schema)
        if kind == "boolean":
            return dice.random() < 0.5
        return None if kind == "null" else _junk(dice, depth)

    def _object(self, dice: random.Random, schema: Json, depth: int) -> Json:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        num_optional = dice.choice((0, 1, 2, 3, 6)) if depth < _MAX_DEPTH else 0
        optional = [name for name in properties if name not in required]
        names = [*required, *dice.sample(optional, min(num_optional, len(optional)))]
        # Short answers, wherever an answer has a length: the server is the same for long ones.
        names += [name for name in _SHORT if name in properties and name not in names]
        return {
            name: self._value(dice, properties.get(name, {}), name, depth + 1) for name in names
        }


def smaller(request: FuzzRequest) -> Iterator[FuzzRequest]:
    """Requests that have one thing less, the larger things first."""
    for i in range(len(request.headers)):
        kept = request.headers[:i] + request.headers[i + 1 :]
        yield dataclasses.replace(request, headers=kept)
    try:
        body = json.loads(request.content)
    except (ValueError, RecursionError):
        half = len(request.content) // 2
        if half:
            yield dataclasses.replace(request, content=request.content[:half])
            yield dataclasses.replace(request, content=request.content[half:])
        return
    for less in _less(body):
        yield dataclasses.replace(request, content=json.dumps(less).encode())


def _less(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
        for key in value:
            yield from ({**value, key: inner} for inner in _less(value[key]))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield value[:i] + value[i + 1 :]
        for i, item in enumerate(value):
            yield from ([*value[:i], inner, *value[i + 1 :]] for inner in _less(item))
    elif isinstance(value, str) and len(value) > 1:
        yield value[: len(value) // 2]


def _text(dice: random.Random) -> str:
    if dice.random() < 0.02:
        return dice.choice(_WORDS) * dice.choice((300, 3000))
    return " ".join(dice.choices(_WORDS, k=dice.randint(0, 6)))


def _number(dice: random.Random, kind: str, schema: Json) -> Json:
    if dice.random() < 0.2:
        return dice.choice(_NUMBERS)
    low = max(schema.get("minimum", 0), -3)
    high = min(schema.get("maximum", 3), 3)
    return dice.randint(int(low), int(high)) if kind == "integer" else dice.uniform(low, high)


def _junk(dice: random.Random, depth: int = 0) -> Json:
    """Any value at all, of any type."""
    kind = dice.randint(0, 7 if depth < _MAX_DEPTH else 5)
    if kind <= 1:
        return dice.choice(_NUMBERS) * dice.choice((1, -1))
    if kind <= 3:
        return _text(dice)
    if kind == 4:
        return dice.choice((None, True, False, float("nan"), float("inf"), "\ud800", [], {}))
    if kind == 5:
        return dice.choice(("auto", "none", "required", "json_object", "text", "user", "system"))
    if kind == 6:
        return [_junk(dice, depth + 1) for _ in range(dice.randint(0, 4))]
    return {_text(dice): _junk(dice, depth + 1) for _ in range(dice.randint(0, 4))}


def _mutated(dice: random.Random, value: Json) -> Json:
    """A copy in which one place is another: a value, a key more, or a key or an item less."""
    inside = isinstance(value, (dict, list)) and len(value) > 0
    if inside and dice.random() < 0.85:
        key = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if dice.random() < 0.1:
            del copy[key]
        else:
            copy[key] = _mutated(dice, copy[key])
        return copy
    if isinstance(value, dict) and dice.random() < 0.3:
        return {**value, _text(dice): _junk(dice)}
    if isinstance(value, list) and dice.random() < 0.3:
        return [*value, *value, _junk(dice)]
    return _junk(dice)


def _cut(dice: random.Random, content: bytes) -> bytes:
    return content[: dice.randint(0, len(content))]


def _flip(dice: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _insert(dice: random.Random, content: bytes) -> bytes:
    at = dice.randint(0, len(content))
    more = dice.choice(
        (b"\xff", b"\x00", b"\\ud800", b"1e999", b"[" * 3000, b"//", b'"', b"\xef\xbb\xbf")
    )
    return content[:at] + more + content[at:]


def _repeat(dice: random.Random, content: bytes) -> bytes:
    return content + content


def _nest(dice: random.Random, content: bytes) -> bytes:
    depth = dice.choice((10, 1000, 100_000))
    return b'{"a":' * depth + content + b"}" * dice.choice((0, depth))


_DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _cut,
    _flip,
    _insert,
    _repeat,
    _nest,
)


def _damaged(dice: random.Random, content: bytes) -> bytes:
    return dice.choice(_DAMAGES)(dice, content)


def _any_headers(dice: random.Random) -> Iterator[tuple[bytes, bytes]]:
    kind = dice.choice(_TYPES) if dice.random() < 0.6 else b"application/json"
    if dice.random() < 0.9:
        yield b"Content-Type", kind
    for _ in range(dice.randint(0, 4)):
        value = dice.choice(
            (b"", b"a, b;q=2", b"-1", b"9" * 400, b"\xff\xfe\x80", b"nan", b"x" * 9000)
        )
        yield dice.choice((*_NAMES, *_MORE_NAMES)), value
