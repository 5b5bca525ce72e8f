# What _runner.pyx and _aside.pyx use of _context.pyx.

from libc.stdint cimport int32_t

from tgi_llamacpp.native cimport llama as ll
from tgi_llamacpp.native._model cimport Model


cdef class ContextShape:
    cdef ll.llama_context_params params
    cdef int32_t num_slots
    cdef int32_t max_slot_tokens
    cdef int32_t max_step_outputs
    cdef bint is_unified
    cdef bint can_trim
    cdef bint has_window


cdef ll.llama_context* open_context(Model model, ll.llama_context_params params, path) except NULL
cdef int32_t padded(int32_t num_tokens) noexcept
