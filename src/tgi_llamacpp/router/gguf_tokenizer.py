"""Builds a HF tokenizer from a GGUF file's vocabulary, for models that come without tokenizer.json.

The ids are those that llama.cpp's own tokenizer gives for the same text (tests compare them for
every vocabulary of the pinned source), computed by code that survives hostile text. What has no
faithful counterpart (Unigram, WordPiece, RWKV, PLaMo) is refused by name. Called by tokenizer.py.
"""

from __future__ import annotations

import re

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, TokenType
from tgi_llamacpp.router.pretokenizers import PRE_TOKENIZERS, PreTokenizer

_PADDING = re.compile(r"\[PAD\d+\]")
SPACE = "\u2581"  # SentencePiece writes a space so
_REMEDY = "put the model's tokenizer.json beside the GGUF file"
_KINDS_WITHOUT_COUNTERPART = {
    "t5": "a Unigram tokenizer",
    "bert": "a WordPiece tokenizer",
    "rwkv": "RWKV's tokenizer",
    "plamo2": "PLaMo's tokenizer",
    "plamo3": "PLaMo's tokenizer",
}
# Texts that end a generation for llama.cpp; it makes such tokens control tokens.
_END_LINE = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <eos> "
    "<|endoftext|> </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> "
    "<turn|> <|tool_response> <\uff5cend\u2581of\u2581sentence\uff5c> [e~[ <|ifm|im_end|>"
)
_END_TEXTS = frozenset(_END_LINE.split())

# The Phi-3 tokens that do not swallow the white space after them; all others of the family do.
_PHI3_KEEPS_SPACES_AFTER = frozenset(("<unk>", "<s>", "<|endoftext|>"))


def build_tokenizer(metadata: GgufMetadata) -> Tokenizer:
    """The tokenizer of a GGUF file; encoding adds BOS and EOS as the file says.

    Raises:
        StartupError: the kind of tokenizer, or its pre-tokenizer, has no counterpart here.
    """
    kind = metadata.tokenizer_model
    if kind in ("gpt2", "gemma4"):
        tokenizer = _build_bpe(metadata, _pre_tokenizer(metadata))
    elif kind == "llama":
        tokenizer = _build_sentencepiece(metadata)
    else:
        name = _KINDS_WITHOUT_COUNTERPART.get(kind, "a tokenizer that is not supported here")
        raise StartupError(
            f"{metadata.path} has {name} (tokenizer.ggml.model {kind!r:.80}), which is not built"
            f" from GGUF metadata; {_REMEDY}"
        )
    _add_tokens(tokenizer, metadata)
    set_special_tokens(tokenizer, *_framing(metadata))
    return tokenizer


def adds_bos(metadata: GgufMetadata) -> bool:
    """Whether llama.cpp puts BOS before a text."""
    if metadata.tokenizer_model == "llama":
        return metadata.add_bos is not False
    pre = _pre_tokenizer(metadata)
    if not pre.byte_level and pre.add_bos:
        return True  # Gemma 4: llama.cpp overrides a file that says no
    return pre.add_bos if metadata.add_bos is None else metadata.add_bos


def special_token_ids(metadata: GgufMetadata) -> frozenset[int]:
    """Control and unknown tokens, and those that end a generation: no part of generated text."""
    num_real = num_real_tokens(metadata)
    marked = metadata.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
    special = {i for i in marked if i < num_real}
    ends = {i for i, text in enumerate(metadata.tokens) if text in _END_TEXTS}
    if "<|tool_response>" in metadata.tokens:  # Gemma 4, where </s> is HTML
        ends.discard(metadata.tokens.index("</s>") if "</s>" in metadata.tokens else -1)
    ids = (metadata.bos_id, metadata.eos_id, metadata.eot_id)
    return frozenset(special | ends | {i for i in ids if i is not None})


def num_real_tokens(metadata: GgufMetadata) -> int:
    """The vocabulary's size without the padding that converters put behind it."""
    count = metadata.num_vocab
    while count and _PADDING.fullmatch(metadata.tokens[count - 1]):
        count -= 1
    return count


