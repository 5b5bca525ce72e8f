import pytest

from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.router.sampling import is_sampled, random_seed, sequence_seed, to_sampling_params
from tgi_llamacpp.router.schemas_tgi import GenerateParameters


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"do_sample": True}, True),
        ({"temperature": 1.0}, False),
        ({"temperature": 0.5}, True),
        ({"top_k": 1}, True),
        ({"top_p": 0.5}, True),
        ({"typical_p": 0.5}, True),
        ({"repetition_penalty": 1.5, "frequency_penalty": 1.0, "seed": 3}, False),
    ],
)
def test_sampling_is_asked_for_or_implied(fields: dict[str, object], expected: bool) -> None:
    assert is_sampled(GenerateParameters(**fields)) is expected


def test_greedy_is_temperature_zero_with_the_penalties_kept() -> None:
    parameters = GenerateParameters(repetition_penalty=1.5, frequency_penalty=0.5, top_n_tokens=3)
    samplers = SamplingParams(min_p=0.5, dry_multiplier=1.0)
    params = to_sampling_params(
        parameters, samplers, is_sampled=False, presence_penalty=0.25, penalize_prompt=True
    )
    assert params.temperature == 0.0
    assert (params.repetition_penalty, params.frequency_penalty) == (1.5, 0.5)
    assert (params.presence_penalty, params.penalize_prompt) == (0.25, True)
    assert params.num_top_tokens == 3
    assert (params.min_p, params.dry_multiplier) == (0.5, 1.0)


def test_unset_settings_are_off() -> None:
    params = to_sampling_params(
        GenerateParameters(),
        SamplingParams(),
        is_sampled=True,
        presence_penalty=0.0,
        penalize_prompt=False,
    )
    assert (params.temperature, params.top_k, params.top_p, params.typical_p) == (1.0, 0, 1.0, 1.0)


def test_a_choice_has_a_seed_of_its_own_that_never_changes() -> None:
    # Written down: a change here changes what every client with a seed gets.
    assert sequence_seed(42, 0) == 255354015614420610
    seeds = {sequence_seed(seed, choice) for seed in range(50) for choice in range(20)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_random_seeds_differ() -> None:
    assert len({random_seed() for _ in range(100)}) == 100
