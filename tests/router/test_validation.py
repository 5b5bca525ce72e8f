import asyncio
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from tests.conftest import LIMITS, TOOLS
from tests.fake_engine import make_ready
from tgi_llamacpp.errors import ValidationError
from tgi_llamacpp.router.metrics import Metrics
from tgi_llamacpp.router.schemas_tgi import GenerateParameters, Grammar
from tgi_llamacpp.router.validation import RouteRules, ValidRequest, validate

_SERVICES = SimpleNamespace(
    config=SimpleNamespace(limits=LIMITS),
    text=TOOLS,
    engine=SimpleNamespace(ready=make_ready(1)),
    metrics=Metrics(LIMITS),
)


def _validate(
    prompt: str | list[int] = "abc", *, rules: RouteRules | None = None, **fields: object
) -> ValidRequest:
    parameters = GenerateParameters(**fields)
    work = validate(_SERVICES, prompt, parameters, rules or RouteRules())
    return asyncio.run(work)


def _reason(prompt: str = "abc", **fields: object) -> str:
    with pytest.raises(ValidationError) as caught:
        _validate(prompt, **fields)
    assert caught.value.message == f"Input validation error: {caught.value.reason}"
    return caught.value.reason


_RULES: list[tuple[dict[str, object], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    (
        {"seed": 1, "best_of": 2, "do_sample": True},
        "`seed` must not be set when `best_of` > 1",
    ),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 1024. Given: 0"),
    (
        {"inputs": "a" * 1500, "max_new_tokens": 1000},
        "`inputs` tokens + `max_new_tokens` must be <= 2048. "
        "Given: 1501 `inputs` tokens and 1000 `max_new_tokens`",
    ),
    (
        {"inputs": "a" * 1500, "max_new_tokens": 1},
        "`inputs` must have less than 1024 tokens. Given: 1501",
    ),
]


@pytest.mark.parametrize(("fields", "reason"), _RULES)
def test_every_rule_has_its_words(fields: dict[str, object], reason: str) -> None:
    fields = dict(fields)
    prompt = str(fields.pop("inputs", "abc"))
    assert _reason(prompt, **fields) == reason


@pytest.mark.parametrize("first", range(1, len(_RULES) - 5))
def test_the_first_broken_rule_speaks(first: int) -> None:
    broken: dict[str, object] = {}
    for fields, _ in reversed(_RULES[first:-3]):
        broken |= fields
    prompt = str(broken.pop("inputs", "abc"))
    if _RULES[first][1].startswith("`seed`"):
        broken["do_sample"] = True
    else:
        broken["best_of"] = 1
    assert _reason(prompt, **broken) == _RULES[first][1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"temperature": float("inf")}, "`temperature` must be finite"),
        ({"stop": ["a", ""]}, "`stop` sequences cannot be empty"),
        ({"watermark": True}, "`watermark` is not supported"),
        ({"adapter_id": "x"}, "`adapter_id` is not supported: no adapters are loaded"),
        ({"grammar": Grammar("regex", "a")}, "`grammar` is not supported yet"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, object], reason: str) -> None:
    assert _reason(**fields) == reason


def test_limits_themselves_are_allowed() -> None:
    valid = _validate("a" * 1023, truncate=1024, top_n_tokens=5, stop=["a"] * 4)
    assert valid.num_prompt == 1024
    assert _validate(frequency_penalty=-2.0, top_p=0.999).num_prompt == 4


def test_without_a_goal_there_is_all_the_room() -> None:
    assert _validate("abc").max_new_tokens == 2048 - 4


def test_a_goal_beyond_the_room_is_cut_where_tgi_would_accept_it() -> None:
    assert _validate("a" * 1023, max_new_tokens=100_000).max_new_tokens == 1024
    assert _validate("abc", max_new_tokens=1500).max_new_tokens == 1500


def test_a_goal_of_more_than_a_chunk_is_refused_by_the_chunk() -> None:
    reason = _reason("a" * 1024, max_new_tokens=100_000)
    assert reason.endswith("Given: 1025 `inputs` tokens and 1024 `max_new_tokens`")


def test_an_overlong_prompt_without_a_goal_asks_for_zero_tokens() -> None:
    assert _reason("a" * 3000).endswith("Given: 3001 `inputs` tokens and 0 `max_new_tokens`")


def test_no_room_at_all_is_no_generation_of_nothing() -> None:
    limits = msgspec.structs.replace(LIMITS, max_input_tokens=2048)
    services = SimpleNamespace(**{**vars(_SERVICES), "config": SimpleNamespace(limits=limits)})
    work = validate(services, "a" * 2047, GenerateParameters(), RouteRules())
    with pytest.raises(ValidationError, match="must have less than 2048 tokens"):
        asyncio.run(work)


def test_truncation_keeps_the_last_tokens() -> None:
    valid = _validate("abcdef", truncate=2)
    assert np.frombuffer(valid.prompt_ids, np.int32).tolist() == [ord("e"), ord("f")]
    assert valid.max_new_tokens == 2046


def test_special_tokens_are_added_where_the_route_says_so() -> None:
    rules = RouteRules(add_special_tokens=False)
    assert _validate("abc").num_prompt == 4
    assert _validate("abc", rules=rules).num_prompt == 3


def test_token_ids_are_taken_as_they_are_and_checked() -> None:
    valid = _validate([1, 2, 3])
    assert np.frombuffer(valid.prompt_ids, np.int32).tolist() == [1, 2, 3]
    with pytest.raises(ValidationError, match=r"token ids must be < 400000\. Given: 400000"):
        _validate([1, 400_000])


def test_a_given_seed_is_kept_and_a_missing_one_is_random() -> None:
    assert _validate(seed=0).seed == 0
    assert _validate().seed != _validate().seed


def test_route_rules_reach_the_engine() -> None:
    rules = RouteRules(penalize_prompt=False, presence_penalty=1.5, ignore_eog=True)
    valid = _validate(rules=rules)
    assert (valid.params.penalize_prompt, valid.params.presence_penalty) == (False, 1.5)
    assert valid.ignore_eog
    with pytest.raises(ValidationError, match=r"`presence_penalty` must be >= -2\.0"):
        _validate(rules=RouteRules(presence_penalty=3.0))
    assert not _validate(top_k=3, rules=RouteRules(is_greedy=True)).is_sampled
