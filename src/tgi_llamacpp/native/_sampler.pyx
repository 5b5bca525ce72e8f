# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# distutils: language=c++
"""csrc's sampler as Python sees it: the parameters' way in, and the class alone for tests and benches."""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint64_t

from tgi_llamacpp.config import MAX_TOP_TOKENS
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.native cimport sampler as smp


cdef class Sampler:
    """csrc's sampler alone, for its tests and benches. Rows are float32[num_vocab]."""

    def __cinit__(self, int32_t num_vocab):
        self._sampler = new smp.Sampler(num_vocab)
        self._num_vocab = num_vocab

    def __dealloc__(self):
        del self._sampler

    def reset(self, params, prompt_ids, output_ids):
        """Start a sequence with these counts."""
        reset_sampler(self._sampler, params, prompt_ids, output_ids)

    def sample(self, const float[::1] logits, int64_t position):
        """(id, logprob, top_ids, top_logprobs) of the token at `position`."""
        if logits.shape[0] != self._num_vocab:
            raise ValueError(f"{logits.shape[0]} logits for a vocabulary of {self._num_vocab}")
        cdef smp.SampledToken token
        num_top = self._sampler.num_top()
        top_ids, top_logprobs = np.empty(num_top + 1, np.int32), np.empty(num_top + 1, np.float32)
        cdef int32_t[::1] ids = top_ids
        cdef float[::1] logprobs = top_logprobs
        _check_sampler(self._sampler.sample(&logits[0], position, &token, &ids[0], &logprobs[0]))
        return token.id, token.logprob, top_ids[:num_top], top_logprobs[:num_top]


def draw_uniform(seed, int64_t position):
    """The uniform number in [0, 1) of this seed and position."""
    return smp.draw_uniform(<uint64_t>seed, position)


def coin_uniform(seed, int64_t position):
    """The uniform number in [0, 1) of XTC's coin."""
    return smp.coin_uniform(<uint64_t>seed, position)


cdef int _check_sampler(smp.SampleStatus status) except -1:
    if status != smp.SampleStatus.ok:
        raise RunnerError(smp.sample_status_message(status).decode())
    return 0


cdef _column(bytes column, dtype):
    """A message's column of four-byte numbers as an array."""
    if len(column) % 4:
        raise RunnerError(f"a column of {len(column)} bytes is not one of four-byte numbers")
    return np.frombuffer(column, dtype) if column else np.empty(0, dtype)


cdef int reset_sampler(smp.Sampler* sampler, params, prompt_ids, output_ids) except -1:
    """Start a sequence: SamplingParams and both id columns go in, RunnerError comes out."""
    cdef smp.SamplerParams c_params
    cdef const int32_t[::1] prompt = np.ascontiguousarray(prompt_ids, np.int32)
    cdef const int32_t[::1] output = np.ascontiguousarray(output_ids, np.int32)
    if params.num_top_tokens > MAX_TOP_TOKENS:
        raise RunnerError(f"{params.num_top_tokens} top tokens asked; a row reports at most {MAX_TOP_TOKENS}")
    c_params.temperature = params.temperature
    c_params.top_k = params.top_k
    c_params.top_p = params.top_p
    c_params.typical_p = params.typical_p
    c_params.repetition_penalty = params.repetition_penalty
    c_params.frequency_penalty = params.frequency_penalty
    c_params.presence_penalty = params.presence_penalty
    c_params.penalize_prompt = params.penalize_prompt
    c_params.seed = params.seed
    c_params.num_top = params.num_top_tokens
    c_params.penalty_last_n = params.penalty_last_n
    c_params.min_p = params.min_p
    c_params.xtc_probability = params.xtc_probability
    c_params.xtc_threshold = params.xtc_threshold
    c_params.dry_multiplier = params.dry_multiplier
    c_params.dry_base = params.dry_base
    c_params.dry_allowed_length = params.dry_allowed_length
    c_params.dry_last_n = params.dry_last_n
    c_params.mirostat = params.mirostat
    c_params.mirostat_tau = params.mirostat_tau
    c_params.mirostat_eta = params.mirostat_eta
    # reset() copies these columns, so that views of the bytes will do.
    cdef const int32_t[::1] bias_ids = _column(params.bias_ids, np.int32)
    cdef const float[::1] bias_values = _column(params.bias_values, np.float32)
    cdef const int32_t[::1] breaker_ids = _column(params.dry_breaker_ids, np.int32)
    if bias_ids.shape[0] != bias_values.shape[0]:
        raise RunnerError(f"{bias_ids.shape[0]} ids have a bias, and {bias_values.shape[0]} values are given")
    c_params.num_biases = bias_ids.shape[0]
    c_params.bias_ids = &bias_ids[0] if bias_ids.shape[0] else NULL
    c_params.bias_values = &bias_values[0] if bias_values.shape[0] else NULL
    c_params.num_dry_breakers = breaker_ids.shape[0]
    c_params.dry_breaker_ids = &breaker_ids[0] if breaker_ids.shape[0] else NULL
    cdef const int32_t* prompt_ptr = &prompt[0] if prompt.shape[0] else NULL
    cdef const int32_t* output_ptr = &output[0] if output.shape[0] else NULL
    return _check_sampler(sampler.reset(c_params, prompt_ptr, prompt.shape[0], output_ptr, output.shape[0]))
