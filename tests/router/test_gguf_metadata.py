"""GGUF files: what is read from a good one, and the one sentence for each bad one."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.router import gguf_writer as writer
from tgi_llamacpp import demo
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.gguf_file import read_gguf
from tgi_llamacpp.router.gguf_metadata import (
    GgufMetadata,
    TokenType,
    parse_metadata,
    pieces_hash,
    read_metadata,
)

DEMO = Path(demo.__path__[0]) / "demo.gguf"
VOCABULARY: dict[str, writer.Value] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "llama.context_length": 512,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<|end|>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages }}",
    "tokenizer.chat_template.tool_use": "{{ tools }}",
}


def metadata_of(folder: Path, changes: dict[str, writer.Value]) -> GgufMetadata:
    return read_metadata(writer.write(folder, writer.model(VOCABULARY | changes)))


def complaint_about(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        read_metadata(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_the_keys_of_a_model_are_read(tmp_path: Path) -> None:
    metadata = metadata_of(tmp_path, {})
    assert (metadata.architecture, metadata.name) == ("llama", "Tiny")
    assert metadata.context_length == 512
    assert metadata.tokens == ["a", "b", "ab", "<|end|>"]
    assert metadata.merges == ["a b"]
    assert metadata.token_types.tolist() == [1, 1, 1, 3]
    assert metadata.scores.tolist() == [0, 0, 0, 0]
    assert metadata.ids_of(TokenType.CONTROL) == [3]
    assert (metadata.bos_id, metadata.eos_id, metadata.add_bos) == (None, 3, False)
    assert metadata.chat_templates == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}


def test_every_type_of_value_arrives_as_written(tmp_path: Path) -> None:
    values: dict[str, writer.Value] = {
        "flag": True,
        "count": 7,
        "rate": 0.5,
        "text": "é",
        "flags": [True, False],
        "counts": [-1, 2],
        "texts": ["x", "", "\u4e2d"],
    }
    read = read_gguf(writer.write(tmp_path, writer.gguf(values))).values
    assert {key: read[key] for key in ("flag", "count", "rate", "text", "texts")} == {
        key: values[key] for key in ("flag", "count", "rate", "text", "texts")
    }
    assert np.array_equal(read["flags"], [True, False])
    assert np.array_equal(read["counts"], [-1, 2])


def test_sentencepiece_models_have_llama_cpps_default_special_tokens(tmp_path: Path) -> None:
    values = dict(VOCABULARY) | {"tokenizer.ggml.model": "llama"}
    del values["tokenizer.ggml.eos_token_id"]
    metadata = read_metadata(writer.write(tmp_path, writer.model(values)))
    assert (metadata.unk_id, metadata.bos_id, metadata.eos_id) == (0, 1, 2)


def test_a_special_token_beyond_the_vocabulary_is_none(tmp_path: Path) -> None:
    assert metadata_of(tmp_path, {"tokenizer.ggml.eos_token_id": 4}).eos_id is None


def test_token_texts_are_those_that_llama_cpp_holds(tmp_path: Path) -> None:
    texts = ["", "a\0b", "\0", b"\xff"]
    metadata = metadata_of(tmp_path, {"tokenizer.ggml.tokens": texts})  # type: ignore[dict-item]
    assert metadata.tokens == ["[EMPTY_0]", "a", "[EMPTY_2]", "\udcff"]


def test_pieces_hash_is_lengths_and_bytes() -> None:
    expected = (
        struct.pack("<I", 2) + "é".encode() + struct.pack("<I", 0) + struct.pack("<I", 1) + b"\xff"
    )
    assert pieces_hash(["é", "", "\udcff"]) == hashlib.sha256(expected).hexdigest()


def test_the_demo_model_is_read() -> None:
    metadata = read_metadata(DEMO)
    assert metadata.context_length == 2048
    assert "default" in metadata.chat_templates
    assert len(metadata.pieces_hash()) == 64


def test_a_file_cut_anywhere_is_one_sentence(tmp_path: Path) -> None:
    whole = writer.model(VOCABULARY)
    for length in range(len(whole)):
        complaint_about(writer.write(tmp_path, whole[:length]))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, damage: st.DataObject) -> None:
    content = bytearray(writer.model(VOCABULARY))
    for _ in range(damage.draw(st.integers(1, 8))):
        place = damage.draw(st.integers(0, len(content) - 1))
        content[place] = damage.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    path = writer.write(tmp_path, bytes(content))
    message = ""
    try:
        read_metadata(path)
    except StartupError as error:
        message = str(error)
    assert "\n" not in message


def test_a_truncated_tensor_is_named_with_both_sizes(tmp_path: Path) -> None:
    path = writer.write(tmp_path, writer.model(VOCABULARY)[:-10])
    size = path.stat().st_size
    message = complaint_about(path)
    assert f"tensor 'token_embd.weight' ends at byte {size + 10}, the file has {size}" in message
    assert "download it again" in message


def raw_pair(key: str, kind: int, rest: bytes) -> bytes:
    return writer.text(key) + struct.pack("<I", kind) + rest


def header(num_tensors: int, num_pairs: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_pairs) + rest


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(64), "is not a GGUF file"),
        (writer.gguf({}, version=1), "of GGUF version 1"),
        (b"GGUF\x00\x00\x00\x03" + bytes(16), "big-endian"),
        (header(0, 2**60), f"claims {2**60} keys"),
        (header(2**60, 0), f"and {2**60} tensors"),
        (header(0, 1, struct.pack("<Q", 2**63) + bytes(64)), "end inside key number 0"),
        (header(0, 1, struct.pack("<Q", 2**17) + bytes(2**18)), "the limit is 65536"),
        (header(0, 1, raw_pair("k", 8, struct.pack("<Q", 2**40))), "end inside the value of 'k'"),
        (header(0, 1, raw_pair("k", 9, struct.pack("<IQ", 8, 2**50))), "end inside the value"),
        (header(0, 1, raw_pair("k", 9, struct.pack("<IQ", 5, 2**62))), "end inside the value"),
        (header(0, 1, raw_pair("k", 9, struct.pack("<IQ", 9, 1) + bytes(64))), "unknown type 9"),
        (header(0, 1, raw_pair("k", 77, bytes(64))), "unknown type 77"),
        (header(0, 2, 2 * raw_pair("k", 4, bytes(4))), "key 'k' is there twice"),
        (header(0, 1, raw_pair("", 4, bytes(4))), "is empty"),
        (writer.gguf({"general.alignment": 24}), "not a power of two"),
        (writer.gguf({}, [writer.tensor("t", (1,) * 5)]), "has 5 dimensions"),
        (writer.gguf({}, [writer.tensor("t", kind=31)]), "unknown type 31"),
        (writer.gguf({}, [writer.tensor("t", (2**32, 2**32))]), "impossible shape"),
        (writer.gguf({}, [writer.tensor("t", (33,), kind=2)]), "impossible shape"),
        (
            writer.gguf({}, [writer.tensor("t", offset=64)], data=bytes(256)),
            "offset 64, expected 0",
        ),
        (
            writer.gguf({}, [writer.tensor("t"), writer.tensor("t", offset=128)], data=bytes(256)),
            "tensor 't' is there twice",
        ),
        (writer.gguf({}, [writer.tensor("t" * 64)], data=bytes(128)), "the limit is 63"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    assert found in complaint_about(writer.write(tmp_path, content))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"tokenizer.ggml.tokens": ["a", "b", "a"]},
            "tokens 0 and 2 of its vocabulary are both 'a'",
        ),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokenizer.ggml.tokens is of type"),
        ({"tokenizer.ggml.token_type": [1]}, "has 1 entries for 4 tokens"),
        ({"tokenizer.ggml.token_type": ["a"]}, "tokenizer.ggml.token_type is of type"),
        ({"tokenizer.chat_template": 7}, "tokenizer.chat_template is of type int, expected str"),
        ({"tokenizer.ggml.add_bos_token": 1}, "expected bool"),
        ({"llama.context_length": "512"}, "expected int"),
        ({"general.architecture": ""}, "names no general.architecture"),
        ({"tokenizer.ggml.tokens": []}, "has no vocabulary"),
    ],
)
def test_keys_with_impossible_values_are_refused(
    tmp_path: Path, changes: dict[str, writer.Value], found: str
) -> None:
    assert found in complaint_about(writer.write(tmp_path, writer.model(VOCABULARY | changes)))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"general.architecture": "t5"}, "an encoder-decoder model"),
        ({"general.architecture": "t5encoder"}, "an embedding model"),
        ({"general.architecture": "nomic-bert"}, "an embedding model"),
        ({"general.architecture": "dream"}, "a diffusion model"),
        ({"general.architecture": "clip"}, "the vision part of a model"),
        ({"general.architecture": "wavtokenizer-dec"}, "a speech model"),
        ({"general.architecture": "eagle3"}, "a draft model"),
        ({"general.type": "adapter"}, "a file of type adapter"),
        ({"llama.pooling_type": 3}, "an embedding model"),
        ({"llama.attention.causal": False}, "a model without causal attention"),
    ],
)
def test_models_that_generate_no_text_are_refused_by_kind(
    tmp_path: Path, changes: dict[str, writer.Value], kind: str
) -> None:
    message = complaint_about(writer.write(tmp_path, writer.model(VOCABULARY | changes)))
    assert f"is {kind} (architecture" in message
    assert "generates no text" in message


def test_a_vocabulary_without_weights_is_no_model(tmp_path: Path) -> None:
    path = writer.write(tmp_path, writer.gguf(VOCABULARY))
    assert "holds a vocabulary and no weights" in complaint_about(path)
    assert parse_metadata(read_gguf(path)).tokens == VOCABULARY["tokenizer.ggml.tokens"]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in complaint_about(tmp_path / "absent.gguf")
    assert "is not a regular file" in complaint_about(tmp_path)


def write_parts(folder: Path, numbers: range) -> list[Path]:
    return [
        writer.write(
            folder,
            writer.model((VOCABULARY if n == 1 else {}) | {"split.count": 3, "split.no": n - 1}),
            f"big-{n:05}-of-00003.gguf",
        )
        for n in numbers
    ]


def test_a_model_in_parts_is_read_from_its_first_part(tmp_path: Path) -> None:
    first, *_ = write_parts(tmp_path, range(1, 4))
    metadata = read_metadata(first)
    assert metadata.tokens == VOCABULARY["tokenizer.ggml.tokens"]
    assert metadata.num_tensors == 3


def test_parts_may_be_named_in_upper_case(tmp_path: Path) -> None:
    first, *_ = [
        path.rename(path.with_name(path.name.upper()))
        for path in write_parts(tmp_path, range(1, 4))
    ]
    assert first.name == "BIG-00001-OF-00003.GGUF"
    assert read_metadata(first).num_tensors == 3


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first, *_ = write_parts(tmp_path, range(1, 3))
    assert "big-00003-of-00003.gguf is not beside it" in complaint_about(first)


def test_another_part_than_the_first_is_refused(tmp_path: Path) -> None:
    _, second, _ = write_parts(tmp_path, range(1, 4))
    assert "is not the first of its 3 parts; give big-00001-of-00003" in complaint_about(second)


def test_parts_are_named_as_parts(tmp_path: Path) -> None:
    first, *_ = write_parts(tmp_path, range(1, 4))
    renamed = first.rename(tmp_path / "renamed.gguf")
    assert "is one of 3 parts, which are named" in complaint_about(renamed)


def test_a_truncated_part_is_refused(tmp_path: Path) -> None:
    first, _, third = write_parts(tmp_path, range(1, 4))
    third.write_bytes(third.read_bytes()[:-20])
    with pytest.raises(StartupError, match=r"00003-of-00003\.gguf is truncated"):
        read_metadata(first)
