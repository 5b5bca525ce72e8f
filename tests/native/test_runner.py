"""The native Runner on the demo model's exact copy: whoever shares a step, a sequence gets what it
gets alone.

What every Runner must do is in tests/engine/runner_contract.py; here is what only a real model
shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.runner import Int32s, Plan, StepResult, StepStatus
from tgi_llamacpp.errors import RunnerError, StartupError
from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.native import Model, Runner, _aside
from tgi_llamacpp.router.gguf_metadata import read_metadata

DEMO = Path(__file__).parents[2] / "src/tgi_llamacpp/demo/demo.gguf"
CONFIG = EngineConfig(
    model_path=str(DEMO),
    max_total_tokens=512,
    max_batch_total_tokens=8 * 512,
    max_physical_batch_total_tokens=64,
    max_batch_size=8,
    n_threads=2,
    n_threads_batch=2,
    n_gpu_layers=0,
    type_k="bf16",  # with these types the exact copy's logits are bit-identical in any batch
    type_v="bf16",
)
NONE = np.empty(0, np.int32)
GREEDY = SamplingParams()

Row = tuple[int, int, int, bool]  # slot, position, id, sampled


@pytest.fixture(scope="module")
def model(exact_model: Path) -> Iterator[Model]:
    model = Model(msgspec.structs.replace(CONFIG, model_path=str(exact_model)))
    yield model
    model.close()


@pytest.fixture
def runner(model: Model) -> Iterator[Runner]:
    runner = Runner(model, CONFIG)
    yield runner
    runner.close()


@pytest.fixture
def unified(model: Model) -> Iterator[Runner]:
    runner = Runner(model, msgspec.structs.replace(CONFIG, max_batch_total_tokens=512))
    yield runner
    runner.close()


def plan_of(rows: list[Row]) -> Plan:
    slots, positions, ids, samples = zip(*rows, strict=True)
    return Plan(
        np.array(slots, np.int32),
        np.array(positions, np.int32),
        np.array(ids, np.int32),
        np.array(samples, np.int8),
    )


def prompt(seed: int, length: int) -> Int32s:
    return np.random.default_rng(seed).integers(0, 1000, length).astype(np.int32)


def rows_of(slot: int, start: int, ids: Int32s, *, sample: bool) -> list[Row]:
    last = len(ids) - 1
    return [(slot, start + i, int(token), sample and i == last) for i, token in enumerate(ids)]


def prefill(
    runner: Runner, slot: int, ids: Int32s, *, chunk: int = 64, params: SamplingParams = GREEDY
) -> int:
    """Open the slot, run the prompt in chunks, return the first token."""
    runner.open(slot, params, ids, NONE)
    result: StepResult | None = None
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        result = runner.step(plan_of(rows_of(slot, start, part, sample=start + chunk >= len(ids))))
    assert result is not None
    return int(result.token_ids[0])


def decode(runner: Runner, tokens: dict[int, int]) -> dict[int, int]:
    """One decode step of these slots, each with its last token."""
    rows = [(slot, runner.num_cells(slot), token, True) for slot, token in sorted(tokens.items())]
    result = runner.step(plan_of(rows))
    assert result.status is StepStatus.OK
    return dict(zip(result.slots.tolist(), result.token_ids.tolist(), strict=True))


def generate_alone(
    runner: Runner, ids: Int32s, count: int, params: SamplingParams = GREEDY
) -> list[int]:
    tokens = [prefill(runner, 0, ids, params=params)]
    while len(tokens) < count:
        tokens.append(decode(runner, {0: tokens[-1]})[0])
    runner.drop(0)
    return tokens


def test_sequences_that_share_steps_get_what_each_gets_alone(runner: Runner) -> None:
    prompts = [prompt(seed, 5 + 9 * seed) for seed in range(5)]
    alone = [generate_alone(runner, ids, 12) for ids in prompts]
    last = {slot: prefill(runner, slot, ids) for slot, ids in enumerate(prompts)}
    together = [[last[slot]] for slot in range(5)]
    for _ in range(11):
        last = decode(runner, last)
        for slot, token in last.items():
            together[slot].append(token)
    assert together == alone


@pytest.mark.parametrize("chunk", [1, 3, 17, 64])
def test_the_size_of_prefill_chunks_does_not_show(runner: Runner, chunk: int) -> None:
    ids = prompt(1, 50)
    expected = generate_alone(runner, ids, 5)
    tokens = [prefill(runner, 0, ids, chunk=chunk)]
    while len(tokens) < 5:
        tokens.append(decode(runner, {0: tokens[-1]})[0])
    assert tokens == expected


def test_a_long_prefill_next_to_a_decode_changes_neither(runner: Runner) -> None:
    first, second = prompt(2, 20), prompt(3, 60)
    alone = generate_alone(runner, first, 3), generate_alone(runner, second, 1)
    token = prefill(runner, 0, first)
    tokens = [token]
    runner.open(1, GREEDY, second, NONE)
    for start in (0, 30):
        rows = [(0, runner.num_cells(0), tokens[-1], True)]
        rows += rows_of(1, start, second[start : start + 30], sample=start == 30)
        result = runner.step(plan_of(rows))
        tokens.append(int(result.token_ids[0]))
    assert (tokens, [int(result.token_ids[1])]) == alone


@pytest.mark.parametrize("layout", ["runner", "unified"])
def test_a_moved_sequence_goes_on_as_if_it_had_stayed(
    layout: str, request: pytest.FixtureRequest
) -> None:
    runner: Runner = request.getfixturevalue(layout)
    params = SamplingParams(temperature=0.9, repetition_penalty=1.3, seed=7)
    expected = generate_alone(runner, prompt(4, 30), 10, params)
    tokens = [prefill(runner, 5, prompt(4, 30), params=params)]
    tokens.append(decode(runner, {5: tokens[-1]})[5])
    runner.move(5, 1)
    assert (runner.num_cells(5), runner.num_cells(1)) == (0, 31)
    other = prefill(runner, 5, prompt(5, 10))
    while len(tokens) < 10:
        step = decode(runner, {1: tokens[-1], 5: other})
        tokens.append(step[1])
        other = step[5]
    assert tokens == expected


def test_a_dummy_row_in_an_empty_slot_changes_nobody(runner: Runner) -> None:
    expected = generate_alone(runner, prompt(6, 12), 2)
    tokens = [prefill(runner, 0, prompt(6, 12))]
    other = prefill(runner, 2, prompt(7, 12))
    rows = [(0, 12, tokens[0], True), (1, 0, 0, False), (2, 12, other, True)]
    tokens.append(int(runner.step(plan_of(rows)).token_ids[0]))
    runner.drop(1)
    assert tokens == expected
    assert runner.num_cells(1) == 0


def test_a_trimmed_slot_continues_from_the_cut(runner: Runner) -> None:
    ids = prompt(8, 40)
    expected = generate_alone(runner, ids, 2)
    prefill(runner, 0, ids)
    decode(runner, {0: 5})
    assert runner.trim(0, 39)
    assert runner.num_cells(0) == 39
    result = runner.step(plan_of([(0, 39, int(ids[39]), True)]))
    assert result.token_ids[0] == expected[0]


def test_a_resumed_sequence_draws_what_it_would_have_drawn(runner: Runner) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, frequency_penalty=0.7, seed=2**63 + 5)
    ids = prompt(9, 16)
    expected = generate_alone(runner, ids, 8, params)
    head = np.array(expected[:4], np.int32)
    runner.open(3, params, ids, head)
    result = runner.step(plan_of(rows_of(3, 0, np.concatenate([ids, head]), sample=True)))
    tokens = [*expected[:4], int(result.token_ids[0])]
    while len(tokens) < 8:
        tokens.append(decode(runner, {3: tokens[-1]})[3])
    assert tokens == expected


def test_logprobs_of_all_alternatives_sum_to_less_than_one_and_are_sorted(runner: Runner) -> None:
    runner.open(0, SamplingParams(num_top_tokens=20), prompt(1, 4), NONE)
    result = runner.step(plan_of(rows_of(0, 0, prompt(1, 4), sample=True)))
    top = result.top_logprobs[0, :20]
    assert np.all(np.diff(top) <= 0)
    assert 0 < np.exp(top).sum() <= 1.0001
    assert result.top_ids[0, 0] == result.token_ids[0]
    assert top[0] == result.logprobs[0]


def test_a_full_pool_is_reported_and_nothing_is_lost(unified: Runner) -> None:
    prompts = [prompt(seed, 200) for seed in range(3)]
    expected = generate_alone(unified, prompts[0], 2)
    tokens = [prefill(unified, 0, prompts[0])]
    prefill(unified, 1, prompts[1])
    unified.open(2, GREEDY, prompts[2], NONE)
    statuses = []
    for start in range(0, 200, 50):
        rows = rows_of(2, unified.num_cells(2), prompts[2][start : start + 50], sample=False)
        statuses.append(unified.step(plan_of(rows)).status)
    assert statuses[0] is StepStatus.OK
    assert statuses[-1] is StepStatus.NO_KV_SPACE
    assert unified.num_cells(2) == 50 * statuses.count(StepStatus.OK)
    unified.drop(2)
    tokens.append(decode(unified, {0: tokens[0]})[0])
    assert tokens == expected


def test_a_repeated_shape_reuses_the_graph(runner: Runner) -> None:
    tokens = {slot: prefill(runner, slot, prompt(slot, 8)) for slot in range(3)}
    before = runner.num_reused_graphs()
    for _ in range(10):
        tokens = decode(runner, tokens)
    assert runner.num_reused_graphs() - before >= 8


def test_a_closed_runner_says_so(model: Model) -> None:
    runner = Runner(model, CONFIG)
    runner.close()
    runner.close()
    with pytest.raises(RunnerError, match="closed"):
        runner.num_cells(0)


def test_leaving_without_close_is_silent() -> None:
    code = (
        "from tgi_llamacpp.config import EngineConfig;"
        "from tgi_llamacpp.native import Model, Runner;"
        f"config = EngineConfig(**{msgspec.structs.asdict(CONFIG)!r});"
        "model = Model(config); runner = Runner(model, config)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_truncated_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(DEMO.read_bytes()[:100_000])
    with pytest.raises(StartupError, match=r"Failed to load model .*cut\.gguf: "):
        Model(msgspec.structs.replace(CONFIG, model_path=str(path)))


@pytest.mark.parametrize("end", ["-of-00002.gguf", "-of-00002.GGUF", "-OF-00002.gguf"])
def test_a_model_in_parts_is_loaded_from_any_path(tmp_path: Path, end: str) -> None:
    folder = tmp_path / os.fsdecode(b"mod\xe8le")
    folder.mkdir()
    whole = gguf.GGUFReader(DEMO)
    half = len(whole.tensors) // 2
    for number, tensors in enumerate((whole.tensors[:half], whole.tensors[half:])):
        part = gguf.GGUFWriter(folder / f"m-{number + 1:05}{end}", "llama")
        for field in whole.fields.values() if number == 0 else ():
            if not field.name.startswith(("GGUF.", "general.architecture")):
                kinds = [*field.types, None]
                part.add_key_value(field.name, field.contents(), kinds[0], kinds[1])
        part.add_uint16("split.no", number)
        part.add_uint16("split.count", 2)
        part.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in tensors:
            part.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        part.write_header_to_file()
        part.write_kv_data_to_file()
        part.write_tensors_to_file()
        part.close()
    path = os.fsencode(folder / f"m-00001{end}")
    config = msgspec.structs.replace(CONFIG, model_path="shown", raw_model_path=path)
    model = Model(config)
    assert model.num_vocab == read_metadata(DEMO).num_vocab
    model.close()


def test_a_load_can_be_given_up(model: Model) -> None:
    with pytest.raises(StartupError):
        Model(CONFIG, lambda fraction: False)


def test_loading_reports_progress_up_to_the_end() -> None:
    fractions: list[float] = []
    Model(CONFIG, lambda fraction: fractions.append(fraction) is None).close()
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


# A prompt that is computed aside


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_a_runner_closes_while_a_prompt_is_half_computed_aside(model: Model) -> None:
    num_before = num_threads()
    runner = Runner(model, CONFIG)
    assert runner.limits.aside_bytes > 0
    num_open = num_threads()
    runner.begin_aside(prompt(1, 500))
    assert not runner.advance_aside(0.0, 64)
    assert num_threads() == num_open + 1
    runner.close()
    assert num_threads() == num_before


def test_what_is_cancelled_aside_leaves_no_thread(runner: Runner) -> None:
    num_before = num_threads()
    for _ in range(3):
        runner.begin_aside(prompt(1, 500))
        runner.advance_aside(0.0, 64)
        runner.cancel_aside()
    assert num_threads() == num_before


def test_slices_of_a_prompt_aside_are_short_beside_all_of_it(runner: Runner) -> None:
    runner.begin_aside(prompt(1, 500))
    num_slices = 1
    while not runner.advance_aside(0.0, 512):
        num_slices += 1
    assert num_slices > 20


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"target_itl_ms": 0}, id="no target"),
        pytest.param({"max_total_tokens": 256}, id="prompts are short"),
        pytest.param({"kv_layout": "unified"}, id="one pool"),
        pytest.param({"max_batch_size": 1}, id="nobody beside it"),
    ],
)
def test_there_is_no_second_context_where_it_would_not_serve(
    model: Model, changes: dict[str, object]
) -> None:
    runner = Runner(model, msgspec.structs.replace(CONFIG, **changes))
    assert not runner.limits.has_aside
    assert not runner.limits.aside_bytes
    with pytest.raises(RunnerError, match="nothing aside"):
        runner.begin_aside(prompt(1, 10))
    runner.close()


@pytest.mark.parametrize("at", [4, 12, 1 << 20])
def test_states_of_another_layout_leave_prompts_in_their_slots(
    model: Model, at: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_aside, "NUM_STREAMS_AT", at)
    runner = Runner(model, CONFIG)
    assert not runner.limits.has_aside
    assert "no prompt is computed aside" in caplog.text
    assert [runner.num_cells(slot) for slot in range(8)] == [0] * 8
    runner.close()
