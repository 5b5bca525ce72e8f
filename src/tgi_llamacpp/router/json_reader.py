"""A JSON reader that stops where TGI's parser stops, with the same words, line and column.

It is the slow half of request decoding: router/shapes.py uses it only for a body that the C parsers
did not accept without doubt. Knows JSON and positions; what a request looks like is told to it by
the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from tgi_llamacpp.router.json_complaints import describe_scalar, path_text

MAX_DEPTH = 128
T = TypeVar("T")

_NEWLINE = b"\n"
_SPACE = re.compile(rb"[ \t\n\r]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES = {ord(k): v for k, v in zip('"\\/bfnrt', b'"\\/\b\f\n\r\t'.decode(), strict=True)}
_QUOTE, _BACKSLASH, _OBJECT, _ARRAY = b'"\\{['


class ReadError(Exception):
    """Why the body is no request. `index` is where the reader stood, None until it is known.

    `key` is the member that is missing or there twice, where that is the complaint.
    """

    def __init__(
        self,
        message: str,
        index: int | None = None,
        *,
        is_syntax: bool = False,
        key: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.index = index
        self.is_syntax = is_syntax
        self.key = key
        self.path: list[str | int] = []  # outermost first

    @property
    def field(self) -> str | None:
        """The member of the outermost object that is to blame, if one is."""
        if not self.path:
            return self.key
        return self.path[0] if isinstance(self.path[0], str) else None

    def inside(self, key: str | int) -> ReadError:
        """This error, met while reading the value of `key`."""
        self.path.insert(0, key)
        return self


class JsonReader:
    """A cursor over `data`. Every read method leaves the cursor behind the value it returns."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.index = 0
        self._depth = 0

    def describe(self, error: ReadError) -> str:
        """`{path}: {message} at line {l} column {c}`; the path only below the top."""
        text = path_text(error.path)
        where = ""
        if error.index is not None:
            before = self.data[: error.index]
            column = len(before) - before.rfind(b"\n") - 1
            where = f" at line {before.count(_NEWLINE) + 1} column {column}"
        return f"{text}: {error.message}{where}" if text else f"{error.message}{where}"

    def peek(self) -> int | None:
        """The next byte that is not white space, or None at the end."""
        match = _SPACE.match(self.data, self.index)
        assert match is not None
        self.index = match.end()
        return self.data[self.index] if self.index < len(self.data) else None

    def error_here(self, message: str) -> ReadError:
        """A syntax error at the last byte read."""
        return ReadError(message, self.index, is_syntax=True)

    def error_at_next(self, message: str) -> ReadError:
        """A syntax error at the byte that was looked at and not read."""
        return ReadError(message, min(self.index + 1, len(self.data)), is_syntax=True)

    def wrong_type(self, expected: str) -> ReadError:
        """The complaint about the next value, which is not `expected`; reads scalars first."""
        head = self.peek_value()
        if head == _OBJECT:
            found = "map"
        elif head == _ARRAY:
            found = "sequence"
        else:
            found = describe_scalar(self.read_value())
        return ReadError(f"invalid type: {found}, expected {expected}", self.index)

    def peek_value(self) -> int:
        """The first byte of the value that comes next."""
        head = self.peek()
        if head is None:
            raise self.error_at_next("EOF while parsing a value")
        return head

    def read_value(self) -> object:
        """Any value, as json.loads gives it."""
        head = self.peek_value()
        if head == _QUOTE:
            return self.read_string()
        if head == _OBJECT:
            result: dict[str, object] = {}

            def visit(key: str) -> None:
                result[key] = self.read_member(key, self.read_value)

            self.read_object(visit)
            return result
        if head == _ARRAY:
            return self.read_array(self.read_value)
        if head in b"-0123456789":
            return self.read_number()
        return self._read_word(head)

    def _read_word(self, head: int) -> object:
        words = {ord("n"): (b"null", None), ord("t"): (b"true", True), ord("f"): (b"false", False)}
        if head not in words:
            raise self.error_at_next("expected value")
        word, value = words[head]
        for expected in word:
            if self.index == len(self.data):
                raise self.error_here("EOF while parsing a value")
            self.index += 1
            if self.data[self.index - 1] != expected:
                raise self.error_here("expected ident")
        return value

    def read_number(self) -> int | float:
        """An int, or a float where the text has a fraction, an exponent or too many digits."""
        match = _NUMBER.match(self.data, self.index)
        if match is None:  # a lone minus, or a minus before something else
            self.index = min(self.index + 2, len(self.data))
            raise self.error_here("invalid number")
        start, self.index = self.index, match.end()
        text = match.group()
        is_integer = match[1] is None and match[2] is None
        self._check_number_end(is_integer, has_exponent=match[2] is not None)
        if is_integer and self.index - start <= 20:
            return int(text)
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise self.error_here("number out of range")
        return value

    def _check_number_end(self, is_integer: bool, *, has_exponent: bool) -> None:
        rest = self.data[self.index : self.index + 1]
        if rest.isdigit():  # after a leading zero
            raise self.error_at_next("invalid number")
        if rest == b"." and is_integer:
            self.index += 1
            is_end = self.index == len(self.data)
            raise self.error_at_next("EOF while parsing a value" if is_end else "invalid number")
        if rest in (b"e", b"E") and not has_exponent:
            self.index += 2 if self.data[self.index + 1 : self.index + 2] in (b"+", b"-") else 1
            if self.index == len(self.data):
                raise self.error_here("EOF while parsing a value")
            self.index += 1
            raise self.error_here("invalid number")

    def read_string(self) -> str:
        """A string; the cursor stands at its opening quote."""
        self.index += 1
        parts: list[bytes] = []
        while True:
            match = _PLAIN.match(self.data, self.index)
            assert match is not None
            parts.append(match.group())
            self.index = match.end()
            if self.index == len(self.data):
                raise self.error_here("EOF while parsing a string")
            head = self.data[self.index]
            self.index += 1
            if head == _QUOTE:
                break
            if head != _BACKSLASH:
                raise self.error_here(
                    "control character (\\u0000-\\u001F) found while parsing a string"
                )
            parts.append(self._read_escape().encode())
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise self.error_here("invalid unicode code point") from None

    def _read_escape(self) -> str:
        head = self._next_in_string()
        if head in _ESCAPES:
            return _ESCAPES[head]
        if head != ord("u"):
            raise self.error_here("invalid escape")
        unit = self._read_hex()
        if 0xDC00 <= unit < 0xE000:
            raise self.error_here("lone leading surrogate in hex escape")
        if not 0xD800 <= unit < 0xDC00:
            return chr(unit)
        for expected in b"\\u":
            if self._next_in_string() != expected:
                raise self.error_here("unexpected end of hex escape")
        low = self._read_hex()
        if not 0xDC00 <= low < 0xE000:
            raise self.error_here("lone leading surrogate in hex escape")
        return chr(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))

    def _next_in_string(self) -> int:
        if self.index == len(self.data):
            raise self.error_here("EOF while parsing a string")
        self.index += 1
        return self.data[self.index - 1]

    def _read_hex(self) -> int:
        text = self.data[self.index : self.index + 4]
        self.index += len(text)
        if len(text) < 4:
            raise self.error_here("EOF while parsing a string")
        if _HEX.fullmatch(text) is None:
            raise self.error_here("invalid escape")
        return int(text, 16)

    def read_object(self, visit: Callable[[str], None]) -> None:
        """Call `visit(key)` for each member, which reads the value with `read_member`."""
        self._enter()
        try:
            is_first = True
            while self._has_next(_OBJECT, is_first):
                if self.data[self.index] != _QUOTE:
                    raise self.error_at_next("key must be a string")
                visit(self.read_string())
                is_first = False
        except ReadError as error:
            self._leave_in_error(error, b"}")
            raise
        self._leave()

    def read_member(self, key: str, read: Callable[[], T]) -> T:
        """The value behind `key`, whose name was just read."""
        head = self.peek()
        if head != ord(":"):
            what = "EOF while parsing an object" if head is None else "expected `:`"
            raise self.error_at_next(what)
        self.index += 1
        try:
            return read()
        except ReadError as error:
            raise error.inside(key) from None

    def read_array(self, read: Callable[[], T]) -> list[T]:
        """The items of an array, each read by `read`. The cursor stands at its bracket."""
        items: list[T] = []
        self._enter()
        try:
            while self._has_next(_ARRAY, not items):
                items.append(self._read_item(len(items), read))
        except ReadError as error:
            self._leave_in_error(error, b"]")
            raise
        self._leave()
        return items

    def _read_item(self, position: int, read: Callable[[], T]) -> T:
        try:
            return read()
        except ReadError as error:
            raise error.inside(position) from None

    def _enter(self) -> None:
        self._depth += 1
        if self._depth == MAX_DEPTH:
            raise self.error_at_next("recursion limit exceeded")
        self.index += 1

    def _leave(self) -> None:
        self._depth -= 1
        self.index += 1

    def _leave_in_error(self, error: ReadError, closing: bytes) -> None:
        """An error without a position gets the one after this value's end, if that comes next."""
        if error.index is None:
            head = self.peek()
            if head == closing[0]:
                self.index += 1
            error.index = self.index

    def _has_next(self, opening: int, is_first: bool) -> bool:
        closing, name = ("}", "an object") if opening == _OBJECT else ("]", "a list")
        head = self.peek()
        if head == ord(closing):
            return False
        if head is None:
            raise self.error_at_next(f"EOF while parsing {name}")
        if not is_first:
            if head != ord(","):
                raise self.error_at_next(f"expected `,` or `{closing}`")
            self.index += 1
            head = self.peek()
        if head == ord(closing):
            raise self.error_at_next("trailing comma")
        if head is None:
            raise self.error_at_next("EOF while parsing a value")
        return True
