# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
# distutils: language=c++
"""The weights and the vocabulary of one GGUF file, and llama.cpp's log.

Knows no context and no slot; _runner.pyx opens contexts on it. Called once, at load.
"""

import contextlib
import hashlib
import logging
import os
import re
import struct

from libc.stdint cimport int32_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from tgi_llamacpp.errors import StartupError
from tgi_llamacpp.native cimport llama as ll

_logger = logging.getLogger("tgi_llamacpp.llamacpp")

_LOG_LEVELS = {
    int(ll.GGML_LOG_LEVEL_DEBUG): logging.DEBUG,
    int(ll.GGML_LOG_LEVEL_INFO): logging.DEBUG,  # llama.cpp says at "info" what only a developer reads
    int(ll.GGML_LOG_LEVEL_WARN): logging.INFO,
    int(ll.GGML_LOG_LEVEL_ERROR): logging.ERROR,
}
_CACHE_SIZE = re.compile(r" (?:KV|RS) buffer size = *([0-9.]+) MiB")
_NUMA = {
    "disabled": ll.GGML_NUMA_STRATEGY_DISABLED,
    "distribute": ll.GGML_NUMA_STRATEGY_DISTRIBUTE,
    "isolate": ll.GGML_NUMA_STRATEGY_ISOLATE,
    "numactl": ll.GGML_NUMA_STRATEGY_NUMACTL,
    "mirror": ll.GGML_NUMA_STRATEGY_MIRROR,
}
_SPLIT_MODES = {
    "none": ll.LLAMA_SPLIT_MODE_NONE,
    "layer": ll.LLAMA_SPLIT_MODE_LAYER,
    "row": ll.LLAMA_SPLIT_MODE_ROW,
}


# llama.cpp finds the other parts by itself where this is in small letters.
_FIRST_PART = re.compile(rb"(.+-)00001(-of-(\d{5})\.gguf)", re.IGNORECASE | re.DOTALL)


def _part_paths(path):
    """What llama.cpp has to be told of: the model's file, or all parts where it misses the others."""
    match = _FIRST_PART.fullmatch(path)
    if match is None or match[2].islower() or int(match[3]) == 0:
        return [path]
    return [b"%b%05d%b" % (match[1], number, match[2]) for number in range(1, int(match[3]) + 1)]


class _LogLines:
    """Joins llama.cpp's fragments to lines; remembers the first error since `forget_error`.

    The first names the cause, those after it say what could not be done therefore.
    """

    def __init__(self):
        self.level = logging.DEBUG
        self.highest = logging.CRITICAL
        self.pending = ""
        self.error = ""
        self.cache_mib = 0.0  # of the contexts opened since it was set: llama.h has no call for it

    def forget_error(self):
        self.error = ""

    @contextlib.contextmanager
    def muted(self):
        """What fails in this block is no error: say it to developers alone."""
        self.highest, highest = logging.DEBUG, self.highest
        try:
            yield
        finally:
            self.highest = highest

    def add(self, level, text):
        if level != ll.GGML_LOG_LEVEL_CONT:
            self.level = _LOG_LEVELS.get(level, logging.DEBUG)
        *lines, self.pending = (self.pending + text).split("\n")
        for line in filter(None, lines):
            if self.level == logging.ERROR and not self.error:
                self.error = line
            if found := _CACHE_SIZE.search(line):
                self.cache_mib += float(found[1])
            _logger.log(min(self.level, self.highest), "%s", line)


log_lines = _LogLines()  # llama.cpp's log callback is one per process


cdef void _on_log(ll.ggml_log_level level, const char* text, void* user_data) noexcept with gil:
    log_lines.add(<int>level, text.decode("utf-8", "replace"))


cdef cbool _on_progress(float fraction, void* user_data) noexcept with gil:
    return bool((<object>user_data)(fraction))


