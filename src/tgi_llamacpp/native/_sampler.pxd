# What _runner.pyx uses of _sampler.pyx.

from libc.stdint cimport int32_t

from tgi_llamacpp.native cimport sampler as smp


cdef int reset_sampler(smp.Sampler* sampler, params, prompt_ids, output_ids) except -1


cdef class Sampler:
    cdef smp.Sampler* _sampler  # owned
    cdef int32_t _num_vocab
