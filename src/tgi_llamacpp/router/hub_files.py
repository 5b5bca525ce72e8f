"""A model's repository on the Hub: which files it has, and copies of them in the local cache.

huggingface_hub does the work; HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE and HF_HUB_OFFLINE are its
variables. Owns the sentences for what can go wrong. Called by model_files.py; knows no GGUF.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tgi_llamacpp.errors import StartupError, reason
from tgi_llamacpp.files import find_below

logger = logging.getLogger(__name__)

# What a tokenizer and a chat template are read from; always at the top of a repository.
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


_VARIABLES = (
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "XDG_CACHE_HOME",
)
# What the system refuses, and no other machine.
_LOCAL_ERRORS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOSPC,
    errno.EDQUOT,
)


@dataclass(frozen=True, slots=True)
class Repository:
    """One revision of a repository. `cached` is its folder where the Hub was out of reach."""

    model_id: str
    revision: str
    names: list[str]
    sha: str | None = None
    pipeline_tag: str | None = None
    cached: Path | None = None

    def download(self, name: str) -> Path:
        """The local copy of one file, made now unless the cache has it.

        Raises StartupError.
        """
        from huggingface_hub import hf_hub_download  # a second to import, and rarely needed

        if self.cached is not None:
            return self.cached / name
        logger.info("fetching %s of %s", name, self.model_id)
        try:
            return Path(hf_hub_download(self.model_id, name, revision=self.revision))
        except Exception as error:  # its network stack raises whatever it likes
            raise _startup_error(self.model_id, self.revision, error) from error

    def download_text_files(self) -> Path | None:
        """The folder that has those of TEXT_FILES that there are; None where there are none."""
        paths = [self.download(name) for name in TEXT_FILES if name in self.names]
        return paths[0].parent if paths else None


def open_repository(model_id: str, revision: str) -> Repository:
    """Look a model up on the Hub; or in the cache, where the Hub is out of reach.

    Raises StartupError: no such repository, revision or access, and no copy of it.
    """
    _prepare_environment()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        info = HfApi().model_info(model_id, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _startup_error(model_id, revision, error) from error
    except Exception as error:  # its network stack raises whatever it likes
        cached = _cached_snapshot(model_id, revision)
        if cached is None:
            raise _startup_error(model_id, revision, error) from error
        logger.warning("the Hub is out of reach; using the copy of %s in the cache", model_id)
        names, _ = find_below(cached)
        return Repository(model_id, revision, names, sha=cached.name, cached=cached)
    names = [sibling.rfilename for sibling in info.siblings or []]
    return Repository(model_id, revision, names, info.sha, info.pipeline_tag)


def _prepare_environment() -> None:
    """huggingface_hub's variables, before they are read as it is imported: empty ones are unset."""
    for name in _VARIABLES:
        if os.environ.get(name) == "":
            del os.environ[name]
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _cached_snapshot(model_id: str, revision: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def _startup_error(model_id: str, revision: str, error: Exception) -> StartupError:
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        complaint = "access to it is granted by its authors; set HF_TOKEN to a token that has it"
    elif isinstance(error, RepositoryNotFoundError):
        complaint = "the Hub has no such model, or it is private and needs HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        complaint = f"it has no revision {revision}"
    elif isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
        complaint = (
            f"it cannot be kept at {error.filename or 'HF_HOME'}: {reason(error)}; set HF_HOME to a"
            f" folder with room that user {os.geteuid()} may write to"
        )
    elif isinstance(error, UnicodeEncodeError):
        complaint = "HF_TOKEN, or the token saved in HF_HOME, has characters that no token has"
    else:
        summary = (str(error).strip() or type(error).__name__).splitlines()[0]
        complaint = f"the Hub cannot be reached ({summary}), and the cache has no copy of it"
    return StartupError(f"--model-id {model_id}: {complaint}")
