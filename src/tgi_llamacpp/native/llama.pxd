# llama.h, ggml.h and ggml-backend.h restated: only what _runner.pyx uses of them.

from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t
from libcpp cimport bool as cbool


cdef extern from "ggml.h" nogil:
    ctypedef enum ggml_log_level:
        GGML_LOG_LEVEL_DEBUG
        GGML_LOG_LEVEL_INFO
        GGML_LOG_LEVEL_WARN
        GGML_LOG_LEVEL_ERROR
        GGML_LOG_LEVEL_CONT

    ctypedef enum ggml_type:
        GGML_TYPE_COUNT

    ctypedef enum ggml_numa_strategy:
        GGML_NUMA_STRATEGY_DISABLED
        GGML_NUMA_STRATEGY_DISTRIBUTE
        GGML_NUMA_STRATEGY_ISOLATE
        GGML_NUMA_STRATEGY_NUMACTL
        GGML_NUMA_STRATEGY_MIRROR

    ctypedef void (*ggml_log_callback)(ggml_log_level level, const char* text, void* user_data) noexcept

    const char* ggml_type_name(ggml_type type)

    cdef struct ggml_tensor:
        pass

    cdef struct ggml_threadpool:
        pass
    ctypedef ggml_threadpool* ggml_threadpool_t

    cdef struct ggml_threadpool_params:
        int n_threads
        uint32_t poll

    void ggml_threadpool_params_init(ggml_threadpool_params* params, int n_threads)


cdef extern from "ggml-backend.h" nogil:
    cdef struct ggml_backend_device:
        pass
    ctypedef ggml_backend_device* ggml_backend_dev_t

    cdef struct ggml_backend_reg:
        pass
    ctypedef ggml_backend_reg* ggml_backend_reg_t

    ctypedef enum ggml_backend_dev_type_t "enum ggml_backend_dev_type":
        GGML_BACKEND_DEVICE_TYPE_CPU
        GGML_BACKEND_DEVICE_TYPE_GPU
        GGML_BACKEND_DEVICE_TYPE_IGPU

    ctypedef cbool (*ggml_backend_sched_eval_callback)(ggml_tensor* t, cbool ask, void* user_data) noexcept

    size_t ggml_backend_dev_count()
    ggml_backend_dev_t ggml_backend_dev_get(size_t index)
    ggml_backend_dev_t ggml_backend_dev_by_type(ggml_backend_dev_type_t type)
    ggml_backend_dev_type_t ggml_backend_dev_type(ggml_backend_dev_t device)
    const char* ggml_backend_dev_name(ggml_backend_dev_t device)
    const char* ggml_backend_dev_description(ggml_backend_dev_t device)
    ggml_backend_reg_t ggml_backend_dev_backend_reg(ggml_backend_dev_t device)
    void* ggml_backend_reg_get_proc_address(ggml_backend_reg_t reg, const char* name)
    void ggml_backend_load_all_from_path(const char* dir_path)


