"""How a request's parameters become the engine's: greedy or not, and which random numbers.

Owns the rule that decides between greedy and sampling, and the derivation of seeds. Called by
router/validation.py after the parameters were found in range.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from tgi_llamacpp.messages import SamplingParams
from tgi_llamacpp.router.schemas_tgi import GenerateParameters

_MASK = 2**64 - 1


def is_sampled(parameters: GenerateParameters) -> bool:
    """TGI's rule: asked for, or implied by any setting that has no meaning without it."""
    return (
        parameters.do_sample
        or parameters.temperature not in (None, 1.0)
        or parameters.top_k is not None
        or parameters.top_p is not None
        or parameters.typical_p is not None
    )


def random_seed() -> int:
    """An unsigned 64-bit seed that nobody chose."""
    return secrets.randbits(64)


def sequence_seed(seed: int, choice: int) -> int:
    """The seed of one sequence: the first 8 bytes of BLAKE2b over (seed, choice), little-endian.

    Choices of one request draw independent numbers, and choice 0 is what a request with that seed
    and one choice draws.
    """
    message = (seed & _MASK).to_bytes(8, "little") + choice.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")


def to_sampling_params(
    parameters: GenerateParameters,
    samplers: SamplingParams,
    *,
    is_sampled: bool,
    presence_penalty: float,
    penalize_prompt: bool,
) -> SamplingParams:
    """The engine's parameters, with the seed still open (0). Not sampled is temperature 0.

    `samplers` are those that TGI's parameters do not speak of.
    """

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return msgspec.structs.replace(
        samplers,
        temperature=given(parameters.temperature, 1.0) if is_sampled else 0.0,
        top_k=parameters.top_k or 0,
        top_p=given(parameters.top_p, 1.0),
        typical_p=given(parameters.typical_p, 1.0),
        repetition_penalty=given(parameters.repetition_penalty, 1.0),
        frequency_penalty=given(parameters.frequency_penalty, 0.0),
        presence_penalty=presence_penalty,
        penalize_prompt=penalize_prompt,
        num_top_tokens=parameters.top_n_tokens or 0,
    )
