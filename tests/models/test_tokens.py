"""A text has the ids that llama.cpp's own tokenizer gives it."""

from __future__ import annotations

import pytest

from tests.models.conftest import Served
from tests.models.plain_loop import PlainLoop
from tests.models.texts import TEXTS

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]


def test_ids_of_texts_of_all_kinds_are_those_of_llama_tokenize(
    served: Served, plain_loop: PlainLoop
) -> None:
    bos = served.model.metadata.bos_id
    differences = {}
    for text in TEXTS:
        expected = plain_loop.tokenize(text, add_special=True)
        if expected is not None and bos is not None and expected[:2] == [bos, bos]:
            expected = expected[1:]  # the text brought its own, and one is enough
        found = [token["id"] for token in served.post("/tokenize", {"inputs": text})]
        if expected is not None and found != expected:
            differences[text] = (found, expected)
    assert differences == {}


def test_texts_that_llama_tokenize_does_not_survive_are_few(plain_loop: PlainLoop) -> None:
    """Of what it dies of, the test above compares nothing."""
    dies_of = [text for text in TEXTS if plain_loop.tokenize(text, add_special=True) is None]
    assert len(dies_of) < 5, dies_of
