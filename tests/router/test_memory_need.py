"""Whether a second engine fits: what is reckoned of files, caches and the engine that runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from tests.conftest import ENGINE_CONFIG
from tests.router import gguf_writer
from tests.server_process import copy_of_demo_model
from tgi_llamacpp import machine
from tgi_llamacpp.config import EngineConfig, ServerConfig
from tgi_llamacpp.derive import KV_CACHE_TYPES
from tgi_llamacpp.router.gguf_file import read_gguf
from tgi_llamacpp.router.gguf_metadata import GgufMetadata, parse_metadata
from tgi_llamacpp.router.memory_need import MemoryNeed, kv_cache_bytes, second_engine
from tgi_llamacpp.router.preparation import Preparation, prepare

MIB = 1 << 20
PID = 4711


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    path = copy_of_demo_model(tmp_path_factory.mktemp("demo"))
    return prepare(ServerConfig(model_id=str(path)), None)


def of_size(one: Preparation, num_mib: int, name: str = "a.gguf") -> Preparation:
    """The same with a file of so many MiB, which is another file by another name."""
    return dataclasses.replace(one, weights=((name, 1, 1, num_mib * MIB, 1),))


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Bytes of processes, on a machine with 1000 MiB left."""
    sizes: dict[int, int] = {}
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: 1000 * MIB)
    monkeypatch.setattr(machine, "resident_bytes", lambda pid: sizes.get(pid, 0))
    return sizes


def cache_bytes(one: Preparation) -> int:
    return kv_cache_bytes(one.metadata, one.engine_config)


class TestSecondEngine:
    def test_it_needs_what_the_first_takes_and_what_its_file_is_larger(
        self, demo: Preparation, resident: dict[int, int]
    ) -> None:
        resident[PID] = 700 * MIB
        need = second_engine(of_size(demo, 400), of_size(demo, 500, "b"), PID, 0)
        assert need == MemoryNeed(800 * MIB, 1000 * MIB)
        assert need.fits

    def test_prefixes_that_the_first_holds_are_none_of_the_seconds(
        self, demo: Preparation, resident: dict[int, int]
    ) -> None:
        resident[PID] = 1500 * MIB
        old, new = of_size(demo, 400), of_size(demo, 400, "b")
        assert not second_engine(old, new, PID, 0).fits
        assert second_engine(old, new, PID, 800 * MIB) == MemoryNeed(700 * MIB, 1000 * MIB)

    @pytest.mark.parametrize("pid", [None, PID])
    def test_without_a_first_it_needs_its_weights_and_its_cache(
        self, demo: Preparation, resident: dict[int, int], pid: int | None
    ) -> None:
        new = of_size(demo, 990, "b")
        need = second_engine(of_size(demo, 10), new, pid, 5 * MIB)
        assert need.needed == 990 * MIB + cache_bytes(new)
        assert not need.fits

    def test_one_file_is_in_memory_once_where_both_map_it(
        self, demo: Preparation, resident: dict[int, int]
    ) -> None:
        resident[PID] = 700 * MIB
        one = of_size(demo, 400)
        assert one.derived.use_mmap
        assert second_engine(one, one, PID, 0).needed == 300 * MIB
        read = dataclasses.replace(one, derived=dataclasses.replace(one.derived, use_mmap=False))
        assert second_engine(one, read, PID, 0).needed == 700 * MIB

    def test_a_machine_that_does_not_say_what_it_has_left_refuses_nothing(self) -> None:
        assert MemoryNeed(1 << 60, None).fits

    def test_the_figures_are_told(self) -> None:
        assert str(MemoryNeed(5 * MIB, 3 * MIB)) == "5 MiB needed, 3 MiB available"
        assert str(MemoryNeed(5 * MIB, None)) == "5 MiB needed, unknown available"


def metadata_of(tmp_path: Path, **values: gguf_writer.Value) -> GgufMetadata:
    known: dict[str, gguf_writer.Value] = {
        "general.architecture": "llama",
        "tokenizer.ggml.tokens": ["a", "b"],
    }
    keys = {f"llama.{name.replace('__', '.')}": value for name, value in values.items()}
    path = gguf_writer.write(tmp_path, gguf_writer.model(known | keys))
    return parse_metadata(read_gguf(path))


class TestKvCacheBytes:
    def config(self, **changes: str) -> EngineConfig:
        return msgspec.structs.replace(ENGINE_CONFIG, max_batch_total_tokens=1000, **changes)

    def test_a_cell_has_keys_and_values_of_every_layers_kv_heads(self, tmp_path: Path) -> None:
        metadata = metadata_of(
            tmp_path,
            block_count=3, embedding_length=64, attention__head_count=4,
            attention__head_count_kv=2,
        )  # fmt: skip
        f16 = self.config(type_k="f16", type_v="f16")
        assert kv_cache_bytes(metadata, f16) == 1000 * 3 * 2 * (16 + 16) * 2
        assert kv_cache_bytes(metadata, self.config(type_k="q8_0", type_v="f16")) == (
            1000 * 3 * 2 * (16 * 8.5 + 16 * 16) / 8
        )

    def test_layers_may_have_heads_of_their_own_and_heads_sizes(self, tmp_path: Path) -> None:
        metadata = metadata_of(
            tmp_path,
            block_count=3, embedding_length=64, attention__head_count=4,
            attention__head_count_kv=[2, 0, 1], attention__key_length=10,
            attention__value_length=6,
        )  # fmt: skip
        assert kv_cache_bytes(metadata, self.config(type_k="f32", type_v="f32")) == (
            1000 * 3 * (10 + 6) * 4
        )

    def test_a_file_that_does_not_say_counts_nothing(self, tmp_path: Path) -> None:
        assert kv_cache_bytes(metadata_of(tmp_path, block_count=3), self.config()) == 0

    @pytest.mark.parametrize("name", KV_CACHE_TYPES)
    def test_every_type_that_may_be_asked_for_is_known(self, demo: Preparation, name: str) -> None:
        config = self.config(type_k=name, type_v=name)
        assert kv_cache_bytes(demo.metadata, config) > 0
