"""What the OpenAPI document says about request fields beyond their types: meaning and limits.

Keyed by schema and field; types and nullability come from the shapes in router/schemas_*.py, the
rules from router/validation.py. Read by router/openapi.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tgi_llamacpp.config import LimitsConfig
from tgi_llamacpp.router.openai_chat import MAX_TOP_LOGPROBS
from tgi_llamacpp.router.openai_completions import MAX_LOGPROBS
from tgi_llamacpp.router.samplers import (
    DEFAULT_BREAKERS,
    MAX_BIAS,
    MAX_BIASES,
    MAX_BREAKERS,
    RANGES,
    Range,
)
from tgi_llamacpp.router.shapes import Definitions, Schema

Notes = Mapping[str, Schema]
_PENALTY = {"minimum": -2.0, "maximum": 2.0}
_FRACTION = {"exclusiveMinimum": 0.0, "exclusiveMaximum": 1.0}


def annotate(definitions: Definitions, limits: LimitsConfig) -> None:
    """Add every note to its field's schema."""
    for name, notes in _notes(limits).items():
        properties = definitions[name]["properties"]
        assert isinstance(properties, dict)
        for field, note in notes.items():
            properties[field] = {**properties[field], **note}


def _notes(limits: LimitsConfig) -> Mapping[str, Notes]:
    prompt = _says("The prompt. May be empty for /tokenize alone.")
    return {
        "GenerateParameters": _parameters(limits),
        "ChatRequest": {**_sampling(limits), **_chat()},
        "CompletionRequest": {**_sampling(limits), **_completion(limits)},
        "GenerateRequest": {"inputs": prompt},
        "CompatGenerateRequest": {"inputs": prompt, "stream": {"default": False}},
        "GenerateVertexInstance": {"inputs": prompt},
        "InferenceInput": {"data": {"description": "A prompt, as the bytes of its UTF-8."}},
        "VertexRequest": {"instances": {"minItems": 1, "maxItems": limits.max_concurrent_requests}},
    }


def _says(description: str, **keywords: object) -> Schema:
    return {"description": description, **keywords}


def _parameters(limits: LimitsConfig) -> Notes:
    return {
        "best_of": _says(
            "Draw so many candidates and answer with the likeliest. Needs sampling and no seed.",
            maximum=limits.max_best_of,
        ),
        "temperature": _says("Above 1 flattens, below 1 sharpens.", exclusiveMinimum=0.0),
        "repetition_penalty": _says("1 is none.", exclusiveMinimum=0.0),
        "frequency_penalty": _says("Grows with each use of a token.", **_PENALTY),
        "top_k": _says("Keep so many of the likeliest tokens.", minimum=1),
        "top_p": _says("Keep the likeliest tokens up to this probability.", **_FRACTION),
        "typical_p": _says("Keep the most typical tokens up to this probability.", **_FRACTION),
        "do_sample": _says(
            "Draw tokens instead of taking the likeliest. True where `parameters` is absent.",
            default=False,
        ),
        "max_new_tokens": _says(
            "Most tokens to generate; null is all there is room for.", minimum=1
        ),
        "return_full_text": _says("Put the prompt before the text. On / the default is true."),
        "stop": {
            "description": "Texts that end the generation; the one found stays in the answer.",
            "maxItems": limits.max_stop_sequences,
            "items": {"type": "string", "minLength": 1},
            "default": [],
        },
        "truncate": _says(
            "Keep so many tokens of the prompt, its last.",
            minimum=1,
            maximum=limits.max_input_tokens,
        ),
        "watermark": _says("Not supported.", const=False),
        "details": _says("Answer with tokens, log-probabilities and counts.", default=False),
        "decoder_input_details": _says(
            "Answer with the log-probabilities of the prompt's tokens too; implies `details`, and"
            " is not streamed.",
            default=False,
        ),
        "seed": _says("The same seed draws the same tokens."),
        "top_n_tokens": _says(
            "Report so many alternatives beside each token.", maximum=limits.max_top_n_tokens
        ),
        "grammar": _says("Not supported yet: must be null."),
        "adapter_id": _says("Not supported.", type="null"),
    }


def _sampling(limits: LimitsConfig) -> Notes:
    return {
        "model": _says("Any name is taken, and comes back."),
        "max_tokens": _says("Most tokens to generate; null and -1 are all there is room for."),
        "max_completion_tokens": _says("The newer name of `max_tokens`."),
        "n_predict": _says("llama.cpp's name of `max_tokens`."),
        "min_tokens": _says(
            "Before so many tokens neither an end of generation nor a stop string ends the answer."
        ),
        "stop": _says(f"At most {limits.max_stop_sequences} texts; they are cut from the answer."),
        "seed": _says("The same seed draws the same tokens."),
        "n": _says("Answer with so many.", minimum=1, maximum=limits.max_concurrent_requests),
        "n_cmpl": _says(
            "llama.cpp's name of `n`.", minimum=1, maximum=limits.max_concurrent_requests
        ),
        "cache_prompt": _says("False takes nothing from the prefix cache.", default=True),
        "response_format": _says("Not supported yet, other than of type `text`."),
        "modalities": _says('`["text"]` alone is supported.'),
        "stream": _says("Answer with server-sent events.", default=False),
        "stream_options": _says("What a stream has beside its tokens."),
        "ignore_eos": _says("Go on where the model would end.", default=False),
        **_samplers(),
    }


