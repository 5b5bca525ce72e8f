"""What OpenAI's log-probabilities call a token, so that no two tokens have one name.

A token that is no whole character has its bytes for a name, as OpenAI has it. Knows no answer's
form. Called by router/render_openai.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tgi_llamacpp.router.detokenizer import Detokenizer

_REPLACEMENT = "\ufffd"


def chat_name(token_id: int, detokenizer: Detokenizer) -> str:
    r"""`token` of a chat: the text, or the bytes as `\xf0\x9f` where they are no whole text."""
    text, data = detokenizer.token_text(token_id), detokenizer.token_bytes(token_id)
    return text if data is None or _is_whole(text, data) else _escaped(data)


def completion_names(
    token_id: int, others: Iterable[int], detokenizer: Detokenizer
) -> tuple[str, dict[int, str]]:
    r"""The names of a token and of its alternatives, which are the keys of `top_logprobs`.

    A name is the text, or `bytes:\xf0\x9f` where the bytes are no whole text. Different tokens may
    have one text, such as a letter and its byte: the token itself has the text then, next the
    likeliest, and each other one the form with bytes, or `token_id:7` where that is taken too.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    for one in (token_id, *others):
        if one not in names:
            names[one] = next(name for name in _candidates(one, detokenizer) if name not in taken)
            taken.add(names[one])
    return names[token_id], names


def _candidates(token_id: int, detokenizer: Detokenizer) -> Iterator[str]:
    text, data = detokenizer.token_text(token_id), detokenizer.token_bytes(token_id)
    if _is_whole(text, data):
        yield text
    if data is not None:
        yield f"bytes:{_escaped(data)}"
    yield f"token_id:{token_id}"


def _is_whole(text: str, data: bytes | None) -> bool:
    """Whether the text has all of the token's bytes, none of them replaced."""
    return _REPLACEMENT not in text or data == text.encode()


def _escaped(data: bytes) -> str:
    r"""Printable ASCII as it is, and every other byte as `\xf0`."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != ord("\\") else f"\\x{byte:02x}"
        for byte in data
    )
