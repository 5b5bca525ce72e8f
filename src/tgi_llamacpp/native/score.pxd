# csrc/score.h restated.

from libc.stdint cimport int32_t

from tgi_llamacpp.native.sampler cimport SampleStatus


cdef extern from "score.h" namespace "tgi" nogil:
    cdef cppclass Scorer:
        Scorer(int32_t num_vocab) noexcept
        SampleStatus score(const float* logits, int32_t id, int32_t num_top, float* logprob,
                           int32_t* top_ids, float* top_logprobs) noexcept
