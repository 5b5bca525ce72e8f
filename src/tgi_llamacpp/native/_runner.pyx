# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# distutils: language=c++
"""One llama.cpp context with its slots and samplers, driven by one thread.

Knows no request, no budget and no text. One Cython call a step: fill the batch, decode, sample,
all without the GIL. engine/runner.py is the contract.
"""

import numpy as np

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int8_t, int32_t, int64_t

from tgi_llamacpp.config import MAX_TOP_TOKENS
from tgi_llamacpp.engine.runner import NO_TARGET, NO_TOKEN, RunnerLimits, StepResult, StepStatus
from tgi_llamacpp.errors import RunnerError
from tgi_llamacpp.native cimport llama as ll
from tgi_llamacpp.native cimport sampler as smp
from tgi_llamacpp.native._aside cimport Aside, open_aside
from tgi_llamacpp.native._cells cimport SlotCells
from tgi_llamacpp.native._context cimport ContextShape, open_context
from tgi_llamacpp.native._ggml cimport ThreadPools
from tgi_llamacpp.native._model cimport Model
from tgi_llamacpp.native._sampler cimport reset_sampler
from tgi_llamacpp.native._score cimport ScoredRows

from tgi_llamacpp.native._model import log_lines

cdef int32_t _NO_TOKEN = NO_TOKEN
cdef int32_t _NO_TARGET = NO_TARGET


