"""Web origins as an operator writes them, turned into what browsers send.

Knows no flag and no header. Called by flags.py for --cors-allow-origin.
"""

from __future__ import annotations

import re

_SEPARATORS = re.compile(r"[,\s]+")
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^][/?#@:*]+)(?P<port>:[0-9]+)?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}  # which browsers leave out
_MAX_PORT = 65535


def read_origins(text: str) -> list[str]:
    """The origins of a list with commas or spaces between them, each as browsers write it.

    Raises ValueError where one can never be equal to what a browser sends.
    """
    origins = [_read_origin(part) for part in _SEPARATORS.split(text) if part]
    if not origins:
        raise ValueError("it names no origin; write one such as https://example.com, or *")
    return list(dict.fromkeys(origins))


def _read_origin(text: str) -> str:
    """Lower case, without the slash at the end and without a scheme's own port."""
    origin = text.lower().rstrip("/")
    if origin in ("*", "null"):
        return origin
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise ValueError(f"no browser sends the origin '{text}': {_reason(origin)}")
    scheme, port = match["scheme"], int((match["port"] or ":0")[1:])
    if port > _MAX_PORT:
        raise ValueError(f"no browser sends the origin '{text}': a port is at most {_MAX_PORT}")
    is_told = match["port"] is not None and port != _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{_ascii_host(text, match['host'])}" + (f":{port}" if is_told else "")


def _reason(origin: str) -> str:
    if "://" not in origin:
        return "it has no scheme; write http:// or https:// before the host"
    if "*" in origin:
        return "a pattern is not supported; write every origin in full, or * alone for all"
    return "an origin is a scheme, a host and a port, without a path; write https://example.com"


def _ascii_host(text: str, host: str) -> str:
    """The host as browsers send it: names in other scripts are in Punycode."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"no browser sends the origin '{text}': its host is no name") from None
