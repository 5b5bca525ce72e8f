# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# distutils: language=c++
"""The rows of a step whose next id is known: csrc's scorer and the columns that it fills.

Knows no slot and no model; _runner.pyx gives it logits, the tests give it arrays.
"""

import numpy as np

from libc.math cimport NAN
from libc.stdint cimport int32_t

from tgi_llamacpp.config import MAX_TOP_TOKENS
from tgi_llamacpp.engine.runner import Scores
from tgi_llamacpp.native cimport sampler as smp
from tgi_llamacpp.native cimport score as scr

cdef int32_t _MAX_TOP = MAX_TOP_TOKENS


cdef class ScoredRows:
    """Up to max_rows log-probabilities with their alternatives. `clear`, `add` each, `scores`."""

    def __cinit__(self, int32_t num_vocab, int32_t max_rows):
        self._scorer = new scr.Scorer(num_vocab)
        self._num_vocab = num_vocab
        self._max_rows = max_rows
        self._num_rows = 0

    def __init__(self, int32_t num_vocab, int32_t max_rows):
        self._logprobs = np.empty(max_rows, np.float32)
        self._top_ids = np.empty((max_rows, MAX_TOP_TOKENS), np.int32)
        self._top_logprobs = np.empty((max_rows, MAX_TOP_TOKENS), np.float32)
        cdef float[::1] logprobs = self._logprobs
        cdef int32_t[:, ::1] top_ids = self._top_ids
        cdef float[:, ::1] top_logprobs = self._top_logprobs
        self._logprobs_ptr = &logprobs[0]
        self._top_ids_ptr = &top_ids[0, 0]
        self._top_logprobs_ptr = &top_logprobs[0, 0]

    def __dealloc__(self):
        del self._scorer

    cdef void clear(self) noexcept nogil:
        self._num_rows = 0

    cdef void add(self, const float* logits, int32_t token_id, int32_t num_top) noexcept nogil:
        """The next row; NaN where it has no finite logit. The caller keeps to max_rows and _MAX_TOP."""
        cdef int32_t i, at = self._num_rows * _MAX_TOP
        cdef smp.SampleStatus status = self._scorer.score(
            logits, token_id, num_top, self._logprobs_ptr + self._num_rows,
            self._top_ids_ptr + at, self._top_logprobs_ptr + at,
        )
        if status != smp.SampleStatus.ok:
            self._logprobs_ptr[self._num_rows] = NAN
            for i in range(num_top):
                self._top_ids_ptr[at + i] = 0
                self._top_logprobs_ptr[at + i] = NAN
        self._num_rows += 1

    def scores(self):
        """What was added since `clear`; valid until the next one."""
        n = self._num_rows
        return Scores(self._logprobs[:n], self._top_ids[:n], self._top_logprobs[:n])

    def score(self, const float[:, ::1] rows, const int32_t[::1] token_ids, int32_t num_top):
        """Scores of these rows of logits, for tests and benches."""
        cdef int32_t row
        if rows.shape[1] != self._num_vocab or rows.shape[0] != token_ids.shape[0]:
            raise ValueError(f"{rows.shape[0]} rows of {rows.shape[1]} for a vocabulary of {self._num_vocab}")
        if rows.shape[0] > self._max_rows or num_top > _MAX_TOP:
            raise ValueError(f"{rows.shape[0]} rows, {num_top} top: at most {self._max_rows} and {_MAX_TOP}")
        with nogil:
            self.clear()
            for row in range(<int32_t>rows.shape[0]):
                self.add(&rows[row, 0], token_ids[row], num_top)
        return self.scores()
