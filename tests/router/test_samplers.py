"""logit_bias and llama.cpp's samplers on the OpenAI routes, up to the engine."""

from __future__ import annotations

import math
from collections.abc import Callable

import httpx
import msgspec
import numpy as np
import pytest

from tests.conftest import MakeServer
from tgi_llamacpp.messages import SamplingParams, Submit

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, object]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    TEXT: {"prompt": "a"},
}
ParamsOf = Callable[..., SamplingParams]
Refusal = Callable[..., dict[str, str]]


@pytest.fixture(params=BODIES)
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def params_of(make_server: MakeServer, route: str) -> ParamsOf:
    """What the engine is asked for with these fields."""
    server = make_server()

    def ask(**fields: object) -> SamplingParams:
        response = httpx.post(server.url + route, json={**BODIES[route], **fields})
        assert response.status_code == 200, response.text
        return [m for m in server.engine.received if isinstance(m, Submit)][-1].params

    return ask


@pytest.fixture
def refusal(http: httpx.Client, route: str) -> Refusal:
    """What a client is told about these fields."""

    def ask(**fields: object) -> dict[str, str]:
        response = http.post(route, json={**BODIES[route], **fields})
        assert response.status_code == 422, response.text
        assert response.json()["error_type"] == "validation"
        return dict(response.json()["error"])

    return ask


SAMPLERS = {
    "min_p": 0.25,
    "repeat_last_n": 64,
    "dry_multiplier": 0.75,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 256,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.125,
    "mirostat": 2,
    "mirostat_tau": 4.5,
    "mirostat_eta": 0.25,
}


def test_llamacpps_samplers_reach_the_engine(params_of: ParamsOf) -> None:
    params = params_of(**SAMPLERS)
    assert params.min_p == 0.25
    assert params.penalty_last_n == 64
    assert (params.dry_multiplier, params.dry_base) == (0.75, 1.5)
    assert (params.dry_allowed_length, params.dry_last_n) == (3, 256)
    assert (params.xtc_probability, params.xtc_threshold) == (0.5, 0.125)
    assert (params.mirostat, params.mirostat_tau, params.mirostat_eta) == (2, 4.5, 0.25)
    assert params.temperature == 1.0


def test_what_is_not_given_is_off(params_of: ParamsOf) -> None:
    off = SamplingParams(temperature=1.0)
    for fields in ({}, dict.fromkeys([*SAMPLERS, "logit_bias", "dry_sequence_breakers"])):
        params = params_of(seed=0, **fields)
        assert params == SamplingParams(temperature=1.0, seed=params.seed)
    assert off.dry_breaker_ids == b""


def test_neutral_values_change_nothing(params_of: ParamsOf) -> None:
    neutral = {
        "logit_bias": {},
        "min_p": 0,
        "repeat_penalty": 1,
        "repeat_last_n": -1,
        "dry_multiplier": 0,
        "xtc_probability": 0,
        "mirostat": 0,
        "top_k": 0,
    }
    params = params_of(temperature=0, **neutral)
    assert params == SamplingParams(seed=params.seed)
    assert params_of(top_k=-1).top_k == 0


def test_repeat_penalty_is_another_name_of_repetition_penalty(params_of: ParamsOf) -> None:
    assert params_of(repeat_penalty=1.5).repetition_penalty == 1.5
    assert params_of(repeat_penalty=1.5, repetition_penalty=1.5).repetition_penalty == 1.5


def test_two_names_of_a_setting_must_not_differ(refusal: Refusal) -> None:
    error = refusal(repeat_penalty=1.5, repetition_penalty=1.25)
    assert error["param"] == "repetition_penalty"
    assert error["message"].endswith("must not differ. Given: 1.25 and 1.5: send one of them")


def test_biases_are_added_by_id_and_the_lowest_bans(params_of: ParamsOf) -> None:
    params = params_of(logit_bias={"17": -1.5, "0": 100, "399999": -100})
    assert np.frombuffer(params.bias_ids, np.int32).tolist() == [17, 0, 399999]
    assert np.frombuffer(params.bias_values, np.float32).tolist() == [-1.5, 100, -math.inf]