cdef extern from "llama.h" nogil:
    cdef struct llama_model:
        pass
    cdef struct llama_vocab:
        pass
    cdef struct llama_context:
        pass
    cdef struct llama_memory_i:
        pass
    ctypedef llama_memory_i* llama_memory_t
    ctypedef int32_t llama_pos
    ctypedef int32_t llama_token
    ctypedef int32_t llama_seq_id

    ctypedef enum llama_token_attr:
        LLAMA_TOKEN_ATTR_UNUSED

    ctypedef enum llama_split_mode:
        LLAMA_SPLIT_MODE_NONE
        LLAMA_SPLIT_MODE_LAYER
        LLAMA_SPLIT_MODE_ROW

    ctypedef enum llama_load_mode:
        LLAMA_LOAD_MODE_NONE
        LLAMA_LOAD_MODE_MMAP
        LLAMA_LOAD_MODE_MLOCK
        LLAMA_LOAD_MODE_MMAP_MLOCK

    ctypedef enum llama_flash_attn_type:
        LLAMA_FLASH_ATTN_TYPE_AUTO
        LLAMA_FLASH_ATTN_TYPE_DISABLED

    ctypedef cbool (*llama_progress_callback)(float progress, void* user_data) noexcept

    cdef struct llama_model_params:
        int32_t n_gpu_layers
        llama_split_mode split_mode
        llama_load_mode load_mode
        int32_t main_gpu
        llama_progress_callback progress_callback
        void* progress_callback_user_data
        cbool use_extra_bufts

    cdef struct llama_context_params:
        uint32_t n_ctx
        uint32_t n_batch
        uint32_t n_ubatch
        uint32_t n_seq_max
        uint32_t n_outputs_max
        int32_t n_threads
        int32_t n_threads_batch
        llama_flash_attn_type flash_attn_type
        ggml_backend_sched_eval_callback cb_eval
        void* cb_eval_user_data
        ggml_type type_k
        ggml_type type_v
        cbool offload_kqv
        cbool no_perf
        cbool swa_full
        cbool kv_unified

    cdef struct llama_batch:
        int32_t n_tokens
        llama_token* token
        float* embd
        llama_pos* pos
        int32_t* n_seq_id
        llama_seq_id** seq_id
        int8_t* logits

    cdef struct llama_perf_context_data:
        int32_t n_reused

    void llama_backend_init()
    void llama_numa_init(ggml_numa_strategy numa)
    void llama_log_set(ggml_log_callback callback, void* user_data)
    cbool llama_supports_gpu_offload()
    size_t llama_max_parallel_sequences()

    llama_model_params llama_model_default_params()
    llama_model* llama_model_load_from_file(const char* path, llama_model_params params)
    llama_model* llama_model_load_from_splits(
        const char** paths, size_t n_paths, llama_model_params params)
    void llama_model_free(llama_model* model)
    const llama_vocab* llama_model_get_vocab(const llama_model* model)
    int32_t llama_model_n_ctx_train(const llama_model* model)
    int32_t llama_model_n_swa(const llama_model* model)
    int32_t llama_model_desc(const llama_model* model, char* buf, size_t buf_size)
    cbool llama_model_has_encoder(const llama_model* model)
    cbool llama_model_has_decoder(const llama_model* model)
    cbool llama_model_is_recurrent(const llama_model* model)
    cbool llama_model_is_hybrid(const llama_model* model)
    cbool llama_model_is_diffusion(const llama_model* model)

    int32_t llama_vocab_n_tokens(const llama_vocab* vocab)
    const char* llama_vocab_get_text(const llama_vocab* vocab, llama_token token)
    llama_token_attr llama_vocab_get_attr(const llama_vocab* vocab, llama_token token)
    cbool llama_vocab_is_eog(const llama_vocab* vocab, llama_token token)
    llama_token llama_vocab_bos(const llama_vocab* vocab)

    llama_context_params llama_context_default_params()
    llama_context* llama_init_from_model(llama_model* model, llama_context_params params)
    void llama_free(llama_context* ctx)
    uint32_t llama_n_ctx(const llama_context* ctx)
    uint32_t llama_n_ctx_seq(const llama_context* ctx)
    uint32_t llama_n_batch(const llama_context* ctx)
    llama_memory_t llama_get_memory(const llama_context* ctx)
    void llama_attach_threadpool(llama_context* ctx, ggml_threadpool_t threadpool, ggml_threadpool_t threadpool_batch)
    void llama_detach_threadpool(llama_context* ctx)

    cbool llama_memory_seq_rm(llama_memory_t mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1)
    void llama_memory_seq_cp(llama_memory_t mem, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1)
    llama_pos llama_memory_seq_pos_min(llama_memory_t mem, llama_seq_id seq_id)
    llama_pos llama_memory_seq_pos_max(llama_memory_t mem, llama_seq_id seq_id)

    size_t llama_state_seq_get_size(llama_context* ctx, llama_seq_id seq_id)
    size_t llama_state_seq_get_data(llama_context* ctx, unsigned char* dst, size_t size, llama_seq_id seq_id)
    size_t llama_state_seq_set_data(llama_context* ctx, const unsigned char* src, size_t size, llama_seq_id dest_seq_id)

    llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max)
    void llama_batch_free(llama_batch batch)
    int32_t llama_decode(llama_context* ctx, llama_batch batch)
    void llama_synchronize(llama_context* ctx)
    int64_t llama_time_us()
    float* llama_get_logits_ith(llama_context* ctx, int32_t i)
    llama_perf_context_data llama_perf_context(const llama_context* ctx)
