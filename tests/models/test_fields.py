"""Fields that look into tokens, on tokens that a model has learnt: n, logprobs, echo, stop."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.conftest import Served
from tests.models.doors import COMPLETIONS, GENERATE
from tests.models.equal_text import MARGIN, num_equal, text_of, whole
from tests.models.plain_loop import Likeliest, PlainLoop
from tests.models.texts import PROMPTS, inventory

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

NUM_TOKENS = 12


def ids_of(plain_loop: PlainLoop, prompt: str) -> list[int]:
    ids = plain_loop.tokenize(prompt, add_special=True)
    assert ids is not None
    return ids


def test_choices_of_one_prompt_are_the_likeliest_text_or_drawn_each_by_its_seed(
    served: Served, plain_loop: PlainLoop
) -> None:
    body = {"prompt": PROMPTS[0], "n": 4, "max_tokens": NUM_TOKENS}
    greedy = served.post(COMPLETIONS, body | {"temperature": 0})["choices"]
    expected = plain_loop.greedy(ids_of(plain_loop, PROMPTS[0]), NUM_TOKENS)
    assert [choice["index"] for choice in greedy] == [0, 1, 2, 3]
    for choice in greedy:
        num_equal(choice["text"], expected)
    drawn = served.post(COMPLETIONS, body | {"temperature": 2.0, "seed": 1})["choices"]
    assert len({choice["text"] for choice in drawn}) == 4


def test_echo_and_logprobs_give_a_prompt_the_probabilities_of_a_plain_loop(
    served: Served, plain_loop: PlainLoop
) -> None:
    prompt = inventory(300, 8)
    body = {"prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 0}
    (choice,) = served.post(COMPLETIONS, body)["choices"]
    first, *found = choice["logprobs"]["token_logprobs"]
    assert choice["text"] == prompt
    assert first is None
    expected = plain_loop.score(ids_of(plain_loop, prompt))
    assert found == pytest.approx(expected, abs=2 * MARGIN)
    assert np.mean(np.abs(np.subtract(found, expected))) < MARGIN / 5
    for offset, token in zip(
        choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"], strict=True
    ):
        assert prompt.startswith(token, offset) or offset == 0


def test_the_likeliest_token_leads_its_alternatives_by_what_the_plain_loop_says(
    served: Served, plain_loop: PlainLoop
) -> None:
    body = {"prompt": PROMPTS[2], "logprobs": 2, "max_tokens": NUM_TOKENS, "temperature": 0}
    (choice,) = served.post(COMPLETIONS, body)["choices"]
    expected = plain_loop.greedy(ids_of(plain_loop, PROMPTS[2]), NUM_TOKENS)
    count = num_equal(choice["text"], expected)
    assert count > NUM_TOKENS // 2
    for token, best in zip(expected[:count], choice["logprobs"]["top_logprobs"], strict=False):
        highest, second = sorted(best.values(), reverse=True)
        assert highest - second == pytest.approx(token.lead, abs=2 * MARGIN)


def test_a_stop_string_inside_a_token_ends_the_text_there(
    served: Served, plain_loop: PlainLoop
) -> None:
    num_tried = 0
    for prompt in PROMPTS:
        expected = plain_loop.greedy(ids_of(plain_loop, prompt), NUM_TOKENS)
        position = _to_stop_in(expected)
        if position is None:
            continue
        num_tried += 1
        if num_tried > 3:
            break
        before, piece = whole(expected[:position]), text_of(expected[position : position + 1])
        stop = piece[1:-1]
        body = {"prompt": prompt, "stop": [stop], "temperature": 0, "max_tokens": NUM_TOKENS}
        (choice,) = served.post(COMPLETIONS, body)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (before + piece[0], "stop")
        parameters = {"max_new_tokens": NUM_TOKENS, "stop": [stop], "details": True}
        answer = served.post(GENERATE, {"inputs": prompt, "parameters": parameters})
        assert answer["generated_text"] == before + piece[:-1]
        assert answer["details"]["finish_reason"] == "stop_sequence"
        assert answer["details"]["generated_tokens"] == position + 1
    assert num_tried > 0


def _to_stop_in(tokens: list[Likeliest]) -> int | None:
    """A token whose inner letters come first there, and that surely comes."""
    for position, token in enumerate(tokens):
        if token.lead < MARGIN:
            return None
        text = token.piece.decode("utf-8", "replace")
        inner = text[1:-1]
        is_new = inner not in text_of(tokens[:position]) + text[:-2]
        if position >= 2 and len(text) > 3 and text.strip().isalpha() and is_new:
            return position
    return None
