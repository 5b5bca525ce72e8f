"""What stderr shows: one line a record, in plain text or JSON, and how far a load has come."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from tgi_llamacpp.logs import JsonFormatter, LineFormatter, level_of
from tgi_llamacpp.router.progress import LoadProgress


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("tgi_llamacpp.x", level, __file__, 1, message, args, None)


def test_a_record_is_one_line_whatever_it_quotes() -> None:
    text = LineFormatter("router").format(record("got %s", "a\nb\x1b[31m\u2028c\x7f"))
    assert text.endswith("  INFO router: got a\\nb\\x1b[31m\\u2028c\\x7f")
    assert len(text.splitlines()) == 1


def test_json_has_tgis_keys() -> None:
    text = JsonFormatter("engine").format(record("a\n%d", 3, level=logging.WARNING))
    entry = json.loads(text)
    assert "\n" not in text
    assert entry["timestamp"].endswith("Z")
    del entry["timestamp"]
    assert entry == {
        "level": "WARN",
        "message": "a\n3",
        "target": "tgi_llamacpp.x",
        "process": "engine",
    }


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("debug", logging.DEBUG),
        ("WARN", logging.WARNING),
        ("text_generation_router=debug,error", logging.ERROR),
        ("nonsense", logging.INFO),
        ("off", logging.CRITICAL + 1),
    ],
)
def test_log_level_takes_a_level_or_a_filter_directive(text: str, level: int) -> None:
    assert level_of(text) == level


def test_a_terminal_shows_one_line_that_moves() -> None:
    terminal = io.StringIO()
    progress = LoadProgress(terminal)
    for fraction in (0.0, 0.5, 0.501, 1.0):
        progress.show(fraction)
    progress.finish()
    moves = terminal.getvalue().split("\r")
    assert [move.split("] ")[-1].strip() for move in moves[1:]] == ["50 %", "100 %"]
    assert terminal.getvalue().count("\n") == 1


def test_a_load_that_fails_leaves_the_line_for_the_error() -> None:
    terminal = io.StringIO()
    progress = LoadProgress(terminal)
    progress.show(0.4)
    progress.finish()
    assert terminal.getvalue().endswith(" 40 %\n")


def test_a_log_gets_a_line_for_every_tenth_and_none_of_a_quick_load(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    now_s = 0.0
    progress = LoadProgress(None, clock_s=lambda: now_s)
    for percent in range(101):  # a load of 0.05 s
        now_s = percent / 2000
        progress.show(percent / 100)
    assert caplog.messages == []
    progress = LoadProgress(None, clock_s=lambda: now_s)
    for percent in range(101):  # a load of 20 s
        now_s = 1 + percent / 5
        progress.show(percent / 100)
    assert caplog.messages == [f"loading the model: {n} %" for n in range(10, 101, 10)]


def test_nothing_that_an_error_quotes_can_pass_for_a_record() -> None:
    forged = "2026-01-01T00:00:00.000Z ERROR router: \x1b[31m\u202eforged"
    try:
        raise ValueError(f"x\n{forged}\r{forged}\u2028{forged}")
    except ValueError:
        entry = logging.LogRecord("a", logging.ERROR, "", 0, "m", None, sys.exc_info())
    lines = LineFormatter("router").format(entry).split("\n")
    assert all(line.startswith("  ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)