cdef class Model:
    """The weights and the vocabulary of one GGUF file.

    on_progress gets the loaded fraction and returns False to give up.
    Raises StartupError, one sentence, where the file cannot be loaded or is no text decoder.
    """

    def __cinit__(self):
        self._model = NULL
        self._vocab = NULL

    def __init__(self, config, on_progress=lambda fraction: True, *, library_dir=None):
        ll.llama_log_set(_on_log, NULL)
        if library_dir is not None:
            ll.ggml_backend_load_all_from_path(os.fsencode(library_dir))
        ll.llama_backend_init()
        if config.numa != "disabled":
            ll.llama_numa_init(_NUMA[config.numa])
        self.device = _describe_device(config)
        self._load(config, on_progress)
        try:
            self._check_kind(config.model_path)
            self._read_vocabulary()
        except BaseException:
            self.close()
            raise

    def _load(self, config, on_progress):
        cdef ll.llama_model_params params = ll.llama_model_default_params()
        params.n_gpu_layers = config.n_gpu_layers
        params.split_mode = _SPLIT_MODES[config.split_mode]
        params.main_gpu = config.main_gpu
        params.load_mode = _load_mode(config)
        params.use_extra_bufts = config.repack
        params.progress_callback = _on_progress
        params.progress_callback_user_data = <void*>on_progress
        paths = _part_paths(config.model_path_bytes)
        cdef vector[const char*] c_paths
        for path in paths:
            c_paths.push_back(<const char*>path)
        log_lines.forget_error()
        with nogil:
            if c_paths.size() == 1:
                self._model = ll.llama_model_load_from_file(c_paths[0], params)
            else:
                self._model = ll.llama_model_load_from_splits(
                    c_paths.data(), c_paths.size(), params
                )
        if self._model == NULL:
            reason = log_lines.error or "llama.cpp gave no reason"
            raise StartupError(f"Failed to load model {config.model_path}: {reason}")
        self._vocab = ll.llama_model_get_vocab(self._model)

    def _check_kind(self, path):
        kind = None
        if ll.llama_model_has_encoder(self._model) or not ll.llama_model_has_decoder(self._model):
            kind = "an encoder-decoder model"
        elif ll.llama_model_is_diffusion(self._model):
            kind = "a diffusion model"
        if kind is not None:
            raise StartupError(f"{path} holds {kind}; only decoders that generate text can be served")

    def _read_vocabulary(self):
        cdef int32_t token_id
        cdef char description[256]
        self.num_vocab = ll.llama_vocab_n_tokens(self._vocab)
        self.num_sampled_vocab = self.num_vocab
        while self.num_sampled_vocab > 1 and (
            ll.llama_vocab_get_attr(self._vocab, self.num_sampled_vocab - 1) & ll.LLAMA_TOKEN_ATTR_UNUSED
        ):
            self.num_sampled_vocab -= 1
        bos = ll.llama_vocab_bos(self._vocab)
        self.bos_id = bos if bos >= 0 else None
        self.eog_ids = frozenset(
            token_id for token_id in range(self.num_vocab) if ll.llama_vocab_is_eog(self._vocab, token_id)
        )
        digest = hashlib.sha256()
        for token_id in range(self.num_vocab):
            text = <bytes>ll.llama_vocab_get_text(self._vocab, token_id)
            digest.update(struct.pack("<I", len(text)))
            digest.update(text)
        self.pieces_hash = digest.hexdigest()
        self.context_length = ll.llama_model_n_ctx_train(self._model)
        ll.llama_model_desc(self._model, description, sizeof(description))
        self.description = description.decode("utf-8", "replace")

    def close(self):
        """Free the weights; every Runner on this model must be closed before."""
        if self._model != NULL:
            ll.llama_model_free(self._model)
            self._model = NULL

    def __dealloc__(self):
        if self._model != NULL:
            ll.llama_model_free(self._model)


cdef ll.llama_load_mode _load_mode(config) except *:
    if config.use_mmap:
        return ll.LLAMA_LOAD_MODE_MMAP_MLOCK if config.use_mlock else ll.LLAMA_LOAD_MODE_MMAP
    return ll.LLAMA_LOAD_MODE_MLOCK if config.use_mlock else ll.LLAMA_LOAD_MODE_NONE


def _describe_device(config):
    cdef size_t index
    cdef ll.ggml_backend_dev_t device
    names = []
    for index in range(ll.ggml_backend_dev_count()):
        device = ll.ggml_backend_dev_get(index)
        if ll.ggml_backend_dev_type(device) in (
            ll.GGML_BACKEND_DEVICE_TYPE_GPU, ll.GGML_BACKEND_DEVICE_TYPE_IGPU
        ):
            name = ll.ggml_backend_dev_name(device).decode()
            names.append(f"{name} ({ll.ggml_backend_dev_description(device).decode()})")
    return ", ".join(names) if names and config.n_gpu_layers != 0 else "CPU"