@cython.no_gc_clear  # weights and pools must outlive the context
cdef class Runner:
    """One llama.cpp context: slots with their cells and samplers. See engine.runner.Runner.

    KV is split, a share for each slot, or unified, one pool of the budget's size: EngineConfig says
    which.
    """

    cdef Model _parent  # keeps the weights alive
    cdef ll.llama_context* _ctx  # owned
    cdef ll.llama_batch _batch  # owned; max_step_tokens rows
    cdef ThreadPools _pools  # attached to the context, so freed after it
    cdef smp.Sampler** _samplers  # owned, one a slot
    cdef Aside _aside  # None where no prompt is computed aside
    cdef ScoredRows _scored
    cdef SlotCells _cells
    cdef int8_t* _is_open  # owned, one a slot
    cdef int32_t _num_slots
    cdef int32_t _max_step_tokens
    cdef int32_t _max_step_outputs
    cdef int32_t _max_slot_tokens
    cdef readonly object limits
    cdef object _slots, _token_ids, _logprobs, _top_ids, _top_logprobs  # result columns

    def __cinit__(self):
        self._ctx = NULL
        self._batch.token = NULL
        self._samplers = NULL
        self._is_open = NULL
        self._num_slots = 0

    def __init__(self, Model model, config):
        cdef ContextShape shape
        self._parent = model
        try:
            shape = ContextShape(model, config)
            self._open(shape, config.model_path)
            cache_bytes = int(log_lines.cache_mib * (1 << 20))
            self._pools = ThreadPools(config.n_threads, config.n_threads_batch)
            self._pools.attach(self._ctx)
            self._allocate_slots(shape)
            self._aside = open_aside(model, shape, config, self._pools, self._cells)
            self.limits = self._limits(shape, cache_bytes)
        except BaseException:
            self.close()
            raise

    def _open(self, ContextShape shape, path):
        self._ctx = open_context(self._parent, shape.params, path)
        self._num_slots = shape.num_slots
        self._max_step_tokens = ll.llama_n_batch(self._ctx)
        self._max_step_outputs = shape.max_step_outputs
        self._max_slot_tokens = min(shape.max_slot_tokens, ll.llama_n_ctx_seq(self._ctx))

    def _limits(self, ContextShape shape, cache_bytes):
        return RunnerLimits(
            num_slots=self._num_slots,
            max_slot_tokens=self._max_slot_tokens,
            max_pool_tokens=ll.llama_n_ctx(self._ctx),
            max_step_tokens=self._max_step_tokens,
            max_step_outputs=self._max_step_outputs,
            num_vocab=self._parent.num_sampled_vocab,
            is_unified=shape.is_unified,
            can_trim=shape.can_trim,
            can_cut_states=shape.can_trim and not shape.has_window,
            cache_bytes=cache_bytes,
            has_aside=self._aside is not None,
            aside_bytes=self._aside.cache_bytes if self._aside is not None else 0,
        )

    def _allocate_slots(self, ContextShape shape):
        cdef int32_t slot
        self._batch = ll.llama_batch_init(self._max_step_tokens, 0, 1)
        self._samplers = <smp.Sampler**>PyMem_Calloc(self._num_slots, sizeof(smp.Sampler*))
        self._is_open = <int8_t*>PyMem_Calloc(self._num_slots, 1)
        if self._samplers == NULL or self._is_open == NULL:
            raise MemoryError("no memory for the slots")
        self._cells = SlotCells()
        self._cells.open(self._ctx, self._num_slots, shape.can_trim, shape.is_unified)
        for slot in range(self._num_slots):
            self._samplers[slot] = new smp.Sampler(self._parent.num_sampled_vocab)
        self._scored = ScoredRows(self._parent.num_sampled_vocab, self._max_step_outputs)
        self._slots = np.empty(self._num_slots, np.int32)
        self._token_ids = np.empty(self._num_slots, np.int32)
        self._logprobs = np.empty(self._num_slots, np.float32)
        self._top_ids = np.empty((self._num_slots, MAX_TOP_TOKENS), np.int32)
        self._top_logprobs = np.empty((self._num_slots, MAX_TOP_TOKENS), np.float32)

    def open(self, int32_t slot, params, prompt_ids, generated_ids):
        """Bind a sampler to an empty slot. See engine.runner.Runner.open."""
        self._check_slot(slot)
        if self._is_open[slot]:
            raise RunnerError(f"slot {slot} is open: {self._cells.num[slot]} cells")
        reset_sampler(self._samplers[slot], params, prompt_ids, generated_ids)
        self._is_open[slot] = 1

    def step(self, plan):
        """Decode, sample and score the plan. See engine.runner.Runner.step."""
        cdef const int32_t[::1] slots = plan.slots
        cdef const int32_t[::1] positions = plan.positions
        cdef const int32_t[::1] token_ids = plan.token_ids
        cdef const int8_t[::1] samples = plan.samples
        cdef const int32_t[::1] targets = plan.targets
        cdef const int32_t* targets_ptr = NULL
        cdef int32_t[::1] out_slots = self._slots
        cdef int32_t[::1] out_ids = self._token_ids
        cdef float[::1] out_logprobs = self._logprobs
        cdef int32_t[:, ::1] out_top_ids = self._top_ids
        cdef float[:, ::1] out_top_logprobs = self._top_logprobs
        cdef int32_t num_rows = <int32_t>slots.shape[0]
        cdef int32_t bad_row, status, num_sampled = 0, row, slot
        cdef smp.SampledToken token
        cdef int64_t sampling_us = 0
        if not (positions.shape[0] == token_ids.shape[0] == samples.shape[0] == num_rows):
            raise RunnerError("the columns of the plan differ in length")
        if not 0 < num_rows <= self._max_step_tokens:
            raise RunnerError(f"a plan of {num_rows} rows; a step takes 1 to {self._max_step_tokens}")
        if targets is not None:
            self._check_targets(plan)
            targets_ptr = &targets[0]
        with nogil:
            bad_row = self._fill(slots, positions, token_ids, samples, targets_ptr)
            if bad_row < 0:
                status = ll.llama_decode(self._ctx, self._batch)
                self._cells.sync(slots, positions, status)
                if status == 0:
                    for row in range(num_rows):
                        if samples[row] <= 0:
                            continue
                        if num_sampled == 0:  # a device may still compute what llama_decode began
                            ll.llama_synchronize(self._ctx)
                            sampling_us = -ll.llama_time_us()
                        slot = slots[row]
                        self._sample(row, slot, positions[row] + 1, &token,
                                     &out_top_ids[num_sampled, 0], &out_top_logprobs[num_sampled, 0])
                        out_slots[num_sampled] = slot
                        out_ids[num_sampled] = token.id
                        out_logprobs[num_sampled] = token.logprob
                        num_sampled += 1
                    if num_sampled:
                        sampling_us += ll.llama_time_us()
                    if targets_ptr != NULL:
                        sampling_us += self._score(slots, targets_ptr)
        if bad_row >= 0:
            raise RunnerError(self._describe_row(plan, bad_row))
        if status < 0:
            raise RunnerError(f"llama_decode returned {status}: {log_lines.error or 'no reason given'}")
        return StepResult(
            StepStatus(status), self._slots[:num_sampled], self._token_ids[:num_sampled],
            self._logprobs[:num_sampled], self._top_ids[:num_sampled], self._top_logprobs[:num_sampled],
            sampling_us / 1e6, self._scored.scores() if status == 0 and targets_ptr != NULL else None,
        )

    def _check_targets(self, plan):
        if len(plan.targets) != len(plan.slots):
            raise RunnerError(f"a plan of {len(plan.slots)} rows has {len(plan.targets)} targets")
        num_outputs = np.count_nonzero(plan.samples) + np.count_nonzero(plan.targets != NO_TARGET)
        if num_outputs > self._max_step_outputs:
            raise RunnerError(f"{num_outputs} rows are sampled or scored; a step takes {self._max_step_outputs}")

    cdef int64_t _score(self, const int32_t[::1] slots, const int32_t* targets) noexcept nogil:
        """Score the rows that have a target; the microseconds that it took."""
        cdef int32_t row
        cdef int64_t started_us
        ll.llama_synchronize(self._ctx)
        started_us = ll.llama_time_us()
        self._scored.clear()
        for row in range(<int32_t>slots.shape[0]):
            if targets[row] != _NO_TARGET:
                self._scored.add(
                    ll.llama_get_logits_ith(self._ctx, row), targets[row], self._samplers[slots[row]].num_top()
                )
        return ll.llama_time_us() - started_us

    cdef int32_t _fill(self, const int32_t[::1] slots, const int32_t[::1] positions,
                       const int32_t[::1] token_ids, const int8_t[::1] samples,
                       const int32_t* targets) noexcept nogil:
        """Copy the plan to the batch; the first malformed row, or -1. A bad row would abort in ggml."""
        cdef int32_t row, slot, expected, target, previous = -1, num_rows = <int32_t>slots.shape[0]
        for row in range(num_rows):
            slot = slots[row]
            if slot < 0 or slot >= self._num_slots:
                return row
            expected = positions[row - 1] + 1 if slot == previous else self._cells.num[slot]
            if positions[row] != expected or expected >= self._max_slot_tokens:
                return row
            if token_ids[row] < 0 or token_ids[row] >= self._parent.num_vocab:
                return row
            if samples[row] > 0 and (not self._is_open[slot] or (row + 1 < num_rows and slots[row + 1] == slot)):
                return row
            target = targets[row] if targets != NULL else _NO_TARGET
            if target != _NO_TARGET and (
                target < 0 or target >= self._parent.num_vocab or samples[row] or not self._is_open[slot]
            ):
                return row
            previous = slot
            self._batch.token[row] = token_ids[row]
            self._batch.pos[row] = positions[row]
            self._batch.n_seq_id[row] = 1
            self._batch.seq_id[row][0] = slot
            self._batch.logits[row] = samples[row] != 0 or target != _NO_TARGET  # UNREAD rows too
        self._batch.n_tokens = num_rows
        return -1

    cdef void _sample(self, int32_t row, int32_t slot, int64_t position, smp.SampledToken* token,
                      int32_t* top_ids, float* top_logprobs) noexcept nogil:
        cdef const float* logits = ll.llama_get_logits_ith(self._ctx, row)
        cdef smp.SampleStatus status = self._samplers[slot].sample(logits, position, token, top_ids, top_logprobs)
        if status != smp.SampleStatus.ok:
            token.id = _NO_TOKEN
            token.logprob = 0.0

    def _describe_row(self, plan, row):
        slot = int(plan.slots[row])
        cells = self.num_cells(slot) if 0 <= slot < self._num_slots else None
        return (
            f"row {row} of the plan is malformed: slot {slot} ({cells} cells), position {plan.positions[row]}, "
            f"id {plan.token_ids[row]}, samples {plan.samples[row]}"
            + ("" if plan.targets is None else f", target {plan.targets[row]}")
        )

    def move(self, int32_t src, int32_t dst):
        """Make the empty slot dst what src is. See engine.runner.Runner.move."""
        self._check_slot(src)
        self._check_slot(dst)
        if src == dst or self._is_open[dst] or self._cells.num[dst]:
            raise RunnerError(f"slot {dst} is not empty, so slot {src} cannot move there")
        self._cells.move(src, dst)
        self._samplers[src], self._samplers[dst] = self._samplers[dst], self._samplers[src]
        self._is_open[dst], self._is_open[src] = self._is_open[src], 0

    def copy(self, int32_t src, int32_t dst, int32_t num_tokens):
        """Give the empty dst a beginning of src. See engine.runner.Runner.copy."""
        self._check_slot(src)
        self._check_slot(dst)
        if src == dst or self._cells.num[dst] or not 0 < num_tokens <= self._cells.num[src]:
            raise RunnerError(
                f"slot {dst} ({self._cells.num[dst]} cells) cannot have {num_tokens} cells of slot {src} "
                f"({self._cells.num[src]} cells)"
            )
        return self._cells.copy(src, dst, num_tokens)

    def park(self, int32_t slot):
        """Unbind the slot's sampler; its cells stay."""
        self._check_slot(slot)
        self._is_open[slot] = 0

    def trim(self, int32_t slot, int32_t num_tokens):
        """Forget positions from num_tokens on. See engine.runner.Runner.trim."""
        self._check_slot(slot)
        return self._cells.trim(slot, num_tokens)

    def drop(self, int32_t slot):
        """Empty the slot and unbind its sampler."""
        self._check_slot(slot)
        self._cells.drop(slot)
        self._is_open[slot] = 0

    def state_bytes(self, int32_t slot):
        """Bytes that save will write. See engine.runner.Runner.state_bytes."""
        self._check_slot(slot)
        return self._cells.state_bytes(slot) if self._cells.num[slot] else 0

    def save(self, int32_t slot, unsigned char[::1] buffer not None):
        """Write the slot's cells to a buffer. See engine.runner.Runner.save."""
        cdef bint is_done = False
        self._check_slot(slot)
        if buffer.shape[0] and self._cells.num[slot]:
            with nogil:
                is_done = self._cells.save(slot, buffer)
        if not is_done:
            raise RunnerError(f"slot {slot} ({self._cells.num[slot]} cells) is not saved in {buffer.shape[0]} bytes")

    def load(self, int32_t slot, const unsigned char[::1] buffer not None, int32_t num_tokens):
        """Give the empty slot saved cells. See engine.runner.Runner.load."""
        cdef bint is_done = False
        self._check_slot(slot)
        if self._cells.num[slot] or not buffer.shape[0]:
            raise RunnerError(f"slot {slot} ({self._cells.num[slot]} cells) cannot load {buffer.shape[0]} bytes")
        with log_lines.muted():
            with nogil:
                is_done = self._cells.load(slot, buffer, num_tokens)
        if is_done and self._cells.num[slot] != num_tokens:
            raise RunnerError(f"slot {slot} has {self._cells.num[slot]} of {num_tokens} saved cells")
        return bool(is_done)

    def begin_aside(self, token_ids):
        """Take a prompt to compute beside the steps. See engine.runner.Runner.begin_aside."""
        if self._aside is None:
            raise RunnerError("this context computes nothing aside")
        self._aside.start(token_ids)

    def advance_aside(self, double max_s, int32_t max_rows):
        """Go on with it for some time; True when it is over. See engine.runner.Runner.advance_aside."""
        if self._aside is None:
            raise RunnerError("this context computes nothing aside")
        return self._aside.advance(max_s, max_rows)

    def end_aside(self, int32_t slot):
        """Give what was computed to a slot without cells. See engine.runner.Runner.end_aside."""
        self._check_slot(slot)
        if self._aside is None or self._cells.num[slot]:
            raise RunnerError(f"slot {slot} has {self._cells.num[slot]} cells and can take none from aside")
        return self._aside.give(self._cells, slot)

    def cancel_aside(self):
        """Forget the prompt that is computed aside; none is no error."""
        if self._aside is not None:
            self._aside.cancel()

    def num_cells(self, int32_t slot):
        """Positions that the slot holds."""
        self._check_slot(slot)
        return self._cells.num[slot]

    def num_reused_graphs(self):
        """Steps that ran the graph of the step before, since load."""
        return ll.llama_perf_context(self._ctx).n_reused

    cdef int _check_slot(self, int32_t slot) except -1:
        if self._ctx == NULL:
            raise RunnerError("the runner is closed")
        if not 0 <= slot < self._num_slots:
            raise RunnerError(f"slot {slot} is outside [0, {self._num_slots})")
        return 0

    def close(self):
        """Free everything; idempotent."""
        self._free()

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        cdef int32_t slot
        if self._aside is not None:
            self._aside.close()
        if self._samplers != NULL:
            for slot in range(self._num_slots):
                del self._samplers[slot]
            PyMem_Free(self._samplers)
            self._samplers = NULL
        if self._cells is not None:
            self._cells.close()
        PyMem_Free(self._is_open)
        self._is_open = NULL
        if self._batch.token != NULL:
            ll.llama_batch_free(self._batch)
            self._batch.token = NULL
        if self._ctx != NULL:
            ll.llama_detach_threadpool(self._ctx)
            ll.llama_free(self._ctx)
            self._ctx = NULL
        if self._pools is not None:
            self._pools.close()
