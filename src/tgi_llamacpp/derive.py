"""From what the operator set to what the processes run with.

Owns TGI's order of derivation, its start-up checks and our four defaults. Pure: the number of CPUs
and the model's context come as arguments. Called by the router as it starts, once before the model
is looked for (so that a mistake costs no download) and once when its context is known.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from tgi_llamacpp.config import (
    MAX_INT32,
    MAX_TOP_TOKENS,
    EngineConfig,
    LimitsConfig,
    RouterConfig,
    ServerConfig,
)
from tgi_llamacpp.errors import StartupError, UsageError
from tgi_llamacpp.messages import Ready

DEFAULT_MAX_INPUT_TOKENS = 1024
DEFAULT_MAX_TOTAL_TOKENS = 2048
DEFAULT_PHYSICAL_BATCH_TOKENS = 512
MIN_DEFAULT_BATCH_SIZE = 8
MAX_WARM_UP_MS = 500
MAX_DEFAULT_CACHE_RAM_MIB = 8192
MEMORY_PER_CACHE_RAM = 8  # so that an unset --cache-ram leaves the rest to weights and KV cache
_MIB = 1 << 20
MAX_BATCH_SIZE = 256  # llama.cpp's LLAMA_MAX_SEQ
# The types that llama.cpp can keep a KV cache in.
KV_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_UNQUANTIZED = ("f32", "f16", "bf16")


@dataclass(frozen=True, slots=True)
class Derived:
    """Every number that follows from others, resolved; notes are sentences for the log."""

    n_threads: int
    n_threads_batch: int
    max_batch_size: int
    max_input_tokens: int
    max_total_tokens: int
    max_batch_total_tokens: int
    max_physical_batch_total_tokens: int
    max_concurrent_requests: int
    cache_ram_mib: int
    use_mmap: bool
    offload_kqv: bool
    flash_attention: bool
    notes: list[str] = field(default_factory=list)


def derive(
    config: ServerConfig,
    num_cpus: int,
    context_tokens: int | None = None,
    memory_bytes: int | None = None,
) -> Derived:
    """The limits, in TGI's order.

    context_tokens: what the model was trained for; None while it is not known. memory_bytes: what
    the machine lends; None where that is of no interest.
    Raises StartupError where limits contradict each other, UsageError where flags do.
    """
    n_threads = config.n_threads or num_cpus
    n_threads_batch = config.n_threads_batch or n_threads
    max_input, max_total, notes = _lengths(config, context_tokens)
    max_batch_size = config.max_batch_size or _default_batch_size(
        config, n_threads_batch, max_total
    )
    budget = config.max_batch_total_tokens or min(max_batch_size * max_total, MAX_INT32)
    physical = config.max_physical_batch_total_tokens or DEFAULT_PHYSICAL_BATCH_TOKENS
    derived = Derived(
        n_threads=n_threads,
        n_threads_batch=n_threads_batch,
        max_batch_size=max_batch_size,
        max_input_tokens=max_input,
        max_total_tokens=max_total,
        max_batch_total_tokens=budget,
        max_physical_batch_total_tokens=min(physical, budget),
        max_concurrent_requests=config.max_concurrent_requests or 2 * max_batch_size,
        cache_ram_mib=_cache_ram_mib(config, memory_bytes),
        use_mmap=_is_on(config.use_mmap, config.disable_mmap, "mmap"),
        offload_kqv=_is_on(config.offload_kqv, config.disable_offload_kqv, "offload-kqv"),
        flash_attention=_is_on(
            config.flash_attention, config.disable_flash_attention, "flash-attention"
        ),
        notes=notes,
    )
    _check(config, derived, context_tokens)
    return derived


def engine_config(
    config: ServerConfig, derived: Derived, model_path: str, extra_eog_ids: list[int]
) -> EngineConfig:
    """What the engine gets in its Start frame."""
    path_bytes = os.fsencode(model_path)
    shown_path = path_bytes.decode("utf-8", "replace")
    is_one_gpu = config.split_mode.isdecimal()
    return EngineConfig(
        model_path=shown_path,
        raw_model_path=b"" if shown_path.encode() == path_bytes else path_bytes,
        max_total_tokens=derived.max_total_tokens,
        max_batch_total_tokens=derived.max_batch_total_tokens,
        max_physical_batch_total_tokens=derived.max_physical_batch_total_tokens,
        max_batch_size=derived.max_batch_size,
        n_threads=derived.n_threads,
        n_threads_batch=derived.n_threads_batch,
        n_gpu_layers=config.n_gpu_layers,
        target_itl_ms=config.target_itl_ms,
        max_warm_up_ms=MAX_WARM_UP_MS,
        split_mode="none" if is_one_gpu else config.split_mode,
        main_gpu=int(config.split_mode) if is_one_gpu else 0,
        numa=config.numa,
        use_mmap=derived.use_mmap,
        use_mlock=config.use_mlock,
        repack=not config.disable_repack,
        offload_kqv=derived.offload_kqv,
        flash_attention=derived.flash_attention,
        prefix_cache=not config.disable_prefix_cache,
        kv_layout=config.kv_layout,
        max_host_cache_bytes=derived.cache_ram_mib * _MIB,
        admission=config.admission,
        type_k=config.type_k,
        type_v=config.type_v,
        extra_eog_ids=extra_eog_ids,
        log_level=config.log_level,
        json_output=config.json_output,
    )


def router_config(config: ServerConfig, derived: Derived, name: str, ready: Ready) -> RouterConfig:
    """What the HTTP side gets, once the engine has said what it has room for.

    name: of the model, for clients.
    Raises StartupError where no prompt of max_input_tokens fits in a sequence.
    """
    max_total = min(derived.max_total_tokens, ready.max_sequence_tokens)
    max_input = derived.max_input_tokens
    if _asked_input_tokens(config) is None:
        max_input = _default_input_tokens(max_total)
    if max_input >= max_total:
        raise StartupError(
            f"`max_input_tokens` ({max_input}) must be < the {max_total} tokens that a request can"
            " have here: lower --max-input-tokens"
        )
    limits = LimitsConfig(
        max_concurrent_requests=derived.max_concurrent_requests,
        max_input_tokens=max_input,
        max_total_tokens=max_total,
        # One that can never run is a 422, for a 429 asks to try again.
        max_best_of=min(config.max_best_of, derived.max_concurrent_requests),
        max_stop_sequences=config.max_stop_sequences,
        max_top_n_tokens=config.max_top_n_tokens,
        max_client_batch_size=config.max_client_batch_size,
        payload_limit=config.payload_limit,
        disable_grammar_support=config.disable_grammar_support,
    )
    return RouterConfig(
        model_id=name,
        limits=limits,
        validation_workers=config.validation_workers,
        cors_allow_origin=[] if "*" in config.cors_allow_origin else config.cors_allow_origin,
        api_key=config.api_key,
        api_key_file=config.api_key_file,
        prefix_cache_scope=config.prefix_cache_scope,
        compute_type=config.compute_type or ("cpu" if ready.device == "CPU" else "gpu"),
        aip_predict_route=config.aip_predict_route,
        aip_health_route=config.aip_health_route,
    )


def _default_batch_size(config: ServerConfig, n_threads_batch: int, max_total: int) -> int:
    """By the threads; where a share of the budget is asked for, as many as have one."""
    size = min(max(MIN_DEFAULT_BATCH_SIZE, n_threads_batch), MAX_BATCH_SIZE)
    if config.kv_layout == "split" and config.max_batch_total_tokens is not None:
        return max(1, min(size, config.max_batch_total_tokens // max_total))
    return size


def _cache_ram_mib(config: ServerConfig, memory_bytes: int | None) -> int:
    if config.cache_ram is not None:
        return config.cache_ram
    if memory_bytes is None:
        return MAX_DEFAULT_CACHE_RAM_MIB
    return min(memory_bytes // MEMORY_PER_CACHE_RAM // _MIB, MAX_DEFAULT_CACHE_RAM_MIB)


def _lengths(config: ServerConfig, context_tokens: int | None) -> tuple[int, int, list[str]]:
    """(max_input_tokens, max_total_tokens, notes): what was asked for, cut to the model's context.

    An unset limit follows from the others: a total from the input and the budget, an input
    from the total.
    """
    asked_input = _asked_input_tokens(config)
    max_total = config.max_total_tokens or _default_total_tokens(config, asked_input)
    notes = []
    if context_tokens is not None and max_total > context_tokens:
        notes = [f"max_total_tokens is {context_tokens}, the model's context, and not {max_total}"]
        max_total = context_tokens
    elif config.max_total_tokens is None and max_total != DEFAULT_MAX_TOTAL_TOKENS:
        notes = [f"max_total_tokens is {max_total}, by the limits that are set"]
    max_input = asked_input or _default_input_tokens(max_total)
    if asked_input is None and max_input < DEFAULT_MAX_INPUT_TOKENS:
        notes.append(f"max_input_tokens is {max_input}, half of max_total_tokens")
    return max_input, max_total, notes


def _default_total_tokens(config: ServerConfig, asked_input: int | None) -> int:
    """Room for the longest prompt and an output as the defaults have it, within the budget."""
    max_total = max(DEFAULT_MAX_TOTAL_TOKENS, (asked_input or 0) + DEFAULT_MAX_INPUT_TOKENS)
    budget = config.max_batch_total_tokens or MAX_INT32
    if config.kv_layout == "split":
        budget //= config.max_batch_size or 1
    return min(max_total, max(budget, 1))


def _default_input_tokens(max_total: int) -> int:
    return min(DEFAULT_MAX_INPUT_TOKENS, max(max_total // 2, 1))


def _asked_input_tokens(config: ServerConfig) -> int | None:
    """--max-input-tokens, or its older name."""
    if config.max_input_tokens is not None and config.max_input_length is not None:
        raise StartupError(
            f"Both `max_input_tokens` ({config.max_input_tokens}) and `max_input_length`"
            f" ({config.max_input_length}) are set: set only `max_input_tokens`"
        )
    return config.max_input_tokens or config.max_input_length


def _check(config: ServerConfig, derived: Derived, context_tokens: int | None) -> None:
    """TGI's start-up checks, its third aside: see "Budget" in docs/architecture.md."""
    if config.validation_workers == 0:
        raise StartupError("`validation_workers` must be > 0")
    if derived.max_total_tokens < 2:
        raise StartupError("`max_total_tokens` must be >= 2, a token of prompt and one of output")
    if derived.max_input_tokens >= derived.max_total_tokens:
        raise StartupError(
            "`max_input_tokens` must be < `max_total_tokens`."
            f" Given: {derived.max_input_tokens} and {derived.max_total_tokens}"
            f"{_why_total(config, derived, context_tokens)}"
        )
    if derived.max_total_tokens > derived.max_batch_total_tokens:
        raise StartupError(
            "`max_total_tokens` must be <= `max_batch_total_tokens`."
            f" Given: {derived.max_total_tokens} and {derived.max_batch_total_tokens}"
        )
    if derived.max_batch_size > MAX_BATCH_SIZE:
        raise StartupError(
            f"`max_batch_size` must be <= {MAX_BATCH_SIZE}, llama.cpp's limit."
            f" Given: {derived.max_batch_size}"
        )
    if config.max_top_n_tokens > MAX_TOP_TOKENS:
        raise StartupError(
            f"`max_top_n_tokens` must be <= {MAX_TOP_TOKENS}. Given: {config.max_top_n_tokens}"
        )
    _check_kv_layout(config, derived)
    _check_cache_types(config, derived.flash_attention)


