"""The model's tokenizer: its files, the check against the GGUF, and the workers that encode."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.router.tiny_vocabulary import sentencepiece
from tgi_llamacpp import demo
from tgi_llamacpp.errors import StartupError, ValidationError
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.tokenizer import (
    LoadedTokenizer,
    TokenizerPool,
    TokenSpan,
    load_tokenizer,
)

Result = TypeVar("Result")
DEMO = Path(demo.__path__[0])
METADATA = read_metadata(DEMO / "demo.gguf")
TEXTS = ["What is 12 + 30?", "", " \n", "caf\u00e9 \U0001f600", "<|im_start|>user\nhi<|im_end|>"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo model's text files."""
    for path in DEMO.glob("*.json"):
        shutil.copy(path, tmp_path)
    return tmp_path


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def complaint_about(folder: Path, **options: Path) -> str:
    with pytest.raises(StartupError) as caught:
        load_tokenizer(METADATA, folder=folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_folders_tokenizer_is_taken(folder: Path) -> None:
    loaded = load_tokenizer(METADATA, folder=folder)
    assert loaded.source == str(folder / "tokenizer.json")
    assert loaded.num_vocab == METADATA.num_vocab
    assert (loaded.bos_token, loaded.eos_token) == (None, "<|im_end|>")
    assert loaded.eos_id == METADATA.tokens.index("<|im_end|>")
    assert loaded.eos_id in loaded.extra_eog_ids
    assert {loaded.piece(i) for i in loaded.special_ids} >= {"<|im_start|>", "<|im_end|>"}
    assert not loaded.adds_bos
    assert (loaded.piece(loaded.num_vocab), loaded.piece(-1)) == (None, None)


@pytest.mark.parametrize("folder_or_none", [None, Path("/nowhere")])
def test_a_model_without_tokenizer_json_gets_the_same_ids(folder_or_none: Path | None) -> None:
    built = load_tokenizer(METADATA, folder=folder_or_none)
    own = load_tokenizer(METADATA, folder=DEMO)
    assert built.source.startswith("GGUF metadata (gpt2, pre ")
    assert built.special_ids == own.special_ids
    assert (built.eos_token, built.num_vocab) == (own.eos_token, own.num_vocab)
    for text in TEXTS:
        ids = own.tokenizer.encode(text, add_special_tokens=True).ids
        assert built.tokenizer.encode(text, add_special_tokens=True).ids == ids


def test_a_tokenizer_of_another_model_is_refused_with_both_pieces(folder: Path) -> None:
    def swap(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    change_json(folder / "tokenizer.json", swap)
    message = complaint_about(folder)
    assert f"does not belong to {METADATA.path}" in message
    assert "is 'a' in the one and 'b' in the other" in message or (
        "is 'b' in the one and 'a' in the other" in message
    )


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert f"has token {METADATA.num_vocab} ('<|extra|>')" in complaint_about(folder)


def test_added_tokens_may_be_named_differently(folder: Path) -> None:
    def rename(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"][-1]["content"] = "<|renamed|>"

    change_json(folder / "tokenizer.json", rename)
    assert load_tokenizer(METADATA, folder=folder).num_vocab == METADATA.num_vocab


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("tokenizer.json", "{}", "tokenizer.json is no tokenizer: "),
        ("tokenizer.json", "not json", "tokenizer.json is no tokenizer: "),
        ("tokenizer_config.json", "not json", "tokenizer_config.json is not JSON: "),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds no JSON object"),
        ("generation_config.json", "{", "generation_config.json is not JSON: "),
        ("generation_config.json", '{"eos_token_id": 99999}', "names 99999 as eos_token_id"),
    ],
)
def test_a_broken_file_is_one_sentence(folder: Path, name: str, content: str, found: str) -> None:
    (folder / name).write_text(content)
    assert found in complaint_about(folder)


def test_an_explicit_tokenizer_config_stands_for_the_folders(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.json"
    config.write_text('{"bos_token": {"content": "<|endoftext|>"}, "eos_token": "<|im_end|>"}')
    loaded = load_tokenizer(METADATA, folder=folder, tokenizer_config_path=config)
    assert loaded.bos_token == "<|endoftext|>"
    assert "cannot be read" in complaint_about(folder, tokenizer_config_path=tmp_path / "absent")


@pytest.mark.parametrize(("eos", "ids"), [(3, [3]), ([3, 4], [3, 4]), (None, [])])
def test_generation_config_names_one_end_or_several(
    folder: Path, eos: object, ids: list[int]
) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert load_tokenizer(METADATA, folder=folder).extra_eog_ids == ids


def test_special_tokens_come_from_the_map_where_the_config_is_silent(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"bos_token": null}')
    tokens = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|endoftext|>"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    loaded = load_tokenizer(METADATA, folder=folder)
    assert (loaded.bos_token, loaded.eos_token) == (None, "<|endoftext|>")


def test_add_bos_token_of_the_config_counts(folder: Path) -> None:
    def add_bos(config: dict[str, Any]) -> None:
        config |= {"bos_token": "<|endoftext|>", "add_bos_token": True, "add_eos_token": True}

    change_json(folder / "tokenizer_config.json", add_bos)
    loaded = load_tokenizer(METADATA, folder=folder)
    ids = loaded.tokenizer.encode("hi", add_special_tokens=True).ids
    assert loaded.adds_bos
    assert (ids[0], ids[-1]) == (loaded.bos_id, loaded.eos_id)
    assert ids[1:-1] == loaded.tokenizer.encode("hi", add_special_tokens=False).ids


def test_truncation_and_padding_of_a_tokenizer_file_are_off(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(METADATA, folder=folder)
    assert len(loaded.tokenizer.encode("one two three four five six").ids) > 3
    assert len(loaded.tokenizer.encode("one").ids) < 50


def test_a_quadratic_pattern_of_a_tokenizer_file_is_made_linear(folder: Path) -> None:
    def look_for_trailing_space(tokenizer: dict[str, Any]) -> None:
        split = {
            "type": "Split",
            "pattern": {"Regex": r"\s+$"},
            "behavior": "Isolated",
            "invert": False,
        }
        cuts = [split, tokenizer["pre_tokenizer"]]
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": cuts}

    change_json(folder / "tokenizer.json", look_for_trailing_space)
    loaded = load_tokenizer(METADATA, folder=folder)
    start = time.process_time()
    ids = loaded.tokenizer.encode(" " * 100_000 + "1").ids
    assert time.process_time() - start < 10  # it took 75 s
    assert loaded.tokenizer.decode(ids) == " " * 100_000 + "1"


@asynccontextmanager
async def workers(loaded: LoadedTokenizer, num_workers: int = 2) -> AsyncIterator[TokenizerPool]:
    pool = TokenizerPool(loaded, num_workers)
    try:
        yield pool
    finally:
        pool.close()


def run(main: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(main)


DEMO_TOKENIZER = load_tokenizer(METADATA, folder=DEMO)


def test_workers_encode_what_the_tokenizer_encodes() -> None:
    async def main() -> list[np.ndarray]:
        async with workers(DEMO_TOKENIZER) as pool:
            jobs = [pool.encode(text, add_special_tokens=True) for text in TEXTS * 20]
            return await asyncio.gather(*jobs)

    encoded = run(main())
    expected = [DEMO_TOKENIZER.tokenizer.encode(text).ids for text in TEXTS * 20]
    assert [ids.tolist() for ids in encoded] == expected
    assert {ids.dtype for ids in encoded} == {np.dtype(np.int32)}


def test_it_is_known_whose_ids_are_on_their_way() -> None:
    async def main() -> list[int]:
        left: list[int] = []
        async with workers(DEMO_TOKENIZER) as pool:

            async def encode() -> None:
                await pool.encode("one of several", add_special_tokens=True)
                left.append(pool.num_encoding)

            await asyncio.gather(*(encode() for _ in range(4)))
        return left

    assert run(main()) == [3, 2, 1, 0]


def test_the_event_loop_goes_on_while_a_long_text_is_encoded() -> None:
    async def main() -> int:
        async with workers(DEMO_TOKENIZER) as pool:
            text = "a long text without an end " * 20_000
            job = asyncio.create_task(pool.encode(text, add_special_tokens=True))
            num_turns = 0
            while not job.done():
                await asyncio.sleep(0)
                num_turns += 1
            return num_turns

    assert run(main()) > 100


def test_offsets_are_bytes_of_the_text() -> None:
    text = "caf\u00e9 \U0001f600!"

    async def main() -> list[TokenSpan]:
        async with workers(DEMO_TOKENIZER) as pool:
            return await pool.encode_with_offsets(text, add_special_tokens=True)

    spans = run(main())
    data = text.encode()
    assert [span.id for span in spans] == DEMO_TOKENIZER.tokenizer.encode(text).ids
    assert all(data[span.start : span.stop].decode() == span.text for span in spans)
    assert (spans[0].start, spans[-1].stop) == (0, len(data))
    assert {"\u00e9", "\U0001f600"} <= {character for span in spans for character in span.text}


def test_tokens_that_the_tokenizer_added_stand_for_nothing(tmp_path: Path) -> None:
    loaded = load_tokenizer(sentencepiece(tmp_path))

    async def main() -> list[TokenSpan]:
        async with workers(loaded) as pool:
            return await pool.encode_with_offsets("ab", add_special_tokens=True)

    bos, word = run(main())
    assert bos == (loaded.bos_id, "", 0, 0)
    assert word[1:] == ("ab", 0, 2)


@pytest.mark.parametrize("text", ["<s>ab", "ab"])
def test_bos_is_never_doubled(tmp_path: Path, text: str) -> None:
    loaded = load_tokenizer(sentencepiece(tmp_path))
    assert loaded.adds_bos

    async def main() -> tuple[list[int], list[int]]:
        async with workers(loaded) as pool:
            ids = await pool.encode(text, add_special_tokens=True)
            spans = await pool.encode_with_offsets(text, add_special_tokens=True)
            return ids.tolist(), [span.id for span in spans]

    ids, ids_of_spans = run(main())
    assert ids == ids_of_spans == [loaded.bos_id, *ids[1:]]
    assert ids.count(1) == 1


def test_without_special_tokens_a_bos_in_the_text_stays(tmp_path: Path) -> None:
    loaded = load_tokenizer(sentencepiece(tmp_path))

    async def main() -> list[int]:
        async with workers(loaded) as pool:
            ids = await pool.encode("<s><s>ab", add_special_tokens=False)
            return [int(i) for i in ids]

    assert run(main())[:2] == [1, 1]


def test_a_lone_surrogate_is_a_validation_error() -> None:
    async def main() -> None:
        async with workers(DEMO_TOKENIZER) as pool:
            await pool.encode("a\ud800", add_special_tokens=True)

    with pytest.raises(ValidationError, match="half of a surrogate pair"):
        run(main())


def test_other_jobs_run_in_the_workers_and_raise_what_they_raise() -> None:
    async def main() -> int:
        async with workers(DEMO_TOKENIZER, 1) as pool:
            with pytest.raises(ZeroDivisionError):
                await pool.run(divmod, 1, 0)
            return await pool.run(int, "20", base=16)

    assert run(main()) == 32
