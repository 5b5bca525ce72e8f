"""Ids to text: the tokenizer's own decoding, token by token, and no broken characters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.router.tiny_vocabulary import sentencepiece
from tgi_llamacpp import demo
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, load_tokenizer

DEMO = Path(demo.__path__[0])
BYTE_LEVEL = load_tokenizer(read_metadata(DEMO / "demo.gguf"), folder=DEMO)
NUM_VOCAB = BYTE_LEVEL.num_vocab
END = BYTE_LEVEL.eos_id
assert END is not None
BYTE_IDS = [
    BYTE_LEVEL.tokenizer.token_to_id(c) for c in sorted(pre_tokenizers.ByteLevel.alphabet())
]


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    return load_tokenizer(sentencepiece(tmp_path_factory.mktemp("spm")))


def ids_of(loaded: LoadedTokenizer, text: str) -> list[int]:
    return list(loaded.tokenizer.encode(text, add_special_tokens=False).ids)


def byte_ids(loaded: LoadedTokenizer, data: bytes) -> list[int]:
    """One token for every byte."""
    ids = [loaded.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data]
    assert None not in ids
    return ids


def pushed(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    """The deltas of ordinary tokens, and what the end gives."""
    stream = detokenizer.stream()
    deltas = [(i, stream.push(i)) for i in ids]
    return [text for i, text in deltas if not detokenizer.is_special(i)] + [stream.flush()]


@given(st.lists(st.integers(0, NUM_VOCAB - 1), max_size=60))
def test_deltas_join_to_what_the_tokenizer_decodes(ids: list[int]) -> None:
    expected = BYTE_LEVEL.tokenizer.decode(ids, skip_special_tokens=True)
    detokenizer = Detokenizer(BYTE_LEVEL)
    assert "".join(pushed(detokenizer, ids)) == expected
    assert detokenizer.decode(ids) == expected


@given(st.lists(st.sampled_from([*BYTE_IDS, END]), max_size=40))
def test_any_bytes_decode_as_the_tokenizer_decodes_them(ids: list[int]) -> None:
    """Single bytes are mostly no characters; special tokens among them split none."""
    expected = BYTE_LEVEL.tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pushed(Detokenizer(BYTE_LEVEL), ids)) == expected


@given(st.text(max_size=60))
def test_text_comes_back_and_is_never_broken_on_the_way(text: str) -> None:
    ids = ids_of(BYTE_LEVEL, text)
    deltas = pushed(Detokenizer(BYTE_LEVEL), ids)
    assert "".join(deltas) == BYTE_LEVEL.tokenizer.decode(ids, skip_special_tokens=True)
    if END not in ids and "\ufffd" not in text and "<|" not in text:
        assert "".join(deltas) == text
        assert deltas[-1] == ""
        assert all("\ufffd" not in delta for delta in deltas)


def test_a_character_of_several_tokens_comes_with_its_last() -> None:
    ids = ids_of(BYTE_LEVEL, "\U0001f600")
    assert len(ids) > 1
    assert pushed(Detokenizer(BYTE_LEVEL), ids) == [""] * (len(ids) - 1) + ["\U0001f600", ""]


def test_a_broken_tail_is_replaced_at_the_end() -> None:
    ids = ids_of(BYTE_LEVEL, "a\U0001f600")[:-1]
    deltas = pushed(Detokenizer(BYTE_LEVEL), ids)
    assert deltas[0] == "a"
    assert deltas[-1] == "\ufffd"
    assert set(deltas[1:-1]) == {""}


def test_a_special_token_has_its_own_text_and_is_no_part_of_the_generated_one() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL)
    (first, *_, last) = ids_of(BYTE_LEVEL, "\U0001f600")
    stream = detokenizer.stream()
    assert detokenizer.is_special(END)
    assert not detokenizer.is_special(first)
    assert [stream.push(i) for i in (first, END)] == ["", "<|im_end|>"]
    assert detokenizer.token_text(END) == "<|im_end|>"
    assert detokenizer.decode([first, END, last]) == BYTE_LEVEL.tokenizer.decode([first, last])


def test_the_engines_end_tokens_are_special_too() -> None:
    (ordinary,) = ids_of(BYTE_LEVEL, "a")
    detokenizer = Detokenizer(BYTE_LEVEL, extra_special_ids=[ordinary])
    assert detokenizer.is_special(ordinary)
    assert detokenizer.decode([ordinary]) == ""
    assert detokenizer.token_text(ordinary) == "a"


def test_padding_ids_are_no_text() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL)
    assert [detokenizer.token_text(i) for i in (NUM_VOCAB, NUM_VOCAB + 7, -1)] == ["", "", ""]


def test_an_added_token_is_written_as_it_is(tmp_path: Path) -> None:
    """An added token is text, also where its letters would be bytes in the byte alphabet."""
    tokenizer = Tokenizer.from_str(BYTE_LEVEL.tokenizer.to_str())
    tokenizer.add_tokens(["\u00f5"])
    added = tokenizer.token_to_id("\u00f5")
    loaded = LoadedTokenizer(tokenizer, "test", added + 1, {}, frozenset(), [], False)
    assert Detokenizer(loaded).decode([added]) == "\u00f5"


@given(st.text(max_size=40))
def test_the_bytes_of_a_text_are_those_of_its_tokens(
    byte_fallback: LoadedTokenizer, text: str
) -> None:
    """Also of tokens that are no whole character."""
    ids = ids_of(BYTE_LEVEL, text)
    detokenizer = Detokenizer(BYTE_LEVEL)
    data = b"".join(detokenizer.token_bytes(i) or b"" for i in ids)
    assert data == BYTE_LEVEL.tokenizer.decode(ids, skip_special_tokens=False).encode()
    detokenizer = Detokenizer(byte_fallback)
    emoji = "\U0001f600".encode()
    parts = [detokenizer.token_bytes(i) for i in byte_ids(byte_fallback, emoji)]
    assert parts == [emoji[place : place + 1] for place in range(4)]


def test_what_a_decoder_cannot_say_of_a_lone_token_has_no_bytes() -> None:
    detokenizer = Detokenizer(wordpiece())
    assert detokenizer.token_bytes(3) == b"we"
    assert detokenizer.token_bytes(5) is None


def test_generated_text_keeps_the_space_of_its_first_token(byte_fallback: LoadedTokenizer) -> None:
    ids = ids_of(byte_fallback, "ab ab")
    assert pushed(Detokenizer(byte_fallback), ids) == [" ab", " ab", ""]
    assert byte_fallback.tokenizer.decode(ids) == "ab ab"  # a text that begins here


@given(st.text(alphabet="ab \u00e9\u4f60\u597d\U0001f600\u0301", max_size=30))
def test_byte_fallback_decodes_as_the_tokenizer_does(
    byte_fallback: LoadedTokenizer, text: str
) -> None:
    ids = ids_of(byte_fallback, text)
    generated = Detokenizer(byte_fallback).decode(ids)
    assert generated.removeprefix(" ") == byte_fallback.tokenizer.decode(ids)
    assert generated == (f" {text}" if text else "")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xe4\xbd\xa0", "\u4f60"),
        (b"\xe4\xbd\xa0\xff", "\u4f60\ufffd"),
        (b"\xe4\xbda", "\ufffda"),
        (b"\xe4\xbd", "\ufffd"),
        (b"\xf0\x9f\x98\x80", "\U0001f600"),
    ],
)
def test_bytes_that_are_no_characters_are_replaced(
    byte_fallback: LoadedTokenizer, data: bytes, text: str
) -> None:
    assert Detokenizer(byte_fallback).decode(byte_ids(byte_fallback, data)) == text


def test_a_word_ends_a_broken_character(byte_fallback: LoadedTokenizer) -> None:
    ids = [*byte_ids(byte_fallback, b"\xe4\xbd"), *ids_of(byte_fallback, "ab")]
    assert pushed(Detokenizer(byte_fallback), ids) == ["", "", "\ufffd ab", ""]


def wordpiece() -> LoadedTokenizer:
    vocabulary = {"[UNK]": 0, "un": 1, "##able": 2, "we": 3, "are": 4, "\ufffd": 5}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return LoadedTokenizer(tokenizer, "test", 6, {}, frozenset([0]), [], False)


def test_other_decoders_are_asked_token_by_token() -> None:
    loaded = wordpiece()
    deltas = pushed(Detokenizer(loaded), [3, 4, 0, 1, 2])
    assert deltas == ["we", " are", " un", "able", ""]


@given(st.lists(st.integers(1, 4), max_size=30))
def test_other_decoders_join_to_what_the_tokenizer_decodes(ids: list[int]) -> None:
    loaded = wordpiece()
    assert "".join(pushed(Detokenizer(loaded), ids)) == loaded.tokenizer.decode(ids)


def test_other_decoders_do_not_hold_broken_text_for_ever() -> None:
    deltas = pushed(Detokenizer(wordpiece()), [5] * 20)
    assert deltas[7] != ""
    assert "".join(deltas) == " ".join(["\ufffd"] * 20)
