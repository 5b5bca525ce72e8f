"""The table of docs/compat.md that lists every field of a request document, asked of a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.llamacpp_source import llamacpp_source
from tgi_llamacpp.router.fields_refused import REFUSED_IN_CHAT, REFUSED_IN_COMPLETIONS, Refused
from tgi_llamacpp.router.schemas_openai import CHAT, COMPLETION
from tgi_llamacpp.router.shapes import Definitions

__all__ = ["llamacpp_source"]

COMPAT = Path(__file__).parent.parent.parent / "docs" / "compat.md"
ROUTES = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
BODIES: dict[str, dict[str, object]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "a"},
}
REFUSED = {"chat": REFUSED_IN_CHAT, "completions": REFUSED_IN_COMPLETIONS}
SHAPES = {"chat": CHAT, "completions": COMPLETION}
ABSENT = "\N{EN DASH}"
# What asks for something, where an object would be another mistake.
WISHES: dict[str, object] = {"suffix": "x"}


class Row(NamedTuple):
    field: str
    verdict: str


def _table(route: str) -> list[Row]:
    text = COMPAT.read_text().partition("\n## Fields of request documents\n")[2]
    column = 2 + list(ROUTES).index(route)
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 5 for row in cells)
    return [Row(row[0].strip("`"), row[column]) for row in cells]


def _fields(verdict: str) -> list[tuple[str, str]]:
    return [
        (route, row.field) for route in ROUTES for row in _table(route) if row.verdict == verdict
    ]


def _properties(route: str) -> set[str]:
    definitions: Definitions = {}
    SHAPES[route].schema(definitions)

    def names(of: str) -> set[str]:
        properties = definitions[of]["properties"]
        assert isinstance(properties, dict)
        return set(properties)

    whole = names({"chat": "ChatRequest", "completions": "CompletionRequest"}[route])
    return whole - {"stream_options"} | {f"stream_options.{x}" for x in names("StreamOptions")}


@pytest.mark.parametrize("route", ROUTES)
def test_the_table_lists_what_the_routes_know_and_nothing_twice(route: str) -> None:
    table = _table(route)
    assert len(table) > 100
    names = [row.field for row in table]
    assert len(names) == len(set(names))
    assert {row.verdict for row in table} <= {"honoured", "refused", "no effect", ABSENT}
    known = {row.field for row in table if row.verdict in ("honoured", "refused")}
    assert known == _properties(route)
    refused = {row.field for row in table if row.verdict == "refused"}
    of_stream = {name for name in refused if name.startswith("stream_options.")}
    assert refused - of_stream - {"suffix"} == set(REFUSED[route]) - {"suffix"}


def _nested(field: str, value: object) -> dict[str, object]:
    outer, _, inner = field.partition(".")
    return {outer: {inner: value}} if inner and outer == "stream_options" else {field: value}


def test_the_table_lists_every_field_of_the_llama_server_that_is_built_in(
    llamacpp_source: Path,
) -> None:
    server = llamacpp_source / "tools" / "server"
    schema = re.sub(r"//.*", "", (server / "server-schema.cpp").read_text())
    names = set(re.findall(r'new field_(?:num|bool|str|json)\("([\w.]+)"', schema))
    names |= set(re.findall(r'add_alias\("(\w+)"\)', schema))
    chat = (server / "server-common.cpp").read_text().partition("oaicompat_chat_params_parse(")[2]
    names |= set(re.findall(r'json_value\(body, "(\w+)"', chat))
    assert len(names) > 60
    names -= {"include_usage"}  # of stream_options
    assert names - {row.field for row in _table("chat")} == set()


@pytest.mark.parametrize(("route", "field"), _fields("refused"))
def test_a_refused_field_is_a_422_that_names_it(http: httpx.Client, route: str, field: str) -> None:
    wish = _nested(field, WISHES.get(field, {"a": 1}))
    response = http.post(ROUTES[route], json={**BODIES[route], **wish})
    assert response.status_code == 422
    error = response.json()["error"]
    if (route, field) != ("completions", "suffix"):  # which has TGI's own words
        assert error["param"] == field.partition(".")[0]
        assert re.search(
            rf"`{re.escape(field)}` is not supported on this route: ", error["message"]
        )
        assert "leave it out" in error["message"]


@pytest.mark.parametrize(("route", "field"), _fields("refused"))
def test_what_asks_for_nothing_is_taken(http: httpx.Client, route: str, field: str) -> None:
    refused = REFUSED[route].get(field, Refused(False))
    neutral = refused.schema({})["enum"]
    assert isinstance(neutral, list)
    if (route, field) == ("completions", "suffix"):
        neutral = [None]
    for value in neutral:
        response = http.post(ROUTES[route], json={**BODIES[route], **_nested(field, value)})
        assert response.status_code == 200, (value, response.text)


@pytest.mark.parametrize(("route", "field"), _fields("no effect"))
def test_a_field_without_effect_is_taken(http: httpx.Client, route: str, field: str) -> None:
    for value in ({"a": 1}, "x", 3):
        response = http.post(ROUTES[route], json={**BODIES[route], field: value})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("skip_special_tokens", False),
        ("include_reasoning", False),
        ("reasoning_budget_tokens", 0),
        ("id_slot", 0),
        ("json_schema", {}),
        ("samplers", []),
        ("min_keep", 2),
        ("n_indent", True),
    ],
)
@pytest.mark.parametrize("route", ROUTES)
def test_an_empty_value_that_is_a_wish_is_refused(
    http: httpx.Client, route: str, field: str, value: object
) -> None:
    response = http.post(ROUTES[route], json={**BODIES[route], field: value})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == field


def test_a_chat_takes_best_of_where_it_chooses_nothing(http: httpx.Client) -> None:
    for fields, status in (({"best_of": 2, "n": 2}, 200), ({"best_of": 3, "n": 2}, 422)):
        response = http.post(ROUTES["chat"], json={**BODIES["chat"], **fields})
        assert response.status_code == status
