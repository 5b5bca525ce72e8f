"""The names of tokens in OpenAI's log-probabilities: no two tokens of one entry share a name."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import MakeServer, sse_events
from tests.fake_engine import FakeToken
from tests.fake_text import FIRST_BYTE, FakeDetokenizer
from tgi_llamacpp.messages import Finish, Submit
from tgi_llamacpp.router.token_names import chat_name, completion_names

PATH = "/v1/completions"
LETTER, BYTE = ord("A"), FIRST_BYTE + ord("A")  # two tokens, one text
PARTS = [FIRST_BYTE + byte for byte in (0xF0, 0x9F, 0xC3, 0xA9)]


class _WithoutBytes(FakeDetokenizer):
    """As one of a tokenizer whose decoder makes no text of a lone token."""

    def token_bytes(self, token_id: int) -> bytes | None:
        return None if "\ufffd" in self.token_text(token_id) else super().token_bytes(token_id)


class _Words(FakeDetokenizer):
    def __init__(self, **words: bytes) -> None:
        self._words = list(words.values())

    def token_bytes(self, token_id: int) -> bytes:
        return self._words[token_id]

    def token_text(self, token_id: int) -> str:
        return self._words[token_id].decode(errors="replace")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xf0\x9f", r"bytes:\xf0\x9f"),
        (b" \xe2\x80", r"bytes: \xe2\x80"),
        (b"a\\\n\xff", r"bytes:a\x5c\x0a\xff"),
        ("\ufffd".encode(), "\ufffd"),
        (b"", ""),
        (b"\\xf0", "\\xf0"),
        ("é".encode(), "é"),
    ],
)
def test_a_name_is_the_text_or_bytes_that_are_no_text(data: bytes, name: str) -> None:
    detokenizer = _Words(one=data)
    assert completion_names(0, [], detokenizer)[0] == name
    assert chat_name(0, detokenizer) == name.removeprefix("bytes:")


def test_without_bytes_there_is_the_id() -> None:
    name, names = completion_names(PARTS[0], PARTS, _WithoutBytes())
    assert name == f"token_id:{PARTS[0]}"
    assert len(set(names.values())) == len(PARTS)
    assert chat_name(PARTS[0], _WithoutBytes()) == "\ufffd"


def test_tokens_of_one_text_and_of_the_same_bytes_have_names_of_their_own() -> None:
    detokenizer = _Words(a=b"", b=b"", c=b"", d=b"bytes:")
    _, names = completion_names(0, [3, 1, 2, 0], detokenizer)
    assert names == {0: "", 3: "bytes:", 1: "token_id:1", 2: "token_id:2"}


def tops_of(
    make_server: MakeServer, own: int, tops: list[int], *, stream: bool = False
) -> tuple[str, dict[str, float]]:
    """The name of one token, and the log-probabilities of its alternatives by name."""
    pairs = [(token_id, -1.0 - place) for place, token_id in enumerate(tops)]

    def script(submit: Submit) -> list[FakeToken]:
        return [FakeToken(own, -9.0, Finish.LENGTH, pairs[: submit.params.num_top_tokens])]

    body = {"prompt": "a", "logprobs": len(tops), "max_tokens": 1, "stream": stream}
    response = httpx.post(make_server(script).url + PATH, json=body)
    answer = sse_events(response)[0] if stream else response.json()
    logprobs = answer["choices"][0]["logprobs"]
    return logprobs["tokens"][0], logprobs["top_logprobs"][0]


@pytest.mark.parametrize("stream", [False, True])
def test_parts_of_characters_are_alternatives_of_their_own(
    make_server: MakeServer, stream: bool
) -> None:
    own, tops = tops_of(make_server, PARTS[1], PARTS, stream=stream)
    assert own == r"bytes:\x9f"
    assert list(tops) == [r"bytes:\xf0", r"bytes:\x9f", r"bytes:\xc3", r"bytes:\xa9"]
    assert list(tops.values()) == [-1.0, -2.0, -3.0, -4.0]


@pytest.mark.parametrize(
    ("own", "tops", "names"),
    [
        (LETTER, [LETTER, BYTE], ["A", "bytes:A"]),
        (BYTE, [LETTER, BYTE], ["bytes:A", "A"]),
        (BYTE, [LETTER], ["bytes:A"]),
        (ord("b"), [LETTER, BYTE], ["A", "bytes:A"]),
    ],
)
def test_a_token_has_the_best_key_only_where_it_is_the_likeliest(
    make_server: MakeServer, own: int, tops: list[int], names: list[str]
) -> None:
    """As harnesses look whether a token is the greedy one."""
    name, logprobs = tops_of(make_server, own, tops)
    assert list(logprobs) == names
    best = max(logprobs, key=logprobs.__getitem__)
    assert (best == name) is (tops[0] == own)


def test_the_tokens_of_a_prompt_are_named_alike(make_server: MakeServer) -> None:
    prompt = [LETTER, *PARTS[2:]]
    body = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 0}
    server = make_server(lambda submit: [])
    answer = httpx.post(server.url + PATH, json=body)
    assert answer.json()["choices"][0]["text"].startswith("A")
    assert answer.json()["choices"][0]["logprobs"]["tokens"] == [
        "A",
        r"bytes:\xc3",
        r"bytes:\xa9",
    ]
