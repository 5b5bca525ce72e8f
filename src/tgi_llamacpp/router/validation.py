"""Whether a request may run: TGI's rules in TGI's order and words, then tokens and budget.

Owns the limits of parameters and lengths. Tokenizing itself is the pool's; the OpenAI routes look
at the ranges of numbers before, which are other ones there. Called by the route handlers once a
permit is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tgi_llamacpp.config import LimitsConfig
from tgi_llamacpp.errors import LengthError, ValidationError
from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.router.sampling import is_sampled, random_seed, to_sampling_params
from tgi_llamacpp.router.schemas_tgi import GenerateParameters
from tgi_llamacpp.router.services import Services

_TGI_CHUNK = 1024
"""TGI refuses by min(max_new_tokens, 1024) and generates in such chunks. We refuse by that rule,
so that what it accepts is accepted, and generate once, as far as there is room."""


@dataclass(frozen=True, slots=True)
class RouteRules:
    """In what the routes differ when they ask for the same generation."""

    penalize_prompt: bool = True
    max_top_tokens: int | None = None  # None: the configured max_top_n_tokens
    presence_penalty: float = 0.0
    is_greedy: bool = False  # whatever the parameters say
    ignore_eog: bool = False
    add_special_tokens: bool = True
    min_new_tokens: int = 1  # 0: a prompt alone may be asked about
    prompt_field: str = "inputs"  # where the prompt came from
    length_field: str = "max_new_tokens"  # where the wanted length came from
    has_tgi_words: bool = True  # else lengths are complained of by these names, as they were sent
    min_tokens: int = 0  # before which nothing but the length may end the answer
    takes_prefix: bool = True  # from the prefix cache
    samplers: SamplingParams = field(default_factory=SamplingParams)  # beyond the parameters


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """What a generation needs, all limits kept."""

    prompt_ids: bytes  # int32[num_prompt], after truncation
    num_prompt: int
    max_new_tokens: int
    params: SamplingParams  # its seed is still open
    seed: int
    is_sampled: bool
    stop: list[str]
    ignore_eog: bool
    prompt_logprobs: bool
    min_tokens: int
    takes_prefix: bool


async def validate(
    services: Services,
    prompt: str | list[int],
    parameters: GenerateParameters,
    rules: RouteRules,
) -> ValidRequest:
    """Check everything, tokenize, and fix what was left open.

    Raises:
        ValidationError: the first rule that is broken.
    """
    limits = services.config.limits
    check_parameters(parameters, limits, rules)
    _check_penalty(rules.presence_penalty, "presence_penalty")
    if not prompt:
        raise ValidationError(f"`{rules.prompt_field}` cannot be empty")
    _check_truncate(parameters.truncate, limits)
    ids = await _to_ids(services, prompt, rules.add_special_tokens)
    if parameters.truncate is not None:
        ids = ids[-parameters.truncate :]
    max_new_tokens = _output_budget(len(ids), parameters.max_new_tokens, limits, rules)
    _refuse_unsupported(parameters, limits)
    if rules.min_tokens > max_new_tokens:
        raise ValidationError(
            f"`min_tokens` must be <= {max_new_tokens}, the most that this request may generate."
            f" Given: {rules.min_tokens}"
        )
    services.metrics.observe_valid(len(ids), max_new_tokens)
    sampled = is_sampled(parameters) and not rules.is_greedy
    return ValidRequest(
        prompt_ids=ids.tobytes(),
        num_prompt=len(ids),
        max_new_tokens=max_new_tokens,
        params=to_sampling_params(
            parameters,
            rules.samplers,
            is_sampled=sampled,
            presence_penalty=rules.presence_penalty,
            penalize_prompt=rules.penalize_prompt,
        ),
        seed=random_seed() if parameters.seed is None else parameters.seed,
        is_sampled=sampled,
        stop=parameters.stop,
        ignore_eog=rules.ignore_eog,
        prompt_logprobs=parameters.decoder_input_details,
        min_tokens=rules.min_tokens,
        takes_prefix=rules.takes_prefix,
    )


def check_parameters(
    parameters: GenerateParameters,
    limits: LimitsConfig,
    rules: RouteRules,
) -> None:
    """TGI's rules 1 to 11, in its order, with what it lets through by mistake refused too.

    Raises:
        ValidationError: the first rule that is broken.
    """
    p = parameters
    is_best_of = (p.best_of or 1) > 1
    given = (p.temperature, p.top_k, p.top_p, p.typical_p)
    if is_best_of and not p.do_sample and all(value is None for value in given):
        raise ValidationError("you must use sampling when `best_of` is > 1")
    _check_number(p.temperature, "temperature", _is_positive, "be strictly positive")
    _check_number(p.repetition_penalty, "repetition_penalty", _is_positive, "be strictly positive")
    _check_penalty(p.frequency_penalty, "frequency_penalty")
    _check_number(p.top_p, "top_p", _is_fraction, "be > 0.0 and < 1.0")
    _check_number(p.typical_p, "typical_p", _is_fraction, "be > 0.0 and < 1.0")
    _check_number(p.top_k, "top_k", _is_positive, "be strictly positive")
    if p.max_new_tokens is not None and p.max_new_tokens < rules.min_new_tokens:
        raise ValidationError("`max_new_tokens` must be strictly positive")
    _check_stop(p.stop, limits.max_stop_sequences)
    if p.seed is not None and is_best_of:
        raise ValidationError("`seed` must not be set when `best_of` > 1")
    highest = limits.max_top_n_tokens if rules.max_top_tokens is None else rules.max_top_tokens
    if (p.top_n_tokens or 0) > highest:
        raise ValidationError(
            f"`top_n_tokens` must be >= 0 and <= {highest}. Given: {p.top_n_tokens}"
        )


def _check_penalty(value: float | None, name: str) -> None:
    _check_number(value, name, lambda number: -2.0 <= number <= 2.0, "be >= -2.0 and <= 2.0")


def _is_positive(value: float) -> bool:
    return value > 0


def _is_fraction(value: float) -> bool:
    return 0.0 < value < 1.0


def _check_number(
    value: float | None, name: str, is_right: Callable[[float], bool], must: str
) -> None:
    if value is None:
        return
    if not is_right(value):
        raise ValidationError(f"`{name}` must {must}")
    if not math.isfinite(value):
        raise ValidationError(f"`{name}` must be finite")


def _check_stop(stop: list[str], max_stop_sequences: int) -> None:
    if len(stop) > max_stop_sequences:
        raise ValidationError(
            f"`stop` supports up to {max_stop_sequences} stop sequences. Given: {len(stop)}"
        )
    if not all(stop):
        raise ValidationError("`stop` sequences cannot be empty")


def _check_truncate(truncate: int | None, limits: LimitsConfig) -> None:
    if truncate is not None and not 0 < truncate <= limits.max_input_tokens:
        raise ValidationError(
            "`truncate` must be strictly positive and less than "
            f"{limits.max_input_tokens}. Given: {truncate}"
        )


async def _to_ids(
    services: Services, prompt: str | list[int], add_special_tokens: bool
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    if isinstance(prompt, str):
        ids = await services.text.pool.encode(prompt, add_special_tokens=add_special_tokens)
        return ids.astype(np.int32, copy=False)
    num_vocab = services.engine.ready.num_vocab if services.engine.ready is not None else 0
    wrong = next((i for i in prompt if i >= num_vocab), None)
    if wrong is not None:
        raise ValidationError(f"`prompt` token ids must be < {num_vocab}. Given: {wrong}")
    return np.array(prompt, dtype=np.int32)


def _output_budget(
    num_input: int, goal: int | None, limits: LimitsConfig, rules: RouteRules
) -> int:
    """How many tokens this request may produce: its goal, or what room there is."""
    room = max(0, limits.max_total_tokens - num_input)
    chunk = min(room if goal is None else goal, _TGI_CHUNK)
    prompt, length = rules.prompt_field, rules.length_field
    is_told_of_both = rules.has_tgi_words or goal is not None
    if num_input + chunk > limits.max_total_tokens and is_told_of_both:
        given = chunk if rules.has_tgi_words else goal
        raise LengthError(
            f"`{prompt}` tokens + `{length}` must be <= {limits.max_total_tokens}. "
            f"Given: {num_input} `{prompt}` tokens and {given} `{length}`",
            prompt,
        )
    if num_input > limits.max_input_tokens or not room:
        must = "have less than" if rules.has_tgi_words else "have at most"
        raise LengthError(
            f"`{prompt}` must {must} {limits.max_input_tokens} tokens. Given: {num_input}", prompt
        )
    return room if goal is None else min(goal, room)


def _refuse_unsupported(parameters: GenerateParameters, limits: LimitsConfig) -> None:
    if parameters.grammar is not None:
        if limits.disable_grammar_support:
            raise ValidationError("grammar is not supported")
        raise ValidationError("`grammar` is not supported yet")
    if parameters.watermark:
        raise ValidationError("`watermark` is not supported")
    if parameters.adapter_id is not None:
        raise ValidationError("`adapter_id` is not supported: no adapters are loaded")
