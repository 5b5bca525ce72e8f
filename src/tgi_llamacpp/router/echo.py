"""A prompt as `echo` puts it before its completion: its text, and where each token is in it.

Owns the offsets of prompt tokens. Called by router/openai_completions.py.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.prompt_scores import PromptScores
from tgi_llamacpp.router.render_openai import TextLogprob
from tgi_llamacpp.router.services import TextTools
from tgi_llamacpp.router.tokenizer import TokenSpan


class Echo:
    """`scores` come with the generation; without them there are no log-probabilities."""

    def __init__(self, text: str, offsets: list[int]) -> None:
        self.text = text
        self.scores: PromptScores | None = None
        self._offsets = offsets  # one for each token where scores will come

    def logprobs(self) -> Iterator[TextLogprob]:
        """The prompt's entries, in order; none without scores."""
        if self.scores is not None:
            for token, offset in zip(self.scores.tokens(), self._offsets, strict=True):
                yield TextLogprob(token.id, token.logprob, token.alternatives, offset)


NO_ECHO = Echo("", [])


async def make_echo(
    tools: TextTools, prompt: str | list[int], text: str, prompt_ids: bytes, has_offsets: bool
) -> Echo:
    """The echo of one prompt, whose text is `text`. prompt_ids: int32[n]."""
    if not has_offsets:
        return Echo(text, [])
    ids = array("i", prompt_ids).tolist()
    if isinstance(prompt, str):
        spans = await tools.pool.encode_with_offsets(prompt, add_special_tokens=True)
        if [span.id for span in spans] == ids:
            return Echo(text, _offsets_of_spans(text, spans))
    return Echo(text, _offsets_of_ids(ids, tools.detokenizer))


def _offsets_of_spans(text: str, spans: Iterable[TokenSpan]) -> list[int]:
    """Characters, from places in bytes; what the tokenizer added stands where it was put."""
    data, offsets = text.encode(), []
    num_bytes = num_characters = 0
    for span in spans:
        if span.start > num_bytes:  # spans ascend, but for those of the tokenizer, which are 0
            num_characters += len(data[num_bytes : span.start].decode(errors="replace"))
            num_bytes = span.start
        offsets.append(num_characters)
    return offsets


def _offsets_of_ids(ids: Iterable[int], detokenizer: Detokenizer) -> list[int]:
    """As Detokenizer.decode joins them: special tokens have no text."""
    stream, offset, offsets = detokenizer.stream(), 0, []
    for token_id in ids:
        offsets.append(offset)
        if not detokenizer.is_special(token_id):
            offset += len(stream.push(token_id))
    return offsets
