"""Clients whose requirements clash with ours, or are heavy: each in an environment of its own.

They are installed under build/clients, from the groups of pyproject.toml or by npm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.clients.conftest import Guarded

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / "build/clients"
PROGRAMS = Path(__file__).parent / "apart"
NODE_PACKAGES = (
    "openai@^7",
    "@huggingface/inference@^4",
    "inference-3@npm:@huggingface/inference@^3.15",
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def python_of(group: str) -> Path:
    """An interpreter of its own that has what the group names."""
    folder = ENVIRONMENTS / group
    python = folder / "bin/python"
    if not python.exists():
        venv.create(folder, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    run([*command, "--group", f"{ROOT / 'pyproject.toml'}:{group}"])
    return python


def run(command: list[str], cwd: Path = ROOT, **environ: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_tgis_own_client_understands_every_answer(url: str, busy: Guarded) -> None:
    python = python_of("client-tgi")
    run([str(python), str(PROGRAMS / "tgi_client.py"), url, busy.url, busy.key])


def test_langchain_and_litellm_understand_every_answer(url: str, busy: Guarded) -> None:
    python = python_of("client-frameworks")
    program = [str(python), str(PROGRAMS / "frameworks.py"), url, busy.url, busy.key]
    run(program, LITELLM_LOCAL_MODEL_COST_MAP="True")


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")
def test_the_node_clients_understand_every_answer(url: str, busy: Guarded) -> None:
    folder = ENVIRONMENTS / "node"
    folder.mkdir(parents=True, exist_ok=True)
    run(["npm", "install", "--silent", "--prefix", str(folder), *NODE_PACKAGES])
    run(["node", str(PROGRAMS / "node_clients.mjs"), url, busy.url, busy.key], cwd=folder)
