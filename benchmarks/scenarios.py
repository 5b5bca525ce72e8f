"""What is asked of a server: the requests of each scenario, their start, and the server's size.

Knows no server and no clock. A scenario's workload comes from a seeded generator, so that every
contestant is asked the same; prompts are words that are one token each (make_models.words).
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Callable
from dataclasses import dataclass

_WORDS = tuple(map("".join, itertools.product(string.ascii_lowercase, repeat=3)))
SYSTEM_TOKENS = 256
_CELLS = 256  # llama.cpp rounds the cells of a sequence up to this


@dataclass(frozen=True)
class Request:
    prompt: str
    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True)
class Stream:
    """Requests of one client, one after the other. Times are measured by group."""

    requests: tuple[Request, ...]
    start_s: float = 0.0
    group: str = "all"


@dataclass(frozen=True)
class Sampling:
    """Zero and one are off, as in TGI; greedy at temperature 0."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


Build = Callable[[random.Random], list[Stream]]


@dataclass(frozen=True)
class Scenario:
    name: str
    model: str  # a name of make_models
    num_slots: int
    max_request_tokens: int
    build: Build
    sampling: Sampling = Sampling()
    is_warm: bool = False  # the same workload runs once before, unmeasured
    warm_up: Build | None = None  # what runs before all, unmeasured; else a workload like the rest
    num_busy_beside: int = 0  # processes that compute without end beside the server,
    busy_nice: int = 10  # and how nice they are
    cpu_quota: float | None = None  # CPUs' worth of time that the server gets, by a cgroup
    batched: tuple[int, int, int] | None = None  # the same work as llama-batched-bench's pp, tg, pl

    @property
    def slot_tokens(self) -> int:
        return -(-self.max_request_tokens // _CELLS) * _CELLS


def make_prompt(rng: random.Random, num_tokens: int) -> str:
    return "".join(f" {word}" for word in rng.choices(_WORDS, k=num_tokens))


def make_request(
    rng: random.Random, num_prompt_tokens: int, num_output_tokens: int, *, prefix: str = ""
) -> Request:
    """The prefix counts: it holds one token for each of its spaces."""
    prompt = prefix + make_prompt(rng, num_prompt_tokens - prefix.count(" "))
    return Request(prompt, num_prompt_tokens, num_output_tokens)


def _equal(num_streams: int, num_prompt: int, num_output: int) -> Build:
    """All start together and end together."""
    return lambda rng: [
        Stream((make_request(rng, num_prompt, num_output),)) for _ in range(num_streams)
    ]


def _churn(num_streams: int, num_requests: int) -> Build:
    """Closed loop: a stream asks again as soon as it is answered, for 8 to 120 tokens."""
    return lambda rng: [
        Stream(tuple(make_request(rng, 16, rng.randint(8, 120)) for _ in range(num_requests)))
        for _ in range(num_streams)
    ]


def _shared_prefix(num_streams: int, num_prompt: int, num_shared: int, num_output: int) -> Build:
    """Two requests a stream; every prompt begins with the same tokens."""

    def build(rng: random.Random) -> list[Stream]:
        prefix = make_prompt(rng, num_shared)
        return [
            Stream(
                tuple(make_request(rng, num_prompt, num_output, prefix=prefix) for _ in range(2))
            )
            for _ in range(num_streams)
        ]

    return build


def _long_arrival(num_streams: int, num_long: int) -> Build:
    """While some decode, one long prompt arrives."""

    def build(rng: random.Random) -> list[Stream]:
        decoding = [
            Stream((make_request(rng, 16, 400),), group="decoding") for _ in range(num_streams)
        ]
        return [
            *decoding,
            Stream((make_request(rng, num_long, 16),), start_s=2.0, group="arriving"),
        ]

    return build


def _mixed_request(rng: random.Random, system_prompt: str) -> Request:
    """Prompts of 32 to 512 tokens, outputs of 8 to 128; half the prompts begin alike.

    Those are longer than what they share.
    """
    is_sharing = rng.random() < 0.5
    num_prompt = rng.randint(SYSTEM_TOKENS + 1 if is_sharing else 32, 512)
    prefix = system_prompt if is_sharing else ""
    return make_request(rng, num_prompt, rng.randint(8, 128), prefix=prefix)


def _mixed_closed(num_streams: int, num_requests: int) -> Build:
    """Closed loop over the mix of the Poisson arrivals: what a server can do at most."""

    def build(rng: random.Random) -> list[Stream]:
        system_prompt = make_prompt(rng, SYSTEM_TOKENS)
        return [
            Stream(tuple(_mixed_request(rng, system_prompt) for _ in range(num_requests)))
            for _ in range(num_streams)
        ]

    return build


def poisson_starts(rng: random.Random, rate_per_s: float, num_requests: int) -> list[float]:
    """Seconds at which requests arrive, the first after a gap like all others."""
    gaps = (rng.expovariate(rate_per_s) for _ in range(num_requests))
    return list(itertools.accumulate(gaps))


def _poisson(rate_per_s: float, num_requests: int) -> Build:
    """Open loop: everybody arrives at their time, whatever has become of the others."""

    def build(rng: random.Random) -> list[Stream]:
        system_prompt = make_prompt(rng, SYSTEM_TOKENS)
        return [
            Stream((_mixed_request(rng, system_prompt),), start_s=start_s)
            for start_s in poisson_starts(rng, rate_per_s, num_requests)
        ]

    return build


def poisson_scenario(model: str, rate_per_s: float, num_requests: int) -> Scenario:
    """Named by its rate: poisson@0.350 is 0.35 requests a second."""
    return Scenario(
        name=f"poisson@{rate_per_s:.3f}",
        model=model,
        num_slots=16,
        max_request_tokens=640,
        build=_poisson(rate_per_s, num_requests),
        sampling=_TOP_P,
        warm_up=_mixed_closed(2, 1),
    )


def capacity_scenario(model: str) -> Scenario:
    return Scenario(
        name=f"capacity-{model}",
        model=model,
        num_slots=16,
        max_request_tokens=640,
        build=_mixed_closed(16, 2),
        sampling=_TOP_P,
        warm_up=_mixed_closed(2, 1),
    )


def _equal_scenario(num_streams: int, num_prompt: int, num_output: int) -> Scenario:
    return Scenario(
        name=f"streams-{num_streams}",
        model="135M",
        num_slots=num_streams,
        max_request_tokens=num_prompt + num_output,
        build=_equal(num_streams, num_prompt, num_output),
        batched=(num_prompt, num_output, num_streams),
    )


_TOP_P = Sampling(temperature=1.0, top_p=0.95)
_PENALTY = Sampling(temperature=1.0, top_p=0.95, repetition_penalty=1.1)
_PREFIX = _shared_prefix(16, 512, 480, 16)

_ALL = (
    _equal_scenario(1, 128, 64),
    _equal_scenario(4, 128, 64),
    _equal_scenario(16, 128, 64),
    _equal_scenario(7, 16, 64),
    Scenario("churn-8", "135M", 32, 136, _churn(8, 6)),
    Scenario("greedy-0.5B", "0.5B", 16, 64, _equal(16, 32, 32)),
    Scenario("top-p-0.5B", "0.5B", 16, 64, _equal(16, 32, 32), _TOP_P),
    Scenario("penalty-0.5B", "0.5B", 16, 64, _equal(16, 32, 32), _PENALTY),
    Scenario("prefix-cold", "135M", 16, 528, _PREFIX),
    Scenario("prefix-warm", "135M", 16, 528, _PREFIX, is_warm=True),
    Scenario("long-arrival", "135M", 5, 3016, _long_arrival(4, 3000)),
    Scenario("streams-8", "135M", 8, 144, _equal(8, 16, 128)),
    Scenario("beside-8", "135M", 8, 144, _equal(8, 16, 128), num_busy_beside=2),
    Scenario(
        *("beside-equal-8", "135M", 8, 144, _equal(8, 16, 128)), num_busy_beside=2, busy_nice=0
    ),
    Scenario("quota-1.0-8", "135M", 8, 144, _equal(8, 16, 128), cpu_quota=1.0),
    Scenario("quota-1.5-8", "135M", 8, 144, _equal(8, 16, 128), cpu_quota=1.5),
    capacity_scenario("0.5B"),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
DEFAULT_SCENARIOS = ("streams-1", "streams-4", "streams-16")
