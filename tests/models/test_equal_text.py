"""The rule by which the tests on real models call two texts equal."""

from __future__ import annotations

import pytest

from tests.models.equal_text import MARGIN, num_equal
from tests.models.plain_loop import Likeliest

SURE, TIE = 2 * MARGIN, MARGIN / 2


def tokens(*pieces: tuple[str | bytes, float]) -> list[Likeliest]:
    return [
        Likeliest(number, piece.encode() if isinstance(piece, str) else piece, lead)
        for number, (piece, lead) in enumerate(pieces)
    ]


EXPECTED = tokens((" one", SURE), (" two", TIE), (" three", SURE))


def test_the_same_text_is_equal_in_all_tokens() -> None:
    assert num_equal(" one two three", EXPECTED) == 3


def test_another_token_in_place_of_one_that_hardly_leads_ends_what_is_equal() -> None:
    assert num_equal(" one too many", EXPECTED) == 1


@pytest.mark.parametrize("text", [" one two four", " one two", " any", ""])
def test_another_token_in_place_of_one_that_surely_comes_is_an_error(text: str) -> None:
    with pytest.raises(AssertionError, match="and is another"):
        num_equal(text, EXPECTED)


def test_a_text_that_goes_on_after_the_end_is_an_error() -> None:
    with pytest.raises(AssertionError, match="goes on"):
        num_equal(" one two three four", EXPECTED)


def test_a_character_that_is_cut_at_the_end_does_not_count() -> None:
    cut = tokens((" a", SURE), (b"\xe2\x82", SURE))
    assert num_equal(" a\N{REPLACEMENT CHARACTER}", cut) == 2


def test_a_character_of_several_tokens_may_differ_where_any_of_them_hardly_leads() -> None:
    first_is_tie = tokens((" a", SURE), (b"\xe2\x82", TIE), (b"\xac", SURE))
    assert num_equal(" a\N{EURO SIGN}", first_is_tie) == 3
    assert num_equal(" a\N{POUND SIGN}", first_is_tie) == 1
    with pytest.raises(AssertionError, match="and is another"):
        num_equal(" a\N{POUND SIGN}", tokens((" a", SURE), (b"\xe2\x82", SURE), (b"\xac", SURE)))
