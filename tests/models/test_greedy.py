"""Greedy texts are those of a plain loop over the C API, through every door, alone and together."""

from __future__ import annotations

import asyncio

import pytest

from tests.models.conftest import MAX_BATCH_SIZE, Served
from tests.models.doors import CHAT, DOORS, texts_at_once
from tests.models.equal_text import num_equal
from tests.models.plain_loop import Likeliest, PlainLoop
from tests.models.texts import PROMPTS

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

NUM_TOKENS = 12
# Of all tokens: what comes after two that are nearly as likely cannot be compared.
LEAST_SHARE_EQUAL = 0.75


class Expected:
    """What the plain loop goes on with, computed when it is first asked for."""

    def __init__(self, served: Served, plain_loop: PlainLoop) -> None:
        self._served = served
        self._plain_loop = plain_loop
        self._tokens: dict[bool, list[list[Likeliest]]] = {}

    def through(self, door: str) -> list[list[Likeliest]]:
        """For each of PROMPTS."""
        is_chat = door == CHAT
        if is_chat not in self._tokens:
            ids = [self._ids(prompt, is_chat) for prompt in PROMPTS]
            self._tokens[is_chat] = [self._plain_loop.greedy(one, NUM_TOKENS) for one in ids]
        return self._tokens[is_chat]

    def _ids(self, prompt: str, is_chat: bool) -> list[int]:
        if is_chat:
            body = {"messages": [{"role": "user", "content": prompt}]}
            prompt = self._served.post("/chat_tokenize", body)["templated_text"]
        ids = self._plain_loop.tokenize(prompt, add_special=not is_chat)
        assert ids is not None
        return ids


@pytest.fixture(scope="module")
def expected(served: Served, plain_loop: PlainLoop) -> Expected:
    return Expected(served, plain_loop)


@pytest.mark.parametrize("at_once", [1, MAX_BATCH_SIZE], ids=["alone", "together"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("door", DOORS)
def test_twenty_prompts_go_on_as_in_a_plain_loop(
    door: str, streamed: bool, at_once: int, served: Served, expected: Expected
) -> None:
    url = served.process.url
    texts = asyncio.run(
        texts_at_once(url, door, PROMPTS, NUM_TOKENS, streamed=streamed, at_once=at_once)
    )
    tokens = expected.through(door)
    counts = [num_equal(text, one) for text, one in zip(texts, tokens, strict=True)]
    assert sum(counts) >= LEAST_SHARE_EQUAL * sum(map(len, tokens)), counts
