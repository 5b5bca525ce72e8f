from tests.fake_text import BOS, EOS, FIRST_BYTE, FakeDetokenizer
from tgi_llamacpp.messages import Finish
from tgi_llamacpp.router.generation import FinishReason, SequenceText, TokenEvent
from tgi_llamacpp.router.mailbox import Row

LOVE, TO, CODE = 5360, 304, 775


def _run(
    rows: list[tuple[int, Finish]],
    stop: list[str] | None = None,
    *,
    keep_stop: bool = True,
    min_tokens: int = 0,
) -> list[TokenEvent]:
    text = SequenceText(
        FakeDetokenizer(), stop or [], keep_stop=keep_stop, choice=0, min_tokens=min_tokens
    )
    events = []
    for token_id, finish in rows:
        events.append(text.push(Row(0, token_id, -1.0, finish, None)))
        if text.finish is not None:
            break
    return events


def _tokens(*ids: int, last: Finish = Finish.NONE) -> list[tuple[int, Finish]]:
    return [(i, Finish.NONE) for i in ids[:-1]] + [(ids[-1], last)]


def _text(events: list[TokenEvent]) -> str:
    return "".join(event.visible for event in events)


def test_special_tokens_show_their_text_and_add_none() -> None:
    events = _run(_tokens(LOVE, BOS, TO, EOS, last=Finish.EOG))
    assert [event.text for event in events] == [" love", "<s>", " to", "</s>"]
    assert [event.is_special for event in events] == [False, True, False, True]
    assert _text(events) == " love to"
    assert events[-1].finish is FinishReason.EOS


def test_the_end_of_generation_comes_before_a_stop_string() -> None:
    events = _run([(LOVE, Finish.EOG)], [" love"])
    assert events[-1].finish is FinishReason.EOS


def test_a_stop_string_comes_before_the_length() -> None:
    events = _run(_tokens(LOVE, TO, last=Finish.LENGTH), [" to"])
    assert events[-1].finish is FinishReason.STOP


def test_stop_text_stays_on_tgis_routes_and_what_follows_it_goes() -> None:
    events = _run(_tokens(LOVE, TO, CODE), ["ve t"])
    assert _text(events) == " love t"
    assert len(events) == 2
    assert events[-1].finish is FinishReason.STOP


def test_stop_text_is_cut_on_openais_routes_with_nothing_shown_before() -> None:
    events = _run(_tokens(LOVE, TO, CODE), ["ve t"], keep_stop=False)
    assert [event.visible for event in events] == [" lo", ""]


def test_held_back_text_appears_when_nothing_more_comes() -> None:
    events = _run(_tokens(LOVE, last=Finish.LENGTH), ["ve t"], keep_stop=False)
    assert _text(events) == " love"
    events = _run(_tokens(LOVE, EOS, last=Finish.EOG), ["ve t"], keep_stop=False)
    assert _text(events) == " love"


def test_a_character_is_shown_with_its_last_byte() -> None:
    ids = [FIRST_BYTE + byte for byte in "é".encode()]
    events = _run(_tokens(*ids, LOVE, last=Finish.LENGTH))
    assert [event.visible for event in events] == ["", "é", " love"]


def test_a_broken_tail_is_replaced_at_the_end() -> None:
    (event,) = _run(_tokens(FIRST_BYTE + 0xC3, last=Finish.LENGTH))
    assert event.visible == "\ufffd"
    events = _run(_tokens(FIRST_BYTE + 0xC3, EOS, last=Finish.EOG))
    assert _text(events) == "\ufffd"


def test_a_stop_string_may_span_special_tokens() -> None:
    events = _run(_tokens(LOVE, BOS, TO, CODE), ["love to"])
    assert _text(events) == " love to"
    assert events[-1].finish is FinishReason.STOP


def test_a_stop_string_ends_nothing_before_the_least_tokens() -> None:
    rows = _tokens(LOVE, TO, LOVE, TO, CODE, last=Finish.LENGTH)
    for min_tokens, text in ((0, ""), (1, ""), (2, " love to"), (4, " love to love to code")):
        events = _run(rows, [" love"], keep_stop=False, min_tokens=min_tokens)
        assert _text(events) == text
        is_stopped = events[-1].finish is FinishReason.STOP
        assert is_stopped == (min_tokens < 4)