def set_special_tokens(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> None:
    """Makes `tokenizer` put these around a text that is encoded with special tokens."""
    parts = [part for part in (bos, "$A", eos) if part is not None]
    specials = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token is not None]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=parts, pair=[*parts, "$B"], special_tokens=specials
    )


def _framing(metadata: GgufMetadata) -> tuple[str | None, str | None]:
    bos_id = metadata.bos_id if adds_bos(metadata) else None
    eos_id = metadata.eos_id if metadata.add_eos else None
    return (
        None if bos_id is None else metadata.tokens[bos_id],
        None if eos_id is None else metadata.tokens[eos_id],
    )


def _pre_tokenizer(metadata: GgufMetadata) -> PreTokenizer:
    name = "gemma4" if metadata.tokenizer_model == "gemma4" else metadata.pre
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        raise StartupError(
            f"{metadata.path} has the pre-tokenizer {name!r:.80}, which is not known"
            f" here; {_REMEDY}"
        )
    return pre


def _vocabulary(metadata: GgufMetadata) -> dict[str, int]:
    try:
        "".join(metadata.tokens).encode()
    except UnicodeEncodeError as error:
        raise StartupError(
            f"{metadata.path} has a token that is not UTF-8, which cannot be built from GGUF "
            f"metadata; {_REMEDY}"
        ) from error
    return {token: token_id for token_id, token in enumerate(metadata.tokens)}


def _build_bpe(metadata: GgufMetadata, pre: PreTokenizer) -> Tokenizer:
    vocabulary = _vocabulary(metadata)
    if not metadata.merges:
        raise StartupError(f"{metadata.path} has no tokenizer.ggml.merges; {_REMEDY}")
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(metadata.merges, vocabulary),
            ignore_merges=pre.ignore_merges,
            byte_fallback=not pre.byte_level,
        )
    )
    cuts: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns
    ]
    if pre.byte_level:
        cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        tokenizer.decoder = _sentencepiece_decoder(strip=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return tokenizer


def _merges(lines: list[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The merges by rank: of equal pairs the first counts; both sides and the sum are tokens."""
    merges: dict[tuple[str, str], None] = {}
    for line in lines:
        space = line.find(" ", 1)
        left, right = line[:space], line[space + 1 :]
        if space > 0 and left in vocabulary and right in vocabulary and left + right in vocabulary:
            merges.setdefault((left, right))
    return list(merges)


def _build_sentencepiece(metadata: GgufMetadata) -> Tokenizer:
    vocabulary = _vocabulary(metadata)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges_of_scores(metadata, vocabulary), byte_fallback=True)
    )
    adds_space = metadata.add_space_prefix is not False
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    if adds_space:
        steps.insert(0, normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = _sentencepiece_decoder(strip=adds_space)
    return tokenizer


def _merges_of_scores(metadata: GgufMetadata, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece merges whatever pair gives the best-scored token: all ways to make each one."""
    scores = metadata.scores.tolist()
    ranked: list[tuple[float, int, str, str]] = []
    for token, token_id in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[token_id], token_id, left, right))
    ranked.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in ranked]


def _sentencepiece_decoder(strip: bool) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _add_tokens(tokenizer: Tokenizer, metadata: GgufMetadata) -> None:
    """Control and unknown tokens as special ones, user-defined ones as plain added tokens."""
    special = special_token_ids(metadata)
    num_real = num_real_tokens(metadata)
    user_defined = {i for i in metadata.ids_of(TokenType.USER_DEFINED) if i < num_real}
    phi3 = re.search("phi-?3", metadata.name or "", re.IGNORECASE) is not None
    texts = [(metadata.tokens[i], i in special) for i in sorted(special | user_defined)]
    tokenizer.add_tokens(
        [
            AddedToken(
                text,
                special=is_special,
                normalized=False,
                rstrip=phi3 and text not in _PHI3_KEEPS_SPACES_AFTER,
            )
            for text, is_special in texts
        ]
    )
