"""The page between engine and router: what is written is read, also by another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tgi_llamacpp.step_page import SIZE_BYTES, PageState, StepEntry, StepPage, create_page_file

WRITER = """
import os, signal, sys
from tgi_llamacpp.step_page import StepPage
page = StepPage(int(sys.argv[1]))
page.begin([1, 10], 1)
page.end(1)
page.begin([7, 100, 1 << 40, 0], 32)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_says_what_a_killed_process_was_running() -> None:
    fd = create_page_file()
    page = StepPage(fd)
    program = [sys.executable, "-c", WRITER, str(fd)]
    done = subprocess.run(program, pass_fds=[fd], timeout=60, check=False)
    os.close(fd)
    assert done.returncode == -signal.SIGKILL
    entries = [StepEntry(7, 100), StepEntry(1 << 40, 0)]
    assert page.read() == PageState(num_beats=3, num_steps=1, num_rows=32, entries=entries)
    page.close()
    page.close()


def test_between_steps_it_names_nobody() -> None:
    page = StepPage()
    page.begin([7, 100], 1)
    page.end(5)
    assert page.read() == PageState(2, 5, 0, [])


def test_more_than_it_holds_is_left_out() -> None:
    page = StepPage()
    page.begin([7] * SIZE_BYTES, 1)
    assert 4000 < len(page.read().entries) < SIZE_BYTES // 16
