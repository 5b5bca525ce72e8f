"""Tokenizers built from GGUF metadata: llama.cpp's ids, hostile text, and refusals by name."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from tests.llamacpp_source import llamacpp_source
from tests.router import gguf_writer as writer
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.gguf_file import read_gguf
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, parse_metadata
from tgi_llamacpp.router.gguf_tokenizer import build_tokenizer
from tgi_llamacpp.router.pretokenizers import PRE_TOKENIZERS
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = ["llamacpp_source"]

BUILT = [
    "aquila",
    "baichuan",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "gpt-neox",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
]
REFUSED = {"bert-bge": "a WordPiece tokenizer", "nomic-bert-moe": "a Unigram tokenizer"}
BETWEEN_TEXTS = "\n__ggml_vocab_test__\n"
NUM_LETTERS = 100_000
MAX_SECONDS = 10  # of CPU time; linear ones take 0.1, a quadratic one more than 60

CORPUS = [
    "Hello, world!  Two spaces,\ttabs\n\nand lines\r\n  \n",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 flag \U0001f1e9\U0001f1ea",
    "skin \U0001f44b\U0001f3fd keycap 1\ufe0f\u20e3 heart \u2764\ufe0f\u200d\U0001f525",
    "combining e\u0301 n\u0303 o\u0302\u0323\u0308 \u0915\u094d\u0937\u093f \u0e20\u0e32",
    "\u4f60\u597d\u4e16\u754c\uff0c\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3002\U00020000",
    "\ud55c\uad6d\uc5b4 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5 \U0001d518\U0001d52b",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \ufeff\u200b\u00a0\u2028\u0085 \ufffd\U0010ffff \0\7\177",
    "def f(x):\n    return {'a': [1, 22, 333, 4444], \"b\": 3.14e-10}  # \u2026",
]


def metadata_of(source: Path, name: str) -> GgufMetadata:
    return parse_metadata(read_gguf(source / f"models/ggml-vocab-{name}.gguf"))


@pytest.fixture(scope="module", params=BUILT)
def vocabulary(request: pytest.FixtureRequest, llamacpp_source: Path) -> Path:
    return llamacpp_source / f"models/ggml-vocab-{request.param}.gguf"


@pytest.fixture(scope="module")
def loaded(vocabulary: Path) -> LoadedTokenizer:
    return load_tokenizer(parse_metadata(read_gguf(vocabulary)))


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def test_the_vocabularies_are_all_that_the_source_has(llamacpp_source: Path) -> None:
    files = (llamacpp_source / "models").glob("ggml-vocab-*.gguf")
    names = {path.stem.removeprefix("ggml-vocab-") for path in files}
    assert names == {*BUILT, *REFUSED}


def test_ids_are_those_of_llama_cpp(vocabulary: Path, loaded: LoadedTokenizer) -> None:
    inputs = vocabulary.with_name(vocabulary.name + ".inp")
    if not inputs.exists():
        return  # a vocabulary that came without ids
    texts = inputs.read_bytes().decode().split(BETWEEN_TEXTS)
    lines = inputs.with_suffix(".out").read_text().split("\n")  # the last text may be empty
    assert 40 < len(texts) <= len(lines)
    assert not any(lines[len(texts) :])
    wrong = {
        text: (ids, line)
        for text, line in zip(texts, lines, strict=False)
        if (ids := encode(loaded.tokenizer, text)) != [int(number) for number in line.split()]
    }
    assert wrong == {}


@pytest.mark.parametrize("letters", ["a", "1", " ", "\u4e2d", "a1", " \n"], ids=ascii)
def test_a_hundred_thousand_equal_letters_are_encoded(
    loaded: LoadedTokenizer, letters: str
) -> None:
    text = letters * (NUM_LETTERS // len(letters))
    start = time.process_time()
    ids = encode(loaded.tokenizer, text)
    assert time.process_time() - start < MAX_SECONDS
    assert Detokenizer(loaded).decode(ids).removeprefix(prefix_of(loaded)) == text


def test_text_survives_the_way_through_ids(loaded: LoadedTokenizer) -> None:
    detokenizer = Detokenizer(loaded)
    for text in CORPUS:
        stream = detokenizer.stream()
        deltas = [stream.push(token_id) for token_id in encode(loaded.tokenizer, text)]
        assert "".join(deltas) == prefix_of(loaded) + text
        assert stream.flush() == ""
        assert all(delta in prefix_of(loaded) + text for delta in deltas)


def prefix_of(loaded: LoadedTokenizer) -> str:
    """SentencePiece puts a space before the text, unless the file says otherwise."""
    decoded = Detokenizer(loaded).decode(encode(loaded.tokenizer, "a"))
    return decoded.removesuffix("a")


@pytest.mark.parametrize(("name", "kind"), REFUSED.items())
def test_a_tokenizer_without_counterpart_is_refused_by_name(
    llamacpp_source: Path, name: str, kind: str
) -> None:
    metadata = metadata_of(llamacpp_source, name)
    with pytest.raises(StartupError, match=f"has {kind} .*put the model's tokenizer.json beside"):
        build_tokenizer(metadata)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"pre": "of-next-year"}, "the pre-tokenizer 'of-next-year', which is not known"),
        ({"tokenizer_model": "rwkv"}, "RWKV's tokenizer"),
        ({"tokenizer_model": "of-next-year"}, "a tokenizer that is not supported here"),
        ({"merges": []}, "has no tokenizer.ggml.merges"),
        ({"tokens": ["a", "b", "ab", "\udcff"]}, "has a token that is not UTF-8"),
    ],
)
def test_what_cannot_be_built_is_refused(
    tmp_path: Path, changes: dict[str, object], found: str
) -> None:
    metadata = replace(tiny_bpe(tmp_path), **changes)  # type: ignore[arg-type]
    with pytest.raises(StartupError, match=found):
        build_tokenizer(metadata)


def tiny_bpe(folder: Path, **values: writer.Value) -> GgufMetadata:
    keys: dict[str, writer.Value] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>", "</s>", "<tool>", "[PAD6]"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3, 3, 4, 4],
        "tokenizer.ggml.merges": ["a b", "a zz", "b a"],
        "tokenizer.ggml.bos_token_id": 3,
        "tokenizer.ggml.eos_token_id": 4,
    }
    keys |= {f"tokenizer.ggml.{name}": value for name, value in values.items()}
    return parse_metadata(read_gguf(writer.write(folder, writer.gguf(keys))))


def test_merges_of_pieces_that_are_no_tokens_are_left_out(tmp_path: Path) -> None:
    assert encode(build_tokenizer(tiny_bpe(tmp_path)), "abba") == [2, 1, 0]


def test_bos_and_eos_are_added_as_the_file_says(tmp_path: Path) -> None:
    plain = build_tokenizer(tiny_bpe(tmp_path))
    framed = build_tokenizer(tiny_bpe(tmp_path, add_bos_token=True, add_eos_token=True))
    assert plain.encode("ab", add_special_tokens=True).ids == [2]
    assert framed.encode("ab", add_special_tokens=True).ids == [3, 2, 4]
    assert framed.encode("ab", add_special_tokens=False).ids == [2]


def test_control_and_user_defined_tokens_are_parsed_and_padding_is_not(tmp_path: Path) -> None:
    loaded = load_tokenizer(tiny_bpe(tmp_path))
    assert encode(loaded.tokenizer, "a<tool>b</s>[PAD6]") == [0, 5, 1, 4]
    assert loaded.special_ids == {3, 4}
    assert loaded.num_vocab == 6


CUTS = {
    "gpt-2": ("it's 1234  x", ["it", "'s", " 1234", " ", " x"]),
    "llama-bpe": ("it'S 12345\n\n x", ["it", "'S", " ", "123", "45", "\n\n", " x"]),
    "qwen2": ("a12 b!\n", ["a", "1", "2", " b", "!\n"]),
    "starcoder": ("x12 y", ["x", "1", "2", " y"]),
    "tekken": ("camelCase XMLHttp12", ["camel", "Case", " XMLHttp", "1", "2"]),
    "gpt-4o": ("We'll fooBar 1234/\n", ["We'll", " foo", "Bar", " ", "123", "4", "/\n"]),
    "deepseek-v3": ("1234 \u4f60\u597dab", ["123", "4", " ", "\u4f60\u597d", "ab"]),
    "deepseek-llm": ("ab 12  ", ["ab", " ", "12", "  "]),
    "afmoe": ("1234567 x", ["1", "234", "567", " x"]),
    "superbpe": ("ab 12345", ["ab ", "12", "345"]),
    "kimi-k2": ("\u4f60\u597dAb 12", ["\u4f60\u597d", "Ab", " ", "12"]),
    "laguna": ("a\nb", ["a", "\n", "b"]),
    "bloom": ("Hi, you", ["Hi", ",", " you"]),
    "gemma4": ("a b\n\nc", ["a b", "\n\n", "c"]),
    "": ("a.b 1234", ["a", ".", "b", " ", "123", "4"]),
}


def cut(pre: str, text: str) -> list[str]:
    splits: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[pre].patterns
    ]
    return [piece for piece, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(text)]


@pytest.mark.parametrize(("pre", "text", "pieces"), [(k, *v) for k, v in CUTS.items()])
def test_words_are_cut_as_the_pre_tokenizer_says(pre: str, text: str, pieces: list[str]) -> None:
    assert cut(pre, text) == pieces


RUNS = ["a", "A", "1", " ", "\u4e2d", "!", "\u0301", "a ", "1 "]
FAMILIES = {pre.patterns: name for name, pre in PRE_TOKENIZERS.items()}


@pytest.mark.parametrize("pre", FAMILIES.values())
def test_no_pattern_is_quadratic(pre: str) -> None:
    """20,000 letters take some 10 ms; what is quadratic takes 3 s."""
    for run in RUNS:
        for end in ("1", "x"):
            text = run * (20_000 // len(run)) + end
            start = time.process_time()
            assert "".join(cut(pre, text)) == text
            assert time.process_time() - start < 1.5
