"""The origins of --cors-allow-origin, as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgi_llamacpp import flags
from tgi_llamacpp.errors import UsageError

A, B = "http://a.example", "https://b.example:8443"


def parse(*arguments: str, **environ: str) -> list[str]:
    return flags.parse(["--model-id", "m", *arguments], environ).cors_allow_origin


@pytest.mark.parametrize("text", [f"{A},{B}", f"{A}, {B}", f" {A} {B}\n", f"{A}/,{B},{A},"])
def test_one_text_may_hold_several_origins_wherever_it_is_written(
    tmp_path: Path, text: str
) -> None:
    assert parse(CORS_ALLOW_ORIGIN=text) == [A, B]
    assert parse("--cors-allow-origin", text) == [A, B]
    path = tmp_path / "config.toml"
    for value in (f'"""{text}"""', f'["""{text}"""]', f'["{A}/", "{B}"]'):
        path.write_text(f"cors-allow-origin = {value}")
        assert parse("--config", str(path)) == [A, B]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("http://a.example/", A),
        ("HTTP://A.Example", A),
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:80/", A),
        ("http://a.example:443", "http://a.example:443"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("null", "null"),
        ("*", "*"),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(text: str, sent: str) -> None:
    assert parse(CORS_ALLOW_ORIGIN=text) == [sent]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a.example", "it has no scheme"),
        ("localhost:3000", "it has no scheme"),
        ("http://a.example/app", "without a path"),
        ("http://a.example?x", "without a path"),
        ("http://user@a.example", "without a path"),
        ("http://", "it has no scheme"),
        ("http://a.example:port", "without a path"),
        ("http://a.example:65536", "at most 65535"),
        ("https://*.example", "a pattern is not supported"),
        ("http://ü..example", "its host is no name"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse(CORS_ALLOW_ORIGIN=f"{A}, {text}")
    assert f"the origin '{text}'" in str(caught.value)
    assert "CORS_ALLOW_ORIGIN" in str(caught.value)


def test_a_list_without_an_origin_is_refused() -> None:
    with pytest.raises(UsageError, match="it names no origin"):
        parse("--cors-allow-origin", " , ")
