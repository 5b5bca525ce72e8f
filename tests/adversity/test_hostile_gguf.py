"""GGUF files that are damaged or made to do harm: one sentence, or a server that works.

Most are read in this process, as the router does first; some go to a real engine, which may die
inside llama.cpp of what only it reads. The mutations are seeded: a number names its file.
"""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from pathlib import Path

import httpx
import pytest

import tgi_llamacpp
from tests.router import gguf_writer as writer
from tests.server_process import ServerProcess
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.router.chat import load_chat_template
from tgi_llamacpp.router.gguf_file import read_gguf
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.tokenizer import load_tokenizer

DEMO = (Path(tgi_llamacpp.__file__).parent / "demo/demo.gguf").read_bytes()
HUGE = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
MAX_S = 20.0
MAX_BYTES = 20 * len(DEMO) + (64 << 20)  # of memory, beyond the file's


def header_bytes() -> int:
    """Where the demo model's tensors begin."""
    name = DEMO.rindex(b"output_norm.weight") if b"output_norm.weight" in DEMO else len(DEMO) // 10
    return min(name + 200, len(DEMO))


def mutated(seed: int) -> bytes:
    """The demo model with one to four of its header's places changed, or cut off."""
    rng = random.Random(seed)
    data, end = bytearray(DEMO), header_bytes()
    for _ in range(rng.randint(1, 4)):
        # Counts and the first keys decide the most, the vocabulary is the longest.
        place = rng.randrange(24) if rng.random() < 0.3 else rng.randrange(end)
        kind = rng.randrange(6)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + 8] = struct.pack("<Q", rng.choice(HUGE))
        elif kind == 2:
            data[place : place + 4] = struct.pack("<I", rng.randrange(2**32))
        elif kind == 3:
            length = rng.randrange(1, 64)
            data[place : place + length] = rng.randbytes(length)
        elif kind == 4:
            del data[place : place + rng.randrange(1, 64)]
        else:
            del data[rng.randrange(len(data)) :]
            break
    return bytes(data)


def read_as_the_router_does(path: Path) -> str | None:
    """The sentence that the server would end with; None where it would start an engine."""
    try:
        metadata = read_metadata(path)
        load_chat_template(metadata, load_tokenizer(metadata))
    except StartupError as error:
        return str(error)
    return None


def assert_bounded(path: Path) -> str | None:
    start_s = time.process_time()
    sentence = read_as_the_router_does(path)
    assert time.process_time() - start_s < MAX_S
    if sentence is not None:
        assert 20 < len(sentence) < 2000
        assert sentence.isprintable()
        assert path.name in sentence
    return sentence


def test_a_key_of_sixty_kilobytes_is_not_quoted_in_full(tmp_path: Path) -> None:
    long = "tokenizer.chat_template." + "\x1b[31m\n" * 8000
    for values in ({**SOUND, long: 1}, {**SOUND, "general.architecture": "x" * 60_000}):
        sentence = read_as_the_router_does(writer.write(tmp_path, writer.model(values)))
        assert sentence is None or (sentence.isprintable() and len(sentence) < 500)


