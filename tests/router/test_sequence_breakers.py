"""Which tokens hold a text, on a real vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_llamacpp import demo
from tgi_llamacpp.errors import ValidationError
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.samplers import DEFAULT_BREAKERS
from tgi_llamacpp.router.sequence_breakers import SequenceBreakers
from tgi_llamacpp.router.tokenizer import load_tokenizer

DEMO = Path(demo.__path__[0])
DETOKENIZER = Detokenizer(load_tokenizer(read_metadata(DEMO / "demo.gguf"), folder=DEMO))
BREAKERS = SequenceBreakers(DETOKENIZER)
TEXTS = [DETOKENIZER.token_bytes(i) or b"" for i in range(DETOKENIZER.num_vocab)]


@given(st.lists(st.text('\n:*"abc .<|\u00e9', min_size=1, max_size=3), max_size=4))
def test_every_token_that_holds_a_breaker_is_found_and_no_other(breakers: list[str]) -> None:
    wanted = [text.encode() for text in breakers]
    expected = [i for i, text in enumerate(TEXTS) if any(want in text for want in wanted)]
    assert BREAKERS.ids(breakers, may_miss=True).tolist() == expected


def test_the_default_breakers_are_there() -> None:
    texts = [DETOKENIZER.token_text(i) for i in BREAKERS.ids(DEFAULT_BREAKERS, may_miss=True)]
    assert {"\n", ":", '"', "*"} <= set(texts)


def test_a_breaker_of_several_tokens_is_refused() -> None:
    assert BREAKERS.ids(["\nUser:"], may_miss=True).size == 0
    with pytest.raises(ValidationError, match="which no token of this model does"):
        BREAKERS.ids(["\n", "\nUser:"], may_miss=False)