@pytest.mark.parametrize(
    ("biases", "told"),
    [
        ({"400000": 1}, "keys. Given: '400000'"),
        ({"-1": 1}, "must have token ids >= 0 and < 400000 as keys. Given: '-1'"),
        ({"Paris": 1}, "keys. Given: 'Paris'"),
        ({"007": 1}, "keys. Given: '007'"),
        ({"7": 100.5}, "and <= 100. Given: 100.5 for token 7"),
        ({"7": -101}, ">= -100 (bans the token) and <= 100. Given: -101.0 for token 7"),
        ({str(i): 1 for i in range(301)}, "must name at most 300 tokens. Given: 301"),
    ],
)
def test_a_bias_that_cannot_be_added_is_named(
    refusal: Refusal, biases: dict[str, float], told: str
) -> None:
    error = refusal(logit_bias=biases)
    assert error["param"] == "logit_bias"
    assert told in error["message"]


@pytest.mark.parametrize(("num_eog", "ignore_eos"), [(0, False), (3, True)])
def test_to_ban_every_token_is_the_clients_mistake(
    make_server: MakeServer, route: str, num_eog: int, ignore_eos: bool
) -> None:
    server = make_server()
    assert server.client.ready is not None
    ready = msgspec.structs.replace(server.client.ready, num_vocab=16, eog_ids=[0, 1, 2])
    server.client.ready = ready
    banned = {str(i): -100 for i in range(num_eog, 16)}
    url = f"{server.url}{route}"
    body = {**BODIES[route], "ignore_eos": ignore_eos, "logit_bias": banned}
    response = httpx.post(url, json=body)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "logit_bias"
    assert "bans every token" in response.json()["error"]["message"]
    banned.popitem()
    assert httpx.post(url, json=body).status_code == 200


def test_a_bias_of_the_wrong_type_says_where(http: httpx.Client, route: str) -> None:
    for value, path in (({"5": "x"}, "logit_bias.5: invalid type"), ([], "logit_bias: invalid")):
        response = http.post(route, json={**BODIES[route], "logit_bias": value})
        assert response.status_code == 422
        assert path in response.json()["error"]["message"]
        assert response.json()["error"]["param"] == "logit_bias"


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("top_k", -2, ">= -1 (0 and -1 are off). Given: -2"),
        ("min_p", 1.5, ">= 0 and <= 1 (0 is off). Given: 1.5"),
        ("min_p", -0.1, ">= 0 and <= 1 (0 is off). Given: -0.1"),
        ("repeat_penalty", 0, "> 0 and finite (1 is off). Given: 0.0"),
        ("repeat_last_n", -2, ">= -1 (-1 is all tokens, 0 none). Given: -2"),
        ("dry_multiplier", -1, ">= 0 and finite (0 is off). Given: -1.0"),
        ("dry_multiplier", 1e39, ">= 0 and finite (0 is off). Given: inf"),
        ("dry_base", 0.5, ">= 1 and finite (1.75 is the default). Given: 0.5"),
        ("dry_allowed_length", -1, ">= 0 (2 is the default). Given: -1"),
        ("dry_penalty_last_n", -2, ">= -1 (-1 is all tokens, 0 none). Given: -2"),
        ("xtc_probability", 1.1, ">= 0 and <= 1 (0 is off). Given: 1.1"),
        ("xtc_threshold", -1, ">= 0 and <= 1 (0.1 is the default). Given: -1.0"),
        ("mirostat", 3, ">= 0 and <= 2 (0 is off). Given: 3"),
        ("mirostat_tau", -1, ">= 0 and finite (5 is the default). Given: -1.0"),
        ("mirostat_eta", -1, ">= 0 and finite (0.1 is the default). Given: -1.0"),
    ],
)
def test_a_sampler_out_of_its_range_is_told_the_range(
    refusal: Refusal, name: str, value: float, must: str
) -> None:
    error = refusal(**{name: value})
    assert error["message"] == f"Input validation error: `{name}` must be {must}"
    assert error["param"] == name


