# csrc/baton.h restated.

from libc.stdint cimport int64_t
from libcpp cimport bool as cbool


cdef extern from "baton.h" namespace "tgi" nogil:
    ctypedef void (*Job)(void* argument) noexcept

    cdef cppclass Baton:
        Baton() except +
        cbool start(Job job, void* argument)
        cbool run(int64_t max_us)
        void cancel()
        cbool is_active()
        cbool pause()
        cbool is_cancelled()
