# csrc/sampler.h restated: what _runner.pyx uses of it.

from libc.stdint cimport int32_t, int64_t, uint64_t
from libcpp cimport bool as cbool


cdef extern from "sampler.h" namespace "tgi" nogil:
    cdef cppclass SamplerParams:
        float temperature
        int32_t top_k
        float top_p
        float typical_p
        float repetition_penalty
        float frequency_penalty
        float presence_penalty
        cbool penalize_prompt
        uint64_t seed
        int32_t num_top
        int32_t penalty_last_n
        const int32_t* bias_ids
        const float* bias_values
        int64_t num_biases
        float min_p
        float xtc_probability
        float xtc_threshold
        float dry_multiplier
        float dry_base
        int32_t dry_allowed_length
        int32_t dry_last_n
        const int32_t* dry_breaker_ids
        int64_t num_dry_breakers
        int32_t mirostat
        float mirostat_tau
        float mirostat_eta

    cdef cppclass SampledToken:
        int32_t id
        float logprob

    cdef enum class SampleStatus(int32_t):
        ok
        no_finite_logit
        out_of_memory
        bad_argument

    const char* sample_status_message(SampleStatus status) noexcept
    double draw_uniform(uint64_t seed, int64_t position) noexcept
    double coin_uniform(uint64_t seed, int64_t position) noexcept

    cdef cppclass Sampler:
        Sampler(int32_t num_vocab) noexcept
        SampleStatus reset(const SamplerParams& params, const int32_t* prompt_ids, int64_t num_prompt,
                           const int32_t* output_ids, int64_t num_output) noexcept
        SampleStatus sample(const float* logits, int64_t position, SampledToken* out,
                            int32_t* top_ids, float* top_logprobs) noexcept
        int32_t num_top() noexcept
