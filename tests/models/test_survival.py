"""A model whose engine is killed in the middle of streams, and one that is loaded anew."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.models.conftest import Served
from tests.models.doors import COMPLETIONS, texts_at_once
from tests.models.equal_text import num_equal
from tests.models.plain_loop import PlainLoop
from tests.models.texts import inventory

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

NUM_STREAMS = 4
NUM_TOKENS = 24


def check_streams(served: Served, plain_loop: PlainLoop, act: Callable[[], None]) -> None:
    """Streams in the middle of which something happens: their clients do not notice."""
    prompts = [inventory(2000 + 100 * number, 4) for number in range(NUM_STREAMS)]
    num_events = 0

    def on_event() -> None:
        nonlocal num_events
        num_events += 1
        if num_events == NUM_STREAMS * NUM_TOKENS // 3:
            act()

    url = served.process.url
    texts = asyncio.run(
        texts_at_once(url, COMPLETIONS, prompts, NUM_TOKENS, streamed=True, on_event=on_event)
    )
    for prompt, text in zip(prompts, texts, strict=True):
        ids = plain_loop.tokenize(prompt, add_special=True)
        assert ids is not None
        assert num_equal(text, plain_loop.greedy(ids, NUM_TOKENS)) > NUM_TOKENS // 4


def test_streams_go_on_in_the_next_engine_when_one_is_killed(
    served: Served, plain_loop: PlainLoop
) -> None:
    killed = served.engine_pid
    check_streams(served, plain_loop, lambda: os.kill(killed, signal.SIGKILL))
    assert served.engine_pid != killed
    assert served.client.get("/health").status_code == 200


def test_streams_go_on_when_the_model_is_loaded_anew(served: Served, plain_loop: PlainLoop) -> None:
    """Under another name, since one that has not changed is not loaded again."""
    other = served.config.parent / "again" / served.model.path.name
    other.parent.mkdir()
    for part in served.model.path.parent.iterdir():
        if part.is_file():
            (other.parent / part.name).symlink_to(part.resolve())
    former = served.engine_pid

    def act() -> None:
        served.name_model(other)
        served.process.signal(signal.SIGHUP)

    check_streams(served, plain_loop, act)
    served.process.wait_for("sequences moved to engine")
    assert served.engine_pid != former
    assert served.client.get("/info").json()["model_id"] == str(other)
