"""Whose keys open the server: that of --api-key, and those of --api-key-file.

Keys are kept and compared as digests, all of them each time, so that an answer's time says nothing
of a key. Knows no HTTP but the Authorization header's value. Called by router/exchange.py for every
request with a key, and by the server when it is told to read its files again.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from pathlib import Path

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.files import path_of, why, without_mark

logger = logging.getLogger(__name__)

_MAX_FILE_BYTES = 1 << 20
_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH


class ApiKeys:
    """The keys that are good now. Without a key and without a file every client is let in.

    A file has a key a line; empty lines, and those that begin with #, are passed over.
    Raises StartupError where the file cannot be read or holds no key.
    """

    def __init__(self, api_key: str | None = None, path: str | Path | None = None) -> None:
        self.are_needed = False
        self._digests: list[bytes] = []
        self._scopes: dict[bytes, int] = {}  # of every digest that ever was a key
        self._set(api_key, path)

    @property
    def num_keys(self) -> int:
        return len(self._digests)

    def reload(self, api_key: str | None, path: str | Path | None) -> None:
        """Take these keys from now on, and the file as it is now.

        Raises StartupError, with the keys as they were, also where there are none any more: a
        mistake in a file must not open a server.
        """
        if self.are_needed and api_key is None and path is None:
            raise StartupError("the API keys stay: start the server anew to have none")
        self._set(api_key, path)

    def _set(self, api_key: str | None, path: str | Path | None) -> None:
        keys = [] if api_key is None else [api_key.encode()]
        if path is not None:
            keys += _read_file(path_of(str(path)))
        self._digests = list(dict.fromkeys(map(_digest, keys)))
        self.are_needed = api_key is not None or path is not None
        for digest in self._digests:
            self._scopes.setdefault(digest, len(self._scopes) + 1)
        if path is not None:
            logger.info("%d API keys", self.num_keys)

    def scope_of(self, authorization: bytes) -> int | None:
        """The number of the key in a header's value, None where it holds no good one.

        The same key has the same number as long as the server runs; no key is ever given another's.
        """
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest = _digest(key.strip(b" \t"))
        found = [known for known in self._digests if hmac.compare_digest(known, digest)]
        return self._scopes[found[0]] if found else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _read_file(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StartupError(f"--api-key-file {path} cannot be read: {why(path, error)}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise StartupError(f"--api-key-file {path} is longer than {_MAX_FILE_BYTES} bytes")
    lines = without_mark(data).splitlines()
    keys = [_checked(path, number, line) for number, line in enumerate(lines, 1)]
    keys = [key for key in keys if key]
    if not keys:
        raise StartupError(f"--api-key-file {path} holds no key: write one a line")
    if mode & _READABLE_BY_OTHERS:
        logger.warning("others can read the API keys in %s: chmod 600 it", path)
    return keys


def _checked(path: Path, number: int, line: bytes) -> bytes:
    """The key of a line, empty where it has none. What it holds is in no message."""
    key = line.strip()
    if key.startswith(b"#"):
        return b""
    if not all(0x21 <= byte <= 0x7E for byte in key):
        raise StartupError(
            f"--api-key-file {path}: line {number} is no key: a key is of printable ASCII without"
            " spaces"
        )
    return key