def _samplers() -> Notes:
    """logit_bias and llama.cpp's samplers, with the ranges that router/samplers.py checks."""
    bias = {"type": "number", "format": "float", "minimum": -MAX_BIAS, "maximum": MAX_BIAS}
    says = {
        "temperature": "Above 1 flattens, below 1 sharpens.",
        "top_p": "Keep the likeliest tokens up to this probability.",
        "top_k": "Keep so many of the likeliest tokens.",
        "typical_p": "Keep the most typical tokens up to this probability.",
        "repetition_penalty": "Of every token of the prompt and the output.",
        "frequency_penalty": "Grows with each use of a token in the output.",
        "presence_penalty": "For every token that the output has.",
        "min_p": "Keep what has this fraction of the likeliest token's probability.",
        "repeat_penalty": "llama.cpp's name of `repetition_penalty`.",
        "repeat_last_n": "How many of the last tokens the three penalties look at.",
        "dry_multiplier": "Strength of DRY, which penalises what goes on with a repetition:"
        " dry_multiplier * dry_base ^ (length of the repetition - dry_allowed_length).",
        "dry_base": "See `dry_multiplier`.",
        "dry_allowed_length": "Shortest repetition that DRY penalises.",
        "dry_penalty_last_n": "How many of the last tokens DRY looks for repetitions in.",
        "xtc_probability": "How often XTC takes out all but the least likely of the tokens that"
        " reach `xtc_threshold`. Needs a temperature above 0.",
        "xtc_threshold": "See `xtc_probability`. Above 0.5 no two tokens reach it.",
        "mirostat": "Version of Mirostat, in place of every cut. Needs a temperature above 0.",
        "mirostat_tau": "The surprise that Mirostat aims at, in bits.",
        "mirostat_eta": "How quickly Mirostat learns.",
    }
    return {
        **{name: _in_range(text, RANGES[name]) for name, text in says.items()},
        "logit_bias": _says(
            "Added to the logits of tokens, by id; -100 bans a token.",
            additionalProperties=bias,
            maxProperties=MAX_BIASES,
            propertyNames={"pattern": "^(0|[1-9][0-9]*)$"},
        ),
        "dry_sequence_breakers": {
            "description": "DRY's repetitions do not reach across tokens that hold one of these.",
            "maxItems": MAX_BREAKERS,
            "items": {"type": "string", "minLength": 1},
            "default": list(DEFAULT_BREAKERS),
        },
    }


def _in_range(text: str, allowed: Range) -> Schema:
    lowest = "exclusiveMinimum" if allowed.excludes_minimum else "minimum"
    limits = {} if allowed.maximum in (None, math.inf) else {"maximum": allowed.maximum}
    return _says(
        f"{text} {allowed.hint[0].upper()}{allowed.hint[1:]}.",
        **{lowest: allowed.minimum},
        **limits,
    )


def _chat() -> Notes:
    return {
        "n_probs": _says(
            "llama.cpp's name of `top_logprobs`, with `logprobs`.", maximum=MAX_TOP_LOGPROBS
        ),
        "logprobs": _says("Report log-probabilities.", default=False),
        "top_logprobs": _says("Report so many alternatives.", maximum=MAX_TOP_LOGPROBS),
        "messages": {"minItems": 1},
        "tools": _says("Not supported yet, unless `tool_choice` is `none`."),
        "functions": _says("Not supported yet, unless `function_call` is `none`."),
        "function_call": _says("The older name of `tool_choice`, for `functions`."),
        "reasoning_effort": _says(
            "Passed to a chat template that knows it, and refused by others; `none` is taken."
        ),
        "documents": _says("Passed to the chat template."),
        "add_generation_prompt": _says("Whether the template begins the assistant's message."),
        "continue_final_message": _says("Whether the last message is continued."),
        "chat_template_kwargs": _says("Passed to the chat template."),
    }


def _completion(limits: LimitsConfig) -> Notes:
    several = limits.max_client_batch_size
    return {
        "max_tokens": _says(
            "Most tokens to generate; null and -1 are all there is room for. 0 with `echo` alone."
        ),
        "n_probs": _says("llama.cpp's name of `logprobs`.", maximum=MAX_LOGPROBS),
        "prompt": _says(f"A text or token ids, or a list of at most {several} of them."),
        "logprobs": _says("Report so many alternatives beside each token.", maximum=MAX_LOGPROBS),
        "echo": _says(
            "Put the prompt before the text, and with `logprobs` its tokens before the others;"
            " `max_tokens` may be 0 then.",
            default=False,
        ),
        "best_of": _says(
            "Draw so many candidates for each prompt and answer with the `n` likeliest, by the mean"
            " log-probability of a token. At least `n`; where it is more, not streamed.",
            minimum=1,
            maximum=limits.max_concurrent_requests,
        ),
        "suffix": _says("Not supported.", type="null"),
    }
