"""OpenAI's fields that come in several forms: stop, prompt, tool choice, and messages.

Each is a Shape of router/shapes.py that settles on one form. Put together in
router/schemas_openai.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from tgi_llamacpp.router.json_reader import JsonReader, ReadError
from tgi_llamacpp.router.shapes import (
    Anything,
    Definitions,
    Doubt,
    Integer,
    ListOf,
    Misfit,
    Nullable,
    Schema,
    Shape,
    Text,
    read_whole,
    reference,
)

Message = dict[str, object]
Prompt = str | list[int]

_TEXT = Text()
_ANYTHING = Anything()
_TOKEN_ID = Integer("u32", 0, 2**31 - 1)


class StopField:
    """One string or a list of them."""

    _several = ListOf(_TEXT)

    def convert(self, value: object) -> list[str]:
        return [_TEXT.convert(value)] if type(value) is str else self._several.convert(value)

    def read(self, reader: JsonReader) -> list[str]:
        head = reader.peek_value()
        if head == ord('"'):
            return [reader.read_string()]
        if head == ord("["):
            return self._several.read(reader)
        raise reader.wrong_type("a string or a sequence")

    def schema(self, definitions: Definitions) -> Schema:
        return {"anyOf": [_TEXT.schema(definitions), self._several.schema(definitions)]}


class PromptField:
    """A string, strings, token ids, or lists of token ids: always a list of prompts."""

    _complaint = "data did not match any variant of untagged enum PromptDeserializer"
    _empty = "Empty array detected. Do not use an empty array for the prompt."
    _ids = ListOf(_TOKEN_ID)

    def convert(self, value: object) -> list[Prompt]:
        if type(value) is str:
            return [_TEXT.convert(value)]
        if type(value) is not list or not value:
            raise Doubt
        if type(value[0]) is int:
            return [self._ids.convert(value)]
        return [_TEXT.convert(v) if type(v) is str else self._some_ids(v) for v in value]

    def read(self, reader: JsonReader) -> list[Prompt]:
        prompts = read_whole(reader, self._convert_some, self._complaint)
        if not prompts:
            raise ReadError(self._empty)
        return prompts

    def schema(self, definitions: Definitions) -> Schema:
        text, ids = _TEXT.schema(definitions), self._ids.schema(definitions)
        some_ids = {**ids, "minItems": 1}
        several = {"type": "array", "items": {"anyOf": [text, some_ids]}, "minItems": 1}
        return {"anyOf": [text, some_ids, several]}

    def _convert_some(self, value: object) -> list[Prompt]:
        return [] if value == [] else self.convert(value)

    def _some_ids(self, value: object) -> list[int]:
        ids = self._ids.convert(value)
        if not ids:
            raise Doubt
        return ids


class ToolChoiceField:
    """`auto`, `required`, `none`, a tool's name, or an object that names a function."""

    _complaint = "data did not match any variant of untagged enum ToolTypeDeserializer"

    def convert(self, value: object) -> str:
        if isinstance(value, dict):
            function = value.get("function")
            value = function.get("name") if isinstance(function, dict) else None
        if not isinstance(value, str):
            raise Doubt
        return value

    def read(self, reader: JsonReader) -> str:
        return read_whole(reader, self.convert, self._complaint)

    def schema(self, definitions: Definitions) -> Schema:
        function = _record(name=_TEXT.schema(definitions))
        return {"anyOf": [_TEXT.schema(definitions), _record(function=function)]}


def _record(**members: Schema) -> Schema:
    """An object that must have these members, and may have others."""
    return {"type": "object", "properties": members, "required": list(members)}


class Mapped:
    """An object of anything, kept as it is."""

    _anything = Anything()

    def convert(self, value: object) -> dict[str, object]:
        if type(value) is not dict:
            raise Doubt
        self._anything.convert(value)
        return value

    def read(self, reader: JsonReader) -> dict[str, object]:
        if reader.peek_value() != ord("{"):
            raise reader.wrong_type("a map")
        value = reader.read_value()
        assert isinstance(value, dict)
        return value

    def schema(self, definitions: Definitions) -> Schema:
        return {"type": "object"}


class MessageField:
    """One message with a role, kept as the client sent it; router/message_checks.py looks into it.

    The schema says what that takes.
    """

    _fields: Mapping[str, Shape[object]] = {"role": _TEXT, "name": Nullable(_TEXT)}
    _mapped = Mapped()

    def convert(self, value: object) -> Message:
        message = self._mapped.convert(value)
        for key, shape in self._fields.items():
            if key in message:
                shape.convert(message[key])
        self._check(message)
        return message

    def read(self, reader: JsonReader) -> Message:
        if reader.peek_value() != ord("{"):
            raise reader.wrong_type("struct Message")
        message: Message = {}

        def visit(key: str) -> None:
            if key in message and key in self._fields:
                raise ReadError(f"duplicate field `{key}`")
            shape = self._fields.get(key, _ANYTHING)
            message[key] = reader.read_member(key, lambda: shape.read(reader))

        reader.read_object(visit)
        try:
            self._check(message)
        except Misfit as error:
            error.index = reader.index
            raise
        return message

    def schema(self, definitions: Definitions) -> Schema:
        content, calls, call = _content_schema(), _calls_schema(), _function_schema()
        definitions["Message"] = {
            "type": "object",
            "properties": {
                **{key: shape.schema(definitions) for key, shape in self._fields.items()},
                "content": {"anyOf": [content, {"type": "null"}]},
                "tool_calls": {"anyOf": [calls, {"type": "null"}]},
                "function_call": {"anyOf": [call, {"type": "null"}]},
            },
            "required": ["role"],
            "anyOf": [
                _record(content=content),
                _record(tool_calls={**calls, "minItems": 1}),
                _record(function_call=call),
            ],
        }
        return reference("Message")

    def _check(self, message: Message) -> None:
        if "role" not in message:
            raise Misfit("missing field `role`")


def _content_schema() -> Schema:
    text = _record(type={"const": "text"}, text={"type": "string"})
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": text}]}


def _calls_schema() -> Schema:
    return {"type": "array", "items": _record(function=_function_schema())}


def _function_schema() -> Schema:
    function = _record(name={"type": "string"})
    function["anyOf"] = [{"required": ["arguments"]}, {"required": ["parameters"]}]
    return function
