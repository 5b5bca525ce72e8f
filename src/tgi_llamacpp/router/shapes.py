"""What a JSON value must look like, said once, checked in two ways, and described.

`convert` takes a value that json.loads made and is quick; on any doubt it raises Doubt. `read`
pulls the value from a JsonReader and raises TGI's own complaint with its position. `schema` is the
shape as JSON Schema, for router/openapi.py. The schemas (router/schemas_*.py) put shapes together;
router/body.py decides which way is taken.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from tgi_llamacpp.router.json_complaints import describe_scalar
from tgi_llamacpp.router.json_reader import JsonReader, ReadError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_FLOAT32 = struct.Struct("<f")
_MAX_ANY_DEPTH = 100
Schema = dict[str, object]
"""A JSON Schema, draft 2020-12."""
Definitions = dict[str, Schema]
"""The named schemas that others refer to. A shape with a name adds its own."""


class Doubt(Exception):
    """The value is not what the shape wants; `read` will find the words."""


class Misfit(Doubt, ReadError):
    """The members are right, the whole is not; says why in either way of checking."""


class Shape(Protocol[T_co]):
    def convert(self, value: object) -> T_co: ...

    def read(self, reader: JsonReader) -> T_co: ...

    def schema(self, definitions: Definitions) -> Schema: ...


def reference(name: str) -> Schema:
    """The schema of this name, wherever the document has it."""
    return {"$ref": f"#/components/schemas/{name}"}


def read_whole(reader: JsonReader, convert: Callable[[object], T], complaint: str) -> T:
    """The next value, of a shape whose form shows only in the whole of it."""
    value = reader.read_value()
    try:
        return convert(value)
    except Doubt:
        raise ReadError(complaint) from None


class Text:
    """A string that is valid Unicode."""

    def convert(self, value: object) -> str:
        if type(value) is not str:
            raise Doubt
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Doubt from None
        return value

    def read(self, reader: JsonReader) -> str:
        if reader.peek_value() != ord('"'):
            raise reader.wrong_type("a string")
        return reader.read_string()

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "string"}


class Boolean:
    def convert(self, value: object) -> bool:
        if type(value) is not bool:
            raise Doubt
        return value

    def read(self, reader: JsonReader) -> bool:
        if reader.peek_value() not in b"tf":
            raise reader.wrong_type("a boolean")
        return bool(reader.read_value())

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "boolean"}


class Integer:
    """An integer in [minimum, maximum]; never a float with a zero fraction."""

    def __init__(self, name: str, minimum: int, maximum: int) -> None:
        self._name = name
        self._minimum = minimum
        self._maximum = maximum

    def convert(self, value: object) -> int:
        if type(value) is not int or not self._minimum <= value <= self._maximum:
            raise Doubt
        return value

    def read(self, reader: JsonReader) -> int:
        if reader.peek_value() not in b"-0123456789":
            raise reader.wrong_type(self._name)
        value = reader.read_number()
        if isinstance(value, int) and self._minimum <= value <= self._maximum:
            return value
        kind = "value" if isinstance(value, int) else "type"
        message = f"invalid {kind}: {describe_scalar(value)}, expected {self._name}"
        raise ReadError(message, reader.index)

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "integer", "minimum": self._minimum, "maximum": self._maximum}


U8 = Integer("u8", 0, 2**8 - 1)
U32 = Integer("u32", 0, 2**32 - 1)
U64 = Integer("u64", 0, 2**64 - 1)
USIZE = Integer("usize", 0, 2**64 - 1)
I32 = Integer("i32", -(2**31), 2**31 - 1)
I64 = Integer("i64", -(2**63), 2**63 - 1)


class Float32:
    """A number, narrowed to float32 as TGI does before it validates; infinite beyond its range."""

    def convert(self, value: object) -> float:
        if type(value) is not float and type(value) is not int:
            raise Doubt
        if not -1e300 < value < 1e300:
            raise Doubt
        return narrow(float(value))

    def read(self, reader: JsonReader) -> float:
        if reader.peek_value() not in b"-0123456789":
            raise reader.wrong_type("f32")
        return narrow(float(reader.read_number()))

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "number", "format": "float"}


def narrow(value: float) -> float:
    """The nearest float32, as a Python float."""
    try:
        (narrowed,) = _FLOAT32.unpack(_FLOAT32.pack(value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return float(narrowed)


class Anything:
    """Any JSON value, at most a hundred levels deep."""

    def __init__(self, description: str | None = None) -> None:
        self._description = description

    def convert(self, value: object) -> object:
        _check_depth(value, _MAX_ANY_DEPTH)
        return value

    def read(self, reader: JsonReader) -> object:
        return reader.read_value()

    def schema(self, definitions: Definitions) -> Schema:
        return {} if self._description is None else {"description": self._description}


def _check_depth(value: object, levels_left: int) -> None:
    if not levels_left:
        raise Doubt
    if type(value) is dict:
        for item in value.values():
            _check_depth(item, levels_left - 1)
    elif type(value) is list:
        for item in value:
            _check_depth(item, levels_left - 1)


class Nullable(Generic[T]):
    """`inner`, or null."""

    def __init__(self, inner: Shape[T]) -> None:
        self._inner = inner

    def convert(self, value: object) -> T | None:
        return None if value is None else self._inner.convert(value)

    def read(self, reader: JsonReader) -> T | None:
        if reader.peek_value() == ord("n"):
            reader.read_value()
            return None
        return self._inner.read(reader)

    def schema(self, definitions: Definitions) -> Schema:
        inner = self._inner.schema(definitions)
        if isinstance(inner.get("type"), str) and "enum" not in inner:
            return {**inner, "type": [inner["type"], "null"]}
        return {"anyOf": [inner, {"type": "null"}]}


class ListOf(Generic[T]):
    def __init__(self, item: Shape[T]) -> None:
        self._item = item

    def convert(self, value: object) -> list[T]:
        if type(value) is not list:
            raise Doubt
        return [self._item.convert(item) for item in value]

    def read(self, reader: JsonReader) -> list[T]:
        if reader.peek_value() != ord("["):
            raise reader.wrong_type("a sequence")
        return reader.read_array(lambda: self._item.read(reader))

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "array", "items": self._item.schema(definitions)}


class MapOf(Generic[T]):
    """An object whose members all have one shape, under any names."""

    def __init__(self, item: Shape[T]) -> None:
        self._item = item

    def convert(self, value: object) -> dict[str, T]:
        if type(value) is not dict:
            raise Doubt
        return {key: self._item.convert(item) for key, item in value.items()}

    def read(self, reader: JsonReader) -> dict[str, T]:
        if reader.peek_value() != ord("{"):
            raise reader.wrong_type("a map")
        members: dict[str, T] = {}

        def visit(key: str) -> None:
            members[key] = reader.read_member(key, lambda: self._item.read(reader))

        reader.read_object(visit)
        return members

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "object", "additionalProperties": self._item.schema(definitions)}


class OneOf(Generic[T]):
    """The first of several shapes that fits; `name` is what the complaint calls them together."""

    def __init__(self, name: str, *variants: Shape[T]) -> None:
        self._complaint = f"data did not match any variant of untagged enum {name}"
        self._variants = variants

    def convert(self, value: object) -> T:
        for variant in self._variants:
            try:
                return variant.convert(value)
            except Doubt:
                continue
        raise Doubt

    def read(self, reader: JsonReader) -> T:
        return read_whole(reader, self.convert, self._complaint)

    def schema(self, definitions: Definitions) -> Schema:
        return {"anyOf": [variant.schema(definitions) for variant in self._variants]}


class Object(Generic[T]):
    """An object that becomes `make(**fields)`; unknown keys are ignored.

    `fields` maps JSON keys to shapes; `required` are the keys that must be there. `rename` maps
    keys to argument names where they differ; two keys with one argument exclude each other.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., T],
        fields: Mapping[str, Shape[object]],
        *,
        required: tuple[str, ...] = (),
        rename: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._make = make
        self._fields = fields
        self._required = required
        self._rename = rename or {}

    def convert(self, value: object) -> T:
        if type(value) is not dict:
            raise Doubt
        known: dict[str, object] = {}
        for key, item in value.items():
            shape = self._fields.get(key)
            if shape is None:
                continue
            argument = self._rename.get(key, key)
            if argument in known:
                raise Doubt
            known[argument] = shape.convert(item)
        return self._build(known)

    def read(self, reader: JsonReader) -> T:
        if reader.peek_value() != ord("{"):
            raise reader.wrong_type(f"struct {self._name}")
        known: dict[str, object] = {}

        def visit(key: str) -> None:
            shape = self._fields.get(key)
            if shape is None:
                reader.read_member(key, reader.read_value)
                return
            argument = self._rename.get(key, key)
            if argument in known:
                raise ReadError(f"duplicate field `{argument}`", key=argument)
            known[argument] = reader.read_member(key, lambda: shape.read(reader))

        reader.read_object(visit)
        try:
            return self._build(known)
        except Misfit as error:
            error.index = reader.index
            raise

    def _build(self, known: dict[str, object]) -> T:
        for key in self._required:
            if self._rename.get(key, key) not in known:
                raise Misfit(f"missing field `{key}`", key=key)
        return self._make(**known)

    def schema(self, definitions: Definitions) -> Schema:
        if self._name not in definitions:
            properties = {key: shape.schema(definitions) for key, shape in self._fields.items()}
            definitions[self._name] = {
                "type": "object",
                "properties": properties,
                "required": list(self._required),
            }
        return reference(self._name)