@pytest.mark.parametrize("start", range(0, 100, 20))
def test_a_hundred_damaged_headers(start: int, tmp_path: Path) -> None:
    check_seeds(range(start, start + 20), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("start", range(100, 2100, 100))
def test_two_thousand_damaged_headers(start: int, tmp_path: Path) -> None:
    check_seeds(range(start, start + 100), tmp_path)


def check_seeds(seeds: range, folder: Path) -> None:
    for seed in seeds:
        path = writer.write(folder, mutated(seed))
        try:
            assert_bounded(path)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("at", range(8, 24, 8))
@pytest.mark.parametrize("count", HUGE[2:])
def test_counts_that_no_file_can_have(at: int, count: int, tmp_path: Path) -> None:
    data = DEMO[:at] + struct.pack("<Q", count) + DEMO[at + 8 :]
    path = writer.write(tmp_path, data)
    tracemalloc.start()
    try:
        assert assert_bounded(path) is not None
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", HUGE[3:])
@pytest.mark.parametrize("kind", [0, 7, 8, 9, 10, 12])
def test_arrays_that_no_file_can_hold(kind: int, count: int, tmp_path: Path) -> None:
    array = struct.pack("<IIQ", writer.ARRAY, kind, count)
    pair = writer.text("tokenizer.ggml.tokens") + array
    path = writer.write(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + pair + bytes(64))
    with pytest.raises(StartupError):
        read_gguf(path)


SOUND = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b"],
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "tokens 0 and 1"),
        ({"tokenizer.ggml.tokens": 7}, "tokenizer.ggml.tokens is of type int"),
        ({"tokenizer.ggml.tokens": [1.0, 2.0]}, "tokenizer.ggml.tokens is of type ndarray"),
        ({"tokenizer.ggml.token_type": [1]}, "has 1 entries for 2 tokens"),
        ({"general.architecture": 1.5}, "general.architecture is of type float"),
        ({"general.alignment": 3}, "not a power of two"),
        ({"general.alignment": 0}, "not a power of two"),
        ({"tokenizer.chat_template": 1}, "tokenizer.chat_template is of type int"),
    ],
)
def test_values_of_another_kind_are_named(
    changed: dict[str, writer.Value], told: str, tmp_path: Path
) -> None:
    path = writer.write(tmp_path, writer.model({**SOUND, **changed}))
    sentence = assert_bounded(path)
    assert sentence is not None
    assert told in sentence


@pytest.mark.parametrize(
    "shape", [(0,), (2**63,), (2**32, 2**32), (2**64 - 1, 2, 2, 2), (1, 0, 1, 0)]
)
def test_tensors_of_impossible_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    data = writer.gguf(SOUND, [writer.tensor("token_embd.weight", shape)], data=bytes(128))
    path = writer.write(tmp_path, data)
    assert_bounded(path)  # a tensor of nothing is the engine's to refuse


def with_key_of(old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert old in DEMO
    return DEMO.replace(old, new, 1)


def tensor_data(pattern: bytes) -> bytes:
    """The demo model whose weights are all this."""
    start = len(DEMO) * 3 // 4
    num = len(DEMO) - start
    return DEMO[:start] + (pattern * (num // len(pattern) + 1))[:num]


FOR_THE_ENGINE = {
    "a tensor of another name": lambda: with_key_of(b"output_norm.weight", b"output_nurm.weight"),
    "an unknown architecture": lambda: with_key_of(b"llama.block_count", b"llama.block_cuunt"),
    "no tokens' type": lambda: with_key_of(b"llama.embedding_length", b"llama.embedding_lingth"),
}


@pytest.mark.parametrize("name", FOR_THE_ENGINE)
def test_what_only_the_engine_finds_ends_in_one_sentence(name: str, tmp_path: Path) -> None:
    path = writer.write(tmp_path, FOR_THE_ENGINE[name]())
    if assert_bounded(path) is None:
        assert_ends_in_one_sentence(path)


@pytest.mark.parametrize("seed", [7, 21, 35])
def test_damaged_headers_go_to_the_engine_too(seed: int, tmp_path: Path) -> None:
    assert_ends_in_one_sentence(writer.write(tmp_path, mutated(seed)))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1050))
def test_many_damaged_headers_go_to_the_engine_too(seed: int, tmp_path: Path) -> None:
    assert_ends_in_one_sentence(writer.write(tmp_path, mutated(seed)))


def assert_ends_in_one_sentence(path: Path) -> None:
    """Unless the damage is of no consequence: then it serves."""
    with ServerProcess("serve", f"--model-id={path}") as server:
        if server.is_listening():
            assert server.stop() == 0
            return
        assert server.wait() == 1, server.text
    errors = [line for line in server.log if line.startswith("Error: ")]
    assert len(errors) == 1, server.text
    assert "Traceback" not in server.text
    assert len(errors[0]) < 2000


def test_weights_that_are_no_numbers_fail_the_request_and_not_the_server(tmp_path: Path) -> None:

    path = writer.write(tmp_path, tensor_data(b"\x00\x7e"))
    with ServerProcess("serve", f"--model-id={path}") as server:
        if not server.is_listening():
            assert server.wait() == 1
            return
        body = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
        answer = httpx.post(f"{server.url}/generate", json=body, timeout=60)
        assert answer.status_code in (200, 424)
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        assert server.stop() == 0
