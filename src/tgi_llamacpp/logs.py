"""How both processes log: to stderr, one line a record, plain text or JSON.

Owns the format and the meaning of LOG_LEVEL. Knows no request and no text of one: callers log ids,
counts and times. Called once by each process as it starts.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from datetime import UTC, datetime

import msgspec

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
# Libraries that narrate their work at INFO; TGI narrows LOG_LEVEL to its own modules likewise.
_CHATTY = ("httpx", "httpcore", "huggingface_hub", "transformers", "uvicorn", "asyncio", "filelock")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def setup(process: str, log_level: str, json_output: bool) -> None:
    """Send every log record of this process to stderr.

    process: "router" or "engine", the name on each line. log_level: a level's name, or a filter
    directive of which the level without a target counts.
    """
    if json_output and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(encoding="utf-8")  # JSON's, whatever the locale's is
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if json_output else LineFormatter(process))
    level = level_of(log_level)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def level_of(log_level: str) -> int:
    """The level that LOG_LEVEL asks for; INFO where it names none."""
    for part in log_level.lower().split(","):
        if part.strip() in _LEVELS:
            return _LEVELS[part.strip()]
    return logging.INFO


def escape(text: str) -> str:
    """Control characters and line ends as escapes: a record stays one line, whatever it quotes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), readable(text))


def readable(text: str) -> str:
    """Bytes that Python could not decode, as of a path, become `\\xe8`; so the text has a UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate of a client
        return text.encode("utf-8", "backslashreplace").decode()


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    return "WARN" if record.levelno == logging.WARNING else record.levelname


class LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z  INFO router: message`; a traceback follows on lines of its own."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_timestamp(record)} {_level(record):>5} {self._process}: "
        line = head + escape(record.getMessage())
        if record.exc_info:
            # Indented, so that nothing quoted in it can pass for a record.
            lines = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n  {escape(text)}" for text in lines)
        return line


class JsonFormatter(logging.Formatter):
    """TGI's keys: timestamp, level, message, target; and `exception` where there is one."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "timestamp": _timestamp(record),
            "level": _level(record),
            "message": readable(record.getMessage()),
            "target": record.name,
            "process": self._process,
        }
        if record.exc_info:
            entry["exception"] = readable(self.formatException(record.exc_info))
        return msgspec.json.encode(entry).decode()
