# The Model that _runner.pyx opens contexts on.

from tgi_llamacpp.native cimport llama as ll


cdef class Model:
    cdef ll.llama_model* _model  # owned
    cdef const ll.llama_vocab* _vocab  # the model's
    cdef readonly int num_vocab  # width of a row of logits
    cdef readonly int num_sampled_vocab  # ids from here on are padding, never sampled
    cdef readonly object bos_id  # int | None
    cdef readonly object eog_ids  # frozenset[int]
    cdef readonly str pieces_hash
    cdef readonly int context_length  # that the model was trained for
    cdef readonly str description
    cdef readonly str device  # for people