def _why_total(config: ServerConfig, derived: Derived, context_tokens: int | None) -> str:
    """Where max_total_tokens is from, if it is not what was set."""
    if derived.max_total_tokens == config.max_total_tokens:
        return ""
    if derived.max_total_tokens == context_tokens:
        return ", the model's context"
    return ", all that `max_batch_total_tokens` allows"


def _check_kv_layout(config: ServerConfig, derived: Derived) -> None:
    num_cells = derived.max_batch_size * derived.max_total_tokens
    if config.kv_layout == "split" and num_cells > derived.max_batch_total_tokens:
        raise StartupError(
            f"--kv-layout split needs `max_batch_size` x `max_total_tokens` ({num_cells}) tokens of"
            f" KV cache, and `max_batch_total_tokens` is {derived.max_batch_total_tokens}: raise it"
            " if there is memory, lower one of the two, or take --kv-layout unified"
        )


def _check_cache_types(config: ServerConfig, flash_attention: bool) -> None:
    for option, name in (("--type-k", config.type_k), ("--type-v", config.type_v)):
        if name not in KV_CACHE_TYPES:
            raise StartupError(
                f"{option} {_kebab(name)}: a KV cache can be"
                f" {', '.join(map(_kebab, KV_CACHE_TYPES))}"
            )
    if config.type_v not in _UNQUANTIZED and not flash_attention:
        raise StartupError(
            f"--type-v {_kebab(config.type_v)} needs flash attention:"
            " drop --disable-flash-attention, or keep V in f16"
        )


def _kebab(type_name: str) -> str:
    return type_name.replace("_", "-")


def _is_on(asked: bool | None, is_disabled: bool, name: str) -> bool:
    """A switch that TGI has spelled in both directions; it is on where neither was given."""
    if asked and is_disabled:
        raise UsageError(f"--disable-{name} contradicts --{name} (or --use-{name})")
    return not is_disabled and asked is not False
