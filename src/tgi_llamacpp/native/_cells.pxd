# What _runner.pyx uses of _cells.pyx.

from libc.stdint cimport int8_t, int32_t

from tgi_llamacpp.native cimport llama as ll


cdef class SlotCells:
    cdef ll.llama_context* _ctx  # the runner's, which closes this before it
    cdef ll.llama_memory_t _memory  # the context's
    cdef int32_t* num  # owned, one a slot: its cells are those of positions [0, num)
    cdef int32_t* _num_loaded  # owned, one a slot: of its cells, those that load gave
    cdef int8_t* _pending  # owned, one a slot: a copy that the next decode does reads or writes it
    cdef int32_t num_slots
    cdef bint _can_trim
    cdef bint _is_unified

    cdef void open(self, ll.llama_context* ctx, int32_t num_slots, bint can_trim, bint is_unified) except *
    cdef void sync(self, const int32_t[::1] slots, const int32_t[::1] positions, int32_t status) noexcept nogil
    cdef void move(self, int32_t src, int32_t dst) noexcept
    cdef bint copy(self, int32_t src, int32_t dst, int32_t num_tokens) noexcept
    cdef bint trim(self, int32_t slot, int32_t num_tokens) noexcept
    cdef void _copy_all(self, int32_t src, int32_t dst) noexcept
    cdef bint _can_cut(self, int32_t slot, int32_t num_tokens) noexcept
    cdef void drop(self, int32_t slot) noexcept
    cdef size_t state_bytes(self, int32_t slot) noexcept nogil
    cdef bint save(self, int32_t slot, unsigned char[::1] buffer) noexcept nogil
    cdef bint load(self, int32_t slot, const unsigned char[::1] buffer, int32_t num_tokens) noexcept nogil
    cdef void close(self) noexcept
