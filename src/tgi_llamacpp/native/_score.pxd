# What _runner.pyx uses of _score.pyx.

from libc.stdint cimport int32_t

from tgi_llamacpp.native cimport score as scr


cdef class ScoredRows:
    cdef scr.Scorer* _scorer  # owned
    cdef int32_t _num_vocab
    cdef int32_t _max_rows
    cdef int32_t _num_rows
    cdef object _logprobs, _top_ids, _top_logprobs  # columns of max_rows
    cdef float* _logprobs_ptr  # into them
    cdef int32_t* _top_ids_ptr
    cdef float* _top_logprobs_ptr

    cdef void clear(self) noexcept nogil
    cdef void add(self, const float* logits, int32_t token_id, int32_t num_top) noexcept nogil
