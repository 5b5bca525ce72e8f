"""When a text of the server equals that of the plain loop: "Equal text" in docs/architecture.md.

llama.cpp's kernels round differently by the number of rows: between passes of one row and of eight
the log-probabilities of Gemma 3 270M as Q4_K_M differ by 0.03 to 0.09 in the mean and by 0.64 at
most. So where two tokens are nearly as likely either may come, and after it all is another text.
The plain loop asks both kinds of kernels; the margin is for texts that went through each by turns.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.models.plain_loop import Likeliest

MARGIN = 0.5  # of logits


def text_of(tokens: Sequence[Likeliest]) -> str:
    """What clients see of them."""
    return b"".join(token.piece for token in tokens).decode("utf-8", "replace")


def num_equal(text: str, expected: Sequence[Likeliest]) -> int:
    """How many of the expected tokens the text begins with.

    Raises:
        AssertionError: it leaves them where the likeliest token leads by more than the margin.
    """
    if without_cut(text) == without_cut(text_of(expected)):
        return len(expected)
    differ = (n for n in range(len(expected) + 1) if not text.startswith(whole(expected[:n])))
    count = next(differ, None)
    assert count is not None, f"{text!r} goes on after {text_of(expected)!r}"
    # The first bytes of a character do not show, so the difference may have come with them.
    first = max(n for n in range(count) if whole(expected[:n]).encode() == bytes_of(expected[:n]))
    leads = [token.lead for token in expected[first:count]]
    assert min(leads) < MARGIN, (
        f"token {first + 1} of {len(expected)} leads by {leads} and is another: "
        f"{text!r} instead of {text_of(expected)!r}"
    )
    return first


def bytes_of(tokens: Sequence[Likeliest]) -> bytes:
    return b"".join(token.piece for token in tokens)


def whole(tokens: Sequence[Likeliest]) -> str:
    """Their text, without the first bytes of a character at its end."""
    return without_cut(text_of(tokens))


def without_cut(text: str) -> str:
    return text.rstrip("\N{REPLACEMENT CHARACTER}")
