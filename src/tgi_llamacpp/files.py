"""Files and folders that an operator names: what lies at a path, and why it cannot be read.

Owns the words for what a system refuses and for links that lead nowhere, what becomes of byte order
marks, and the rule which files of a folder count. Knows no format. Called wherever a file is read
as a server starts or reloads.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import Literal

from tgi_llamacpp.errors import StartupError, reason

Kind = Literal["file", "folder", "other"]

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def path_of(text: str) -> Path:
    """The path that a setting names. `~` stays as it is where no home folder is known."""
    return Path(os.path.expanduser(text))


def kind(path: Path) -> Kind | None:
    """What lies at a path, None where nothing does.

    Raises StartupError: it cannot be told, or it is a link that leads nowhere.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        is_absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
        if is_absent and _dangling_link(path) is None:
            return None
        raise unreadable(path, error) from error
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def unreadable(path: Path, error: OSError) -> StartupError:
    return StartupError(f"{path} cannot be read: {why(path, error)}")


def why(path: Path, error: OSError) -> str:
    """Why a path cannot be read."""
    if error.errno == errno.EACCES:
        return f"{reason(error)}; the server runs as user {os.geteuid()}"
    link = _dangling_link(path) if error.errno in (errno.ENOENT, errno.ENOTDIR) else None
    if link is None:
        return reason(error)
    subject = "it" if link == path else str(link)
    return (
        f"{subject} is a link to {os.readlink(link)}, where there is nothing;"
        " copy or mount what it leads to as well"
    )


def without_mark(data: bytes) -> bytes:
    """The UTF-8 of a text file that may begin with a byte order mark, as editors on Windows write.

    What is no text stays as it is.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding).encode()
            except UnicodeError:
                break
    return data


def find_below(folder: Path) -> tuple[list[str], list[OSError]]:
    """The files below a folder, by their paths in it; and what could not be looked into.

    Dot files and dot folders do not count: they are caches, bins, and what macOS leaves beside each
    file on other systems' disks.
    """
    names: list[str] = []
    errors: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(root).relative_to(folder)
        names += [str(here / name) for name in sorted(files) if not name.startswith(".")]
    return names, errors


def _dangling_link(path: Path) -> Path | None:
    """The link that leads nowhere: the path itself, or a folder on the way to it."""
    for place in (path, *path.parents):
        if os.path.islink(place) and not os.path.exists(place):
            return place
    return None
