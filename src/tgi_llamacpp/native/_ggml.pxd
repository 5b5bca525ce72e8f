# What _runner.pyx uses of _ggml.pyx.

from tgi_llamacpp.native cimport llama as ll


cdef ll.ggml_type ggml_type_of(str name) except *


cdef class ThreadPools:
    cdef ll.ggml_threadpool_t _one  # owned, one-row graphs
    cdef ll.ggml_threadpool_t _batch  # owned unless it is _one, all other graphs

    cdef void attach(self, ll.llama_context* ctx) noexcept
    cdef void close(self) noexcept
