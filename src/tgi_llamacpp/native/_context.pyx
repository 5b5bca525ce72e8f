# cython: language_level=3, embedsignature=False
# distutils: language=c++
"""How a llama.cpp context is made: slots and their sizes from the operator's settings, and opened.

Knows no sampler and no step. Called by _runner.pyx, and by _aside.pyx for its second context.
"""

from libc.stdint cimport int32_t

from tgi_llamacpp.config import MIN_STEP_OUTPUTS
from tgi_llamacpp.engine.runner import pooled_slots
from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.native cimport llama as ll
from tgi_llamacpp.native._ggml cimport ggml_type_of
from tgi_llamacpp.native._model cimport Model

from tgi_llamacpp.native._model import log_lines


cdef class ContextShape:
    """What llama.cpp is asked for: the slots, what they can do, and all parameters."""

    def __init__(self, Model model, config):
        self.params = ll.llama_context_default_params()
        self.has_window = ll.llama_model_n_swa(model._model) > 0
        self.can_trim = not (
            ll.llama_model_is_recurrent(model._model) or ll.llama_model_is_hybrid(model._model)
        )
        self.max_slot_tokens = min(config.max_total_tokens, model.context_length)
        self.is_unified = config.is_kv_unified(self.max_slot_tokens)
        self._count_slots(model, config)
        self._set_params(config)

    def _count_slots(self, Model model, config):
        num_slots = config.max_batch_size
        if self.is_unified and self.can_trim and config.prefix_cache:
            num_slots = pooled_slots(num_slots)  # else each slot has a state of its own
        if model.device == "CPU" and num_slots % 4 == 3:
            # A slot for a dummy row beside a full server: CPU kernels run rows in fours, and where
            # three are left over, warm_up.py may find a fourth to make the step quicker.
            num_slots += 1
        self.num_slots = num_slots
        self.max_step_outputs = max(num_slots, MIN_STEP_OUTPUTS)

    def _set_params(self, config):
        self.params.n_batch = max(config.max_physical_batch_total_tokens, config.max_batch_size)
        self.params.n_ubatch = config.max_physical_batch_total_tokens
        self.params.n_ctx = (
            config.max_batch_total_tokens if self.is_unified
            else self.num_slots * padded(self.max_slot_tokens)
        )
        self.params.n_seq_max = self.num_slots
        self.params.n_outputs_max = self.max_step_outputs  # more than these in a step, and it asserts
        self.params.n_threads = config.n_threads
        self.params.n_threads_batch = config.n_threads_batch
        self.params.flash_attn_type = (
            ll.LLAMA_FLASH_ATTN_TYPE_AUTO if config.flash_attention else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self.params.type_k = ggml_type_of(config.type_k)
        self.params.type_v = ggml_type_of(config.type_v)
        self.params.offload_kqv = config.offload_kqv
        self.params.kv_unified = self.is_unified
        # Else a dummy row or a later prefix evicts what a window still needs.
        self.params.swa_full = True


cdef ll.llama_context* open_context(Model model, ll.llama_context_params params, path) except NULL:
    """A context of the model in the file `path`, which the caller frees; log_lines.cache_mib is what its cells take."""
    cdef ll.llama_context* ctx
    log_lines.forget_error()
    log_lines.cache_mib = 0.0
    with nogil:
        ctx = ll.llama_init_from_model(model._model, params)
    if ctx == NULL:
        raise StartupError(f"Failed to init context: {log_lines.error or 'llama.cpp gave no reason'}")
    if ll.llama_get_memory(ctx) == NULL:
        ll.llama_free(ctx)
        raise StartupError(
            f"{path} holds an embedding or other model without a memory; "
            "only decoders that generate text can be served"
        )
    return ctx


cdef int32_t padded(int32_t num_tokens) noexcept:
    return (num_tokens + 255) // 256 * 256  # llama.cpp pads a slot's cells to this
