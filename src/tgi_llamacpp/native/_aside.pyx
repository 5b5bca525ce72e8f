# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# distutils: language=c++
"""A prompt that is computed aside: in a context of its own, in slices of time, layer by layer.

A pass over 512 rows is much cheaper a row than one over 64, and takes seconds. Here it stops between
any eight nodes of the graph, others take a step, and it goes on. Knows no sampler; called by _runner.pyx.
"""

import logging

import numpy as np

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool

from tgi_llamacpp.errors import RunnerError, StartupError
from tgi_llamacpp.native cimport baton as btn
from tgi_llamacpp.native cimport llama as ll
from tgi_llamacpp.native._cells cimport SlotCells
from tgi_llamacpp.native._context cimport ContextShape, open_context, padded
from tgi_llamacpp.native._ggml cimport ThreadPools
from tgi_llamacpp.native._model cimport Model

from tgi_llamacpp.native._model import log_lines

NUM_STREAMS_AT = 8  # in llama.cpp's state of a slot, behind a magic number and the slot
cdef int32_t _NODES = 8  # of the graph between two pauses: about a third of a layer

_logger = logging.getLogger(__name__)


cdef cbool _on_node(ll.ggml_tensor* node, cbool is_asked, void* data) noexcept nogil:
    """ggml asks of each node whether we want to look at it, and calls again when it is computed."""
    cdef Work* work = <Work*>data
    if is_asked:
        work.num_nodes += 1
        return work.num_nodes % _NODES == 0
    return work.baton.pause()


cdef void _compute(void* data) noexcept nogil:
    """All rows of the prompt, none with an output. The worker's job."""
    cdef Work* work = <Work*>data
    cdef int32_t row, num_rows
    while work.num_done < work.num_ids and work.status == 0:
        num_rows = min(work.max_rows, work.num_ids - work.num_done)
        for row in range(num_rows):
            work.batch.token[row] = work.ids[work.num_done + row]
            work.batch.pos[row] = work.num_done + row
            work.batch.n_seq_id[row] = 1
            work.batch.seq_id[row][0] = 0
            work.batch.logits[row] = 0
        work.batch.n_tokens = num_rows
        work.num_nodes = 0
        work.status = ll.llama_decode(work.ctx, work.batch)
        if not work.baton.pause():
            return
        work.num_done += num_rows


cdef Aside open_aside(Model model, ContextShape shape, config, ThreadPools pools, SlotCells cells):
    """A second context, where it serves and the first, whose cells these are, loads its states."""
    cdef Aside aside
    if not _serves(model, shape, config):
        return None
    try:
        aside = Aside.create(model, shape, config.model_path)
        pools.attach(aside._work.ctx)
        if not aside.is_sound(cells):
            raise StartupError("llama.cpp's states are not laid out as expected")
    except StartupError as error:
        _logger.warning("no prompt is computed aside, long ones make streams wait longer: %s", error)
        return None
    return aside


cdef bint _serves(Model model, ContextShape shape, config):
    # A device computes short chunks as well as long ones; a window's cells are not all saved.
    return (
        config.target_itl_ms > 0 and shape.num_slots > 1 and shape.can_trim and not shape.is_unified
        and model.device == "CPU" and not shape.has_window
        and shape.max_slot_tokens > config.min_aside_tokens
    )


