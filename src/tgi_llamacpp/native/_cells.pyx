# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# distutils: language=c++
"""What each slot of a context holds: how many cells, and how they are copied, cut, saved and loaded.

Knows no sampler, no plan and no error message: _runner.pyx checks what it is asked for.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int8_t, int32_t

from tgi_llamacpp.native cimport llama as ll

cdef enum:
    _READ = 1  # a pending copy reads the slot,
    _WRITTEN = 2  # or writes it


cdef class SlotCells:
    """The cells of one context's slots. llama.cpp copies between slots of a split cache late."""

    def __cinit__(self):
        self._ctx = NULL
        self.num = NULL
        self._num_loaded = NULL
        self._pending = NULL

    cdef void open(self, ll.llama_context* ctx, int32_t num_slots, bint can_trim, bint is_unified) except *:
        self._ctx = ctx
        self._memory = ll.llama_get_memory(ctx)
        self.num_slots = num_slots
        self._can_trim = can_trim
        self._is_unified = is_unified
        self.num = <int32_t*>PyMem_Calloc(num_slots, sizeof(int32_t))
        self._num_loaded = <int32_t*>PyMem_Calloc(num_slots, sizeof(int32_t))
        self._pending = <int8_t*>PyMem_Calloc(num_slots, 1)
        if self.num == NULL or self._num_loaded == NULL or self._pending == NULL:
            raise MemoryError("no memory for the slots")

    cdef void sync(self, const int32_t[::1] slots, const int32_t[::1] positions, int32_t status) noexcept nogil:
        """Take in what a decode of these rows did, from its status."""
        cdef int32_t row, slot
        if status == -1:  # it was refused before anything was done
            return
        for slot in range(self.num_slots):
            self._pending[slot] = 0
        if status == 1:  # the memory is as it was
            return
        for row in range(<int32_t>slots.shape[0]):
            if status == 0:
                self.num[slots[row]] = positions[row] + 1
            else:
                self.num[slots[row]] = ll.llama_memory_seq_pos_max(self._memory, slots[row]) + 1

    cdef void move(self, int32_t src, int32_t dst) noexcept:
        """Make the empty slot dst what src is."""
        if self.num[src]:  # else dst would be pending, and could not be loaded
            self._copy_all(src, dst)
            self.drop(src)

    cdef bint copy(self, int32_t src, int32_t dst, int32_t num_tokens) noexcept:
        """Give the empty dst a beginning of src; false where the memory cannot."""
        if num_tokens < self.num[src] and not self._can_cut(src, num_tokens):
            return False
        # All of it, and then a part less: between slots of a split cache there is no other way.
        self._copy_all(src, dst)
        if num_tokens < self.num[src] and not ll.llama_memory_seq_rm(self._memory, dst, num_tokens, -1):
            self.drop(dst)
            return False
        self.num[dst] = num_tokens
        return True

    cdef void _copy_all(self, int32_t src, int32_t dst) noexcept:
        ll.llama_memory_seq_cp(self._memory, src, dst, -1, -1)
        self.num[dst] = self.num[src]
        self._num_loaded[dst] = self._num_loaded[src]
        if not self._is_unified or not self._can_trim:
            self._pending[src] |= _READ
            self._pending[dst] |= _WRITTEN

    cdef bint trim(self, int32_t slot, int32_t num_tokens) noexcept:
        """Forget positions from num_tokens on; false where the memory cannot."""
        if num_tokens >= self.num[slot]:
            return True
        if num_tokens and not self._can_cut(slot, num_tokens):
            return False
        if not ll.llama_memory_seq_rm(self._memory, slot, num_tokens, -1):
            return False
        self.num[slot] = num_tokens
        if not num_tokens:
            self._num_loaded[slot] = 0
        return True

    cdef bint _can_cut(self, int32_t slot, int32_t num_tokens) noexcept:
        # A state has the last position alone. And a sliding window lacks what it had passed when the
        # cells were saved, or, in one pool, what it has passed and others were given.
        if not self._can_trim:
            return False
        if ll.llama_memory_seq_pos_min(self._memory, slot) == 0:
            return True
        return not self._is_unified and 0 < self._num_loaded[slot] <= num_tokens

    cdef void drop(self, int32_t slot) noexcept:
        ll.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self.num[slot] = 0
        self._num_loaded[slot] = 0

    cdef size_t state_bytes(self, int32_t slot) noexcept nogil:
        """Bytes of the slot's cells; 0 while they are still to be copied there."""
        if self._pending[slot] & _WRITTEN:
            return 0
        return ll.llama_state_seq_get_size(self._ctx, slot)

    cdef bint save(self, int32_t slot, unsigned char[::1] buffer) noexcept nogil:
        """Fill a buffer of state_bytes with the slot's cells."""
        cdef size_t num_bytes = <size_t>buffer.shape[0]
        return ll.llama_state_seq_get_data(self._ctx, &buffer[0], num_bytes, slot) == num_bytes

    cdef bint load(self, int32_t slot, const unsigned char[::1] buffer, int32_t num_tokens) noexcept nogil:
        """Fill the empty slot with saved cells; false, and empty, where it cannot be done now."""
        cdef size_t num_bytes = <size_t>buffer.shape[0]
        if self._pending[slot]:
            return False
        if ll.llama_state_seq_set_data(self._ctx, &buffer[0], num_bytes, slot) != num_bytes:
            ll.llama_memory_seq_rm(self._memory, slot, -1, -1)
            return False
        self.num[slot] = ll.llama_memory_seq_pos_max(self._memory, slot) + 1
        self._num_loaded[slot] = num_tokens
        return True

    cdef void close(self) noexcept:
        PyMem_Free(self.num)
        PyMem_Free(self._num_loaded)
        PyMem_Free(self._pending)
        self.num = NULL
        self._num_loaded = NULL
        self._pending = NULL

    def __dealloc__(self):
        self.close()
