"""The limits that hold once a model is loaded, and the check of a Submit against them.

Configuration says what the operator asked for, the model and the runner what there is; what was
lowered is told in notes. process.py resolves, the scheduler asks check_submit before it queues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.model import Model
from tgi_llamacpp.engine.runner import RunnerLimits
from tgi_llamacpp.messages import SamplingParams, Submit

MIN_PREFIX_TOKENS = 16
_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Fixed for the life of the engine. `max_..._tokens` count tokens of prompt and output."""

    max_running: int
    max_sequence_tokens: int  # prompt and output of one sequence
    max_budget_tokens: int  # of all running sequences: reserved, or if optimistic present
    max_step_tokens: int  # rows of one step
    max_top_tokens: int  # alternatives beside one output token
    num_vocab: int
    eog_ids: frozenset[int]
    min_prefix_tokens: int | None  # shorter ones are not shared; None: there is no prefix cache
    max_host_cache_bytes: int = 0  # of the prefix cache's tier in host memory; 0: there is none
    target_itl_s: float = 0.0  # the longest that a step with decode rows shall take; 0 is no target
    is_optimistic: bool = False  # sequences run that may come to more than the budget together
    min_aside_tokens: int = 256  # of a prompt that is computed beside the steps of streams


def resolve_limits(
    config: EngineConfig, model: Model, runner: RunnerLimits
) -> tuple[EngineLimits, list[str]]:
    """The limits that hold, and a sentence for each that is lower than what was asked for."""
    notes: list[str] = []
    max_step_tokens = _lowered(
        notes,
        "--max-physical-batch-total-tokens",
        config.max_physical_batch_total_tokens,
        {"the rows that one step of the context can take": runner.max_step_tokens},
    )
    limits = EngineLimits(
        max_running=_lowered(
            notes,
            "--max-batch-size",
            config.max_batch_size,
            {"the slots of the context": runner.num_slots, "the rows of a step": max_step_tokens},
        ),
        max_sequence_tokens=_lowered(
            notes,
            "--max-total-tokens",
            config.max_total_tokens,
            {
                "the context that the model was trained for": model.context_length,
                "the tokens that a slot holds": runner.max_slot_tokens,
            },
        ),
        max_budget_tokens=_lowered(
            notes,
            "--max-batch-total-tokens",
            config.max_batch_total_tokens,
            {"the cells of the KV cache": runner.max_pool_tokens},
        ),
        max_step_tokens=max_step_tokens,
        max_top_tokens=runner.max_top_tokens,
        num_vocab=model.num_vocab,
        eog_ids=model.eog_ids | frozenset(config.extra_eog_ids),
        min_prefix_tokens=_min_prefix_tokens(runner) if config.prefix_cache else None,
        max_host_cache_bytes=config.max_host_cache_bytes if config.prefix_cache else 0,
        target_itl_s=config.target_itl_ms / 1000,
        is_optimistic=config.admission == "optimistic",
        min_aside_tokens=config.min_aside_tokens,
    )
    return limits, notes


def _min_prefix_tokens(runner: RunnerLimits) -> int:
    """From how many tokens on a copy is cheaper than computing them again, with some to spare.

    With split KV a copy takes the whole slot; some 300 cells of it cost as much as one token.
    """
    if runner.is_unified:
        return MIN_PREFIX_TOKENS
    return max(MIN_PREFIX_TOKENS, runner.max_slot_tokens // 128)


def _lowered(notes: list[str], flag: str, asked: int, bounds: dict[str, int]) -> int:
    reason = min(bounds, key=lambda name: bounds[name])
    if bounds[reason] >= asked:
        return asked
    notes.append(f"{flag} is lowered from {asked} to {bounds[reason]}, {reason}.")
    return bounds[reason]


def check_submit(submit: Submit, limits: EngineLimits) -> str | None:
    """Why this sequence cannot be run at all, as one sentence; None if it can.

    The ids themselves are checked by check_ids, once they are an array.
    """
    if len(submit.prompt_ids) % _ID_BYTES or len(submit.generated_ids) % _ID_BYTES:
        return "the token ids are not whole 32-bit numbers: send int32 columns"
    num_prompt = len(submit.prompt_ids) // _ID_BYTES
    num_generated = len(submit.generated_ids) // _ID_BYTES
    if num_prompt == 0:
        return "the prompt has 0 tokens and needs at least 1: send some text"
    if not 0 <= submit.num_scored < num_prompt:
        return (
            f"num_scored is {submit.num_scored} and the prompt has {num_prompt} tokens: it must be"
            " less"
        )
    if submit.max_new_tokens <= num_generated and (submit.max_new_tokens or num_generated):
        return (
            f"max_new_tokens is {submit.max_new_tokens} and {num_generated} tokens are generated"
            " already: it must be greater"
        )
    return _check_lengths(num_prompt, submit.max_new_tokens, limits) or _check_params(
        submit.params, limits.max_top_tokens
    )


def _check_lengths(num_prompt: int, max_new_tokens: int, limits: EngineLimits) -> str | None:
    num_tokens = num_prompt + max_new_tokens
    needs = f"the sequence needs {num_tokens} tokens ({num_prompt} + {max_new_tokens} new)"
    if num_tokens > limits.max_sequence_tokens:
        return (
            f"{needs} and a sequence may have {limits.max_sequence_tokens}:"
            " shorten it, or raise --max-total-tokens as far as the model's context allows"
        )
    if num_tokens > limits.max_budget_tokens:
        return (
            f"{needs} and the budget of all is {limits.max_budget_tokens}:"
            " shorten it, or raise --max-batch-total-tokens"
        )
    return None


def check_ids(lowest: int, highest: int, num_vocab: int) -> str | None:
    """Why ids from lowest to highest cannot be run; None if they can."""
    if lowest >= 0 and highest < num_vocab:
        return None
    outside = lowest if lowest < 0 else highest
    return f"token id {outside} is outside the vocabulary of {num_vocab}: check the tokenizer"


def _check_params(params: SamplingParams, max_top_tokens: int) -> str | None:
    """The router validates; this keeps a mistake of its from ending every sequence."""
    is_good = {
        "temperature": math.isfinite(params.temperature) and params.temperature >= 0,
        "top_k": 0 <= params.top_k < 2**31,
        "top_p": 0 < params.top_p <= 1,
        "typical_p": 0 < params.typical_p <= 1,
        "repetition_penalty": math.isfinite(params.repetition_penalty)
        and params.repetition_penalty > 0,
        "frequency_penalty": math.isfinite(params.frequency_penalty),
        "presence_penalty": math.isfinite(params.presence_penalty),
        "seed": 0 <= params.seed < 2**64,
        "num_top_tokens": 0 <= params.num_top_tokens <= max_top_tokens,
        "penalty_last_n": -1 <= params.penalty_last_n < 2**31,
        "dry_allowed_length": 0 <= params.dry_allowed_length < 2**31,
        "dry_last_n": -1 <= params.dry_last_n < 2**31,
        "min_new_tokens": 0 <= params.min_new_tokens < 2**32,
        "mirostat": 0 <= params.mirostat <= 2,
    }
    for name, good in is_good.items():
        if not good:
            return f"{name} is {getattr(params, name)}, which cannot be sampled with"
    return None