@cython.no_gc_clear
cdef class Aside:
    """One prompt at a time: `start`, `advance` until it says so, `state`; or `cancel`."""

    def __cinit__(self):
        self._work.baton = new btn.Baton()
        self._work.ctx = NULL
        self._work.batch.token = NULL
        self._buffer = bytearray()

    @staticmethod
    cdef Aside create(Model parent, ContextShape shape, path):
        """As the runner's context, but for one slot. Raises StartupError."""
        cdef Aside self = Aside.__new__(Aside)
        cdef ll.llama_context_params params = shape.params
        self._parent = parent
        params.n_ctx = padded(shape.max_slot_tokens)
        params.n_seq_max = 1
        params.n_outputs_max = 1
        params.cb_eval = _on_node
        params.cb_eval_user_data = &self._work
        self._work.ctx = open_context(parent, params, path)
        self.cache_bytes = int(log_lines.cache_mib * (1 << 20))
        self._max_rows = ll.llama_n_batch(self._work.ctx)
        self._work.batch = ll.llama_batch_init(self._max_rows, 0, 1)
        return self

    def start(self, ids):
        """A prompt from its beginning: int32 ids. Computes nothing yet."""
        cdef const int32_t[::1] view = ids
        if self._work.baton.is_active():
            raise RunnerError("a prompt is being computed aside already")
        if not 0 < view.shape[0] <= ll.llama_n_ctx(self._work.ctx):
            raise RunnerError(f"{view.shape[0]} ids aside; a slot takes 1 to {ll.llama_n_ctx(self._work.ctx)}")
        if not 0 <= int(ids.min()) <= int(ids.max()) < self._parent.num_vocab:
            raise RunnerError(f"a token id aside is outside [0, {self._parent.num_vocab})")
        self._ids = ids
        self._work.ids = &view[0]
        self._work.num_ids = <int32_t>view.shape[0]
        self._work.num_done = 0
        self._work.status = 0
        ll.llama_memory_seq_rm(ll.llama_get_memory(self._work.ctx), -1, -1, -1)
        if not self._work.baton.start(_compute, &self._work):
            raise RunnerError("no thread can be had to compute a prompt aside")

    def advance(self, double max_s, int32_t max_rows):
        """Compute for so long, in passes of max_rows; True at the end, come as it may."""
        cdef cbool is_done
        cdef int64_t max_us = <int64_t>(max_s * 1e6)
        self._work.max_rows = min(max(max_rows, 1), self._max_rows)
        with nogil:
            is_done = self._work.baton.run(max_us)
        if self._work.status < 0:
            raise RunnerError(
                f"llama_decode returned {self._work.status}: {log_lines.error or 'no reason given'}"
            )
        return is_done

    cdef bint give(self, SlotCells cells, int32_t slot) except -1:
        """Fill an empty slot with what was computed; false, and empty, where it cannot be done."""
        cdef const unsigned char[::1] view
        cdef bint is_done
        state = self._state(cells.num_slots)
        if state is None:
            return False
        view = state
        with log_lines.muted():
            with nogil:
                is_done = cells.load(slot, view, self._work.num_done)
        if is_done and cells.num[slot] != self._work.num_done:
            raise RunnerError(f"slot {slot} has {cells.num[slot]} of {self._work.num_done} cells from aside")
        return is_done

    def _state(self, uint32_t num_streams):
        """What was computed, as a context of so many slots loads it; None where that is unknown."""
        cdef size_t size, streams_at = NUM_STREAMS_AT
        cdef uint32_t num_ours = 0
        size = ll.llama_state_seq_get_size(self._work.ctx, 0)
        if self._work.num_done != self._work.num_ids or size < streams_at + 4:
            return None
        cdef size_t num_bytes = size + 4 * (num_streams - 1)
        if len(self._buffer) < num_bytes:  # which is kept, as new pages are slow to come by
            self._buffer = bytearray(max(num_bytes, self.cache_bytes))
        data = memoryview(self._buffer)[:num_bytes]
        data[size:] = bytes(num_bytes - size)
        cdef unsigned char[::1] view = data
        with nogil:
            ll.llama_state_seq_get_data(self._work.ctx, &view[0], size, 0)
            # The number of streams must be the other context's. Each of them follows; the zeros
            # behind ours are streams without cells.
            memcpy(&num_ours, &view[streams_at], 4)
            memcpy(&view[streams_at], &num_streams, 4)
        return data if num_ours == 1 else None

    cdef bint is_sound(self, SlotCells cells) except -1:
        """Whether cells that go to a slot come out of it as they were. All slots are empty."""
        cdef unsigned char[::1] taken
        cdef bint is_same = False
        self.start(np.zeros(2, np.int32))
        while not self.advance(1.0, 2):
            pass
        if self.give(cells, 0):
            data = bytearray(cells.state_bytes(0))
            taken = data
            is_same = cells.save(0, taken) and data == self._state(cells.num_slots)
            cells.drop(0)
        return is_same

    def cancel(self):
        """Forget the prompt that is being computed; none is no error."""
        with nogil:
            self._work.baton.cancel()

    def close(self):
        """Free everything; idempotent."""
        self._free()

    def __dealloc__(self):
        self._free()
        del self._work.baton

    cdef void _free(self) noexcept:
        with nogil:  # the worker may want to log
            self._work.baton.cancel()
        if self._work.batch.token != NULL:
            ll.llama_batch_free(self._work.batch)
            self._work.batch.token = NULL
        if self._work.ctx != NULL:
            ll.llama_detach_threadpool(self._work.ctx)
            ll.llama_free(self._work.ctx)
            self._work.ctx = NULL
