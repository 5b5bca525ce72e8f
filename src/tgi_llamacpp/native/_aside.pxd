# What _runner.pyx uses of _aside.pyx.

from libc.stdint cimport int32_t

from tgi_llamacpp.native cimport baton as btn
from tgi_llamacpp.native cimport llama as ll
from tgi_llamacpp.native._cells cimport SlotCells
from tgi_llamacpp.native._context cimport ContextShape
from tgi_llamacpp.native._ggml cimport ThreadPools
from tgi_llamacpp.native._model cimport Model


cdef struct Work:  # the worker's, while it has the baton
    btn.Baton* baton
    ll.llama_context* ctx
    ll.llama_batch batch
    const int32_t* ids
    int32_t num_ids
    int32_t num_done
    int32_t max_rows
    int32_t num_nodes
    int32_t status


cdef class Aside:
    cdef Work _work  # its context, batch and baton are owned
    cdef int32_t _max_rows
    cdef object _ids  # keeps the array alive
    cdef Model _parent  # keeps the weights alive
    cdef object _buffer  # that cells go over in
    cdef readonly object cache_bytes  # of its cells

    @staticmethod
    cdef Aside create(Model parent, ContextShape shape, path)
    cdef bint give(self, SlotCells cells, int32_t slot) except -1
    cdef bint is_sound(self, SlotCells cells) except -1
    cdef void _free(self) noexcept


cdef Aside open_aside(Model model, ContextShape shape, config, ThreadPools pools, SlotCells cells)
