from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tgi_llamacpp.router.stop_strings import StopMatcher

# Two letters make overlaps and repeats likely.
_texts = st.text(alphabet="ab", max_size=30)
_stops = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


def _reference(text: str, stops: list[str]) -> tuple[int, int] | None:
    """(start, end) of the stop string that is complete first, the longest of those."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return end - max(map(len, ending)), end
    return None


@st.composite
def _chunked(draw: st.DrawFn) -> list[str]:
    text = draw(_texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    bounds = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


@given(_chunked(), _stops, st.booleans())
def test_any_chunking_shows_what_plain_search_finds(
    chunks: list[str], stops: list[str], keep_stop: bool
) -> None:
    matcher = StopMatcher(stops, keep_stop=keep_stop)
    shown = ""
    for chunk in chunks:
        shown += matcher.push(chunk)
        if matcher.is_stopped:
            break
    shown += matcher.flush()
    text = "".join(chunks)
    found = _reference(text, stops)
    assert matcher.is_stopped == (found is not None)
    if found is None:
        assert shown == text
    else:
        assert shown == text[: found[1] if keep_stop else found[0]]


@given(_chunked(), _stops)
def test_only_the_beginning_of_a_stop_string_is_held_back(
    chunks: list[str], stops: list[str]
) -> None:
    matcher = StopMatcher(stops, keep_stop=False)
    given_text = shown = ""
    for chunk in chunks:
        given_text += chunk
        shown += matcher.push(chunk)
        if matcher.is_stopped:
            return
        held = given_text[len(shown) :]
        assert not held or any(s.startswith(held) and s != held for s in stops)


def test_text_that_stays_is_shown_at_once() -> None:
    matcher = StopMatcher(["END"], keep_stop=True)
    assert matcher.push("an E") == "an E"
    assert matcher.push("N") == "N"
    assert matcher.push("D of it") == "D"


def test_a_very_long_stop_string_costs_no_time() -> None:
    matcher = StopMatcher(["a" * 1_000_000 + "b"], keep_stop=False)
    for _ in range(2000):
        matcher.push("aaaa")
    assert matcher.flush() == "a" * 8000
