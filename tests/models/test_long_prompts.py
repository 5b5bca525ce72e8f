"""Prompts shorter and longer than a sliding window, computed, cached, extended and branching."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.models.conftest import Served
from tests.models.doors import COMPLETIONS, texts_at_once
from tests.models.equal_text import num_equal
from tests.models.plain_loop import PlainLoop
from tests.models.texts import inventory

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

NUM_TOKENS = 12


def prompt_of(plain_loop: PlainLoop, length: int, first_box: int) -> list[int]:
    """So many ids of a text of its own."""
    ids = plain_loop.tokenize(inventory(first_box, length // 8 + 8), add_special=True)
    assert ids is not None
    assert len(ids) >= length
    return ids[:length]


def complete(served: Served, ids: list[int]) -> tuple[str, int]:
    """The text, and how many tokens of the prompt were not computed."""
    body = {"prompt": ids, "temperature": 0, "max_tokens": NUM_TOKENS}
    answer: Any = served.post(COMPLETIONS, body)
    details = answer["usage"]["prompt_tokens_details"]
    return answer["choices"][0]["text"], details["cached_tokens"]


@pytest.mark.parametrize("length", [100, 600, 3000])
def test_a_prompt_goes_on_as_in_a_plain_loop_however_much_of_it_is_cached(
    length: int, served: Served, plain_loop: PlainLoop
) -> None:
    if length + 200 > served.model.max_total_tokens:
        pytest.skip(f"its context has {served.model.max_total_tokens} tokens")
    prompt = prompt_of(plain_loop, length, first_box=length)
    expected = plain_loop.greedy(prompt, NUM_TOKENS)
    is_kept = served.model.keeps_beginnings
    text, num_cached = complete(served, prompt)
    assert num_cached < 16  # BOS and the like
    assert num_equal(text, expected) > 0
    text, num_cached = complete(served, prompt)
    assert num_cached == length - 1 or not is_kept
    assert num_equal(text, expected) > 0

    answered = [token.id for token in expected[:-1]]
    extended = prompt + answered + prompt_of(plain_loop, 40, first_box=7)[1:]
    text, num_cached = complete(served, extended)
    assert num_cached >= length - 1
    num_equal(text, plain_loop.greedy(extended, NUM_TOKENS))

    half = length // 2
    branches = [prompt[:half] + prompt_of(plain_loop, half, first_box=n)[1:] for n in (11, 5000)]
    text, num_cached = complete(served, branches[0])
    assert num_cached >= half or not is_kept
    branched = [plain_loop.greedy(branch, NUM_TOKENS) for branch in branches]
    num_equal(text, branched[0])
    texts = asyncio.run(
        texts_at_once(served.process.url, COMPLETIONS, branches, NUM_TOKENS, streamed=True)
    )
    for text, tokens in zip(texts, branched, strict=True):
        num_equal(text, tokens)
