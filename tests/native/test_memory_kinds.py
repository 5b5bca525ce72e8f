"""The native Runner keeps the contract on every kind of memory that llama.cpp has.

Tiny random models stand for the kinds: attention, sliding window, recurrent, hybrid, mixture of
experts. Those that generate no text are refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.engine.runner_contract import RunnerContract
from tests.engine.state_contract import StateContract
from tests.native.tiny_models import CONTEXT_LENGTH, GENERATING, REFUSED, write_tiny_model
from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.runner import Runner as RunnerProtocol
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.native import Model, Runner


def config_of(path: Path, *, is_unified: bool = False) -> EngineConfig:
    return EngineConfig(
        model_path=str(path),
        max_total_tokens=128,
        max_batch_total_tokens=256 if is_unified else 4 * 128,
        max_physical_batch_total_tokens=16,
        max_batch_size=4,
        n_threads=1,
        n_threads_batch=1,
        n_gpu_layers=0,
        type_k="bf16",  # with these types logits are bit-identical in any batch
        type_v="bf16",
        min_aside_tokens=4,
    )


@pytest.fixture(scope="module", params=[(k, u) for k in GENERATING for u in (False, True)], ids=str)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Model, EngineConfig]]:
    kind, is_unified = request.param
    path = write_tiny_model(
        kind, tmp_path_factory.mktemp("models") / f"{kind}.gguf", weight_type="Q5_1"
    )
    config = config_of(path, is_unified=is_unified)
    model = Model(config)
    yield model, config
    model.close()


class TestEveryMemoryKind(StateContract, RunnerContract):
    @pytest.fixture
    def runner(self, loaded: tuple[Model, EngineConfig]) -> Iterator[RunnerProtocol]:
        runner = Runner(*loaded)
        yield runner
        runner.close()


def test_a_kind_knows_whether_it_can_be_trimmed(loaded: tuple[Model, EngineConfig]) -> None:
    model, config = loaded
    assert model.context_length == CONTEXT_LENGTH
    runner = Runner(model, config)
    is_state = any(kind in config.model_path for kind in ("recurrent", "hybrid"))
    assert runner.limits.can_trim is not is_state
    assert runner.limits.is_unified is (config.max_batch_total_tokens == 256)
    assert runner.limits.cache_bytes > 0
    if "attention" in config.model_path:
        assert runner.limits.has_aside is not runner.limits.is_unified
    runner.close()


def test_one_pool_can_be_asked_for_where_shares_would_fit(
    loaded: tuple[Model, EngineConfig],
) -> None:
    model, config = loaded
    runner = Runner(model, msgspec.structs.replace(config, kv_layout="unified"))
    assert runner.limits.is_unified
    assert runner.limits.max_pool_tokens == config.max_batch_total_tokens
    runner.close()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_generates_no_text_is_refused_in_one_sentence(
    kind: str, tmp_path: Path
) -> None:
    config = config_of(write_tiny_model(kind, tmp_path / f"{kind}.gguf"))
    with pytest.raises(StartupError) as caught:
        Runner(Model(config), config)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
