# cython: language_level=3, embedsignature=False
# distutils: language=c++
"""What a context is made with that is ggml's: types by name, and its own threadpools.

Knows no model. Called by _runner.pyx.
"""

from libc.stdint cimport uint32_t

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.native cimport llama as ll

# How long a thread without a graph looks for one before it sleeps, in 131072 pauses: some milliseconds,
# which is longer than streams are apart and a fiftieth of what ggml has.
cdef uint32_t _POLL = 1

ctypedef ll.ggml_threadpool_t (*_threadpool_new)(ll.ggml_threadpool_params* params) noexcept nogil
ctypedef void (*_threadpool_free)(ll.ggml_threadpool_t pool) noexcept nogil


cdef ll.ggml_type ggml_type_of(str name) except *:
    cdef int value
    for value in range(ll.GGML_TYPE_COUNT):
        if ll.ggml_type_name(<ll.ggml_type>value) != NULL:
            if ll.ggml_type_name(<ll.ggml_type>value).decode() == name:
                return <ll.ggml_type>value
    raise StartupError(f"{name!r} is no type that ggml knows")


cdef class ThreadPools:
    """Without pools of ours ggml makes and ends one for every graph. Detach before `close`."""

    def __cinit__(self):
        self._one = NULL
        self._batch = NULL

    def __init__(self, int n_threads, int n_threads_batch):
        self._one = _new_threadpool(n_threads)
        self._batch = self._one if n_threads_batch == n_threads else _new_threadpool(n_threads_batch)

    cdef void attach(self, ll.llama_context* ctx) noexcept:
        ll.llama_attach_threadpool(ctx, self._one, self._batch)

    cdef void close(self) noexcept:
        """Free both; idempotent."""
        if self._batch != NULL and self._batch != self._one:
            _free_threadpool(self._batch)
        self._batch = NULL
        if self._one != NULL:
            _free_threadpool(self._one)
            self._one = NULL

    def __dealloc__(self):
        self.close()


cdef void* _cpu_function(const char* name) noexcept:
    # The CPU backend may be a library that was loaded at run time, so it is asked by name.
    return ll.ggml_backend_reg_get_proc_address(
        ll.ggml_backend_dev_backend_reg(ll.ggml_backend_dev_by_type(ll.GGML_BACKEND_DEVICE_TYPE_CPU)), name
    )


cdef ll.ggml_threadpool_t _new_threadpool(int n_threads) except NULL:
    cdef ll.ggml_threadpool_params params
    cdef ll.ggml_threadpool_t pool
    ll.ggml_threadpool_params_init(&params, n_threads)
    params.poll = _POLL
    pool = (<_threadpool_new>_cpu_function("ggml_threadpool_new"))(&params)
    if pool == NULL:
        raise StartupError(f"no threadpool of {n_threads} threads could be made")
    return pool


cdef void _free_threadpool(ll.ggml_threadpool_t pool) noexcept:
    (<_threadpool_free>_cpu_function("ggml_threadpool_free"))(pool)
