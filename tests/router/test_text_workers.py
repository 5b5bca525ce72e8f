"""What a start or a reload hears when the process that renders chats cannot be had."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.server_process import copy_of_demo_model
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.preparation import prepare
from tgi_llamacpp.router.text_workers import TextWorkers


def test_a_system_that_starts_no_process_is_a_reason_not_to_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    workers = TextWorkers(prepare(ServerConfig(model_id=str(copy_of_demo_model(tmp_path))), None))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(StartupError, match="Chats cannot be rendered now: Resource temporarily"):
        asyncio.run(workers.prepare())
    workers.close()
