"""Finds the pinned llama.cpp source, whose vocabularies and chat templates are test material."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def find_llamacpp_source() -> Path | None:
    """As the build finds it: LLAMACPP_SOURCE_DIR, third_party, the build's own copy; else None."""
    named = os.environ.get("LLAMACPP_SOURCE_DIR")
    candidates = [
        *([ROOT / named] if named else []),
        ROOT / "third_party/llama.cpp",
        *sorted(ROOT.glob("build/*/llamacpp-source")),
        *sorted(ROOT.glob("build/*/llama.cpp-b*")),
    ]
    return next((path for path in candidates if (path / "include/llama.h").is_file()), None)


@pytest.fixture(scope="session")
def llamacpp_source() -> Path:
    source = find_llamacpp_source()
    if source is None:
        pytest.fail("llama.cpp's source is not found: run `make build`, or set LLAMACPP_SOURCE_DIR")
    return source