@pytest.mark.parametrize("name", ["mirostat", "xtc_probability"])
def test_what_needs_randomness_is_refused_at_temperature_zero(refusal: Refusal, name: str) -> None:
    error = refusal(temperature=0, **{name: 1})
    assert error["param"] == name
    assert "needs a `temperature` > 0" in error["message"]


def test_dry_and_biases_act_on_the_likeliest_token_too(params_of: ParamsOf) -> None:
    params = params_of(temperature=0, dry_multiplier=1, logit_bias={"5": 2}, min_p=0.5)
    assert params.temperature == 0.0
    assert params.dry_multiplier == 1.0
    assert params.bias_ids
    assert params.dry_breaker_ids


def _breakers(params: SamplingParams) -> list[int]:
    return np.frombuffer(params.dry_breaker_ids, np.int32).tolist()


def test_breakers_are_the_tokens_that_hold_them(params_of: ParamsOf) -> None:
    assert _breakers(params_of(dry_multiplier=1)) == sorted(map(ord, '\n:"*'))
    # ` love`, ` to`, ` code` and ` world` hold an o; so does `Hello`.
    held = params_of(dry_multiplier=1, dry_sequence_breakers=["o", "lo"])
    assert _breakers(held) == [ord("o"), 304, 775, 1526, 4321, 5360]
    assert _breakers(params_of(dry_multiplier=1, dry_sequence_breakers=[])) == []
    assert _breakers(params_of(dry_sequence_breakers=["o"])) == []  # DRY is off


@pytest.mark.parametrize(
    ("breakers", "told"),
    [
        (["x" * 100], "which no token of this model does: shorten it"),
        ([""], "must not be empty texts: leave them out"),
        (["x"] * 33, "must be at most 32. Given: 33"),
    ],
)
def test_breakers_that_break_nothing_are_refused(
    refusal: Refusal, breakers: list[str], told: str
) -> None:
    error = refusal(dry_multiplier=1, dry_sequence_breakers=breakers)
    assert error["param"] == "dry_sequence_breakers"
    assert told in error["message"]


def test_ignore_eos_reaches_the_engine(make_server: MakeServer, route: str) -> None:
    server = make_server()
    for asked in (True, False, None):
        body = {**BODIES[route], "ignore_eos": asked}
        assert httpx.post(server.url + route, json=body).status_code == 200
        submits = [m for m in server.engine.received if isinstance(m, Submit)]
        assert submits[-1].ignore_eog is bool(asked)


def test_min_tokens_reaches_the_engine_unless_no_end_counts(params_of: ParamsOf) -> None:
    assert params_of().min_new_tokens == 0
    assert params_of(min_tokens=3).min_new_tokens == 3
    assert params_of(min_tokens=3, ignore_eos=True).min_new_tokens == 0


def test_a_request_may_keep_out_of_the_prefix_cache(make_server: MakeServer, route: str) -> None:
    server = make_server()
    for fields in ({}, {"cache_prompt": True}, {"cache_prompt": None}, {"cache_prompt": False}):
        assert httpx.post(server.url + route, json={**BODIES[route], **fields}).status_code == 200
    submits = [m for m in server.engine.received if isinstance(m, Submit)]
    assert [one.takes_prefix for one in submits] == [True, True, True, False]


def test_n_probs_asks_for_alternatives(http: httpx.Client, params_of: ParamsOf, route: str) -> None:
    assert params_of(n_probs=2).num_top_tokens == 2
    assert params_of(n_probs=0).num_top_tokens == 0
    for n_probs, has_logprobs in ((2, True), (0, False), (None, False)):
        answer = http.post(route, json={**BODIES[route], "n_probs": n_probs}).json()
        assert (answer["choices"][0]["logprobs"] is not None) == has_logprobs


def test_n_probs_and_logprobs_must_not_differ(refusal: Refusal, route: str) -> None:
    other = {"logprobs": True, "top_logprobs": 1} if route == CHAT else {"logprobs": 1}
    assert refusal(n_probs=2, **other)["param"] == "n_probs"


def test_n_has_another_name(http: httpx.Client, route: str) -> None:
    answer = http.post(route, json={**BODIES[route], "n_cmpl": 2}).json()
    assert len(answer["choices"]) == 2
