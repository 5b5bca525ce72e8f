"""What the engine counts of its steps, under the names of TGI's batch metrics and under ours.

TGI's batches live in phases; here sequences join and leave at any step. A step that computes some
prompt is TGI's prefill, also where others decode in it; one of next tokens alone is its decode.
"""

from __future__ import annotations

from collections.abc import Iterable

from tgi_llamacpp.histogram import DURATION_BOUNDS_S, Counts, Histogram
from tgi_llamacpp.messages import (
    PREFIX_MISSES,
    SIZE_BOUNDS,
    TRANSFER_SKIPS,
    HostStats,
    PrefixStats,
    Stats,
    StepStats,
)
from tgi_llamacpp.router import prometheus


def engine_lines(stats: Stats) -> list[str]:
    """The families of one Stats: ours, then TGI's."""
    return [
        *_own_counters(stats),
        *_prefix_cache(stats.prefix),
        *_host_tier(stats.host),
        *_gauges(stats),
        *_batch_counters(stats),
        *_histograms(stats),
    ]


def _own_counters(stats: Stats) -> list[str]:
    lines: list[str] = []
    for name, value, help_text in (
        ("steps", stats.num_steps, "Steps the engine has run"),
        ("shared_steps", stats.num_shared_steps, "Steps that ran more than one sequence"),
        ("decode_tokens", stats.num_decode_tokens, "Tokens decoded"),
        ("prefill_tokens", stats.num_prefill_tokens, "Prompt tokens computed"),
        ("reused_graphs", stats.num_reused_graphs, "Steps that reused a compute graph"),
        ("step_seconds", stats.step_s, "Time inside the model's steps"),
        ("mixed_steps", stats.num_mixed_steps, "Steps that read prompts beside decoding sequences"),
        ("mixed_prefill_tokens", stats.num_mixed_tokens, "Prompt tokens computed in mixed steps"),
        ("mixed_error_seconds", stats.mixed_error_s, "Error of the predicted time of mixed steps"),
        ("late_steps", stats.num_late_steps, "Steps of decoding sequences beyond the target"),
        ("preempted_sequences", stats.num_preempted, "Times a sequence gave way to be resumed"),
        ("aside_prompts", stats.num_aside, "Prompts computed aside between others' steps"),
        ("aside_seconds", stats.aside_s, "Time on prompts computed aside, of the steps' time"),
        ("curve_measurements", stats.num_curves, "Times passes were measured again at rest"),
    ):
        lines += prometheus.single(f"tgi_llamacpp_{name}", "counter", value, help_text)
    return lines


def _singles(prefix: str, rows: Iterable[tuple[str, str, float, str]]) -> list[str]:
    """Metrics without labels. rows: name behind the prefix, kind, value, help."""
    lines: list[str] = []
    for name, kind, value, help_text in rows:
        lines += prometheus.single(f"{prefix}_{name}", kind, value, help_text)
    return lines


def _prefix_cache(stats: PrefixStats) -> list[str]:
    rows = (
        ("hits", "counter", stats.num_hits, "Sequences whose prompt began with cached tokens"),
        ("cached_tokens", "counter", stats.num_cached_tokens, "Prompt tokens from the cache"),
        ("evictions", "counter", stats.num_evictions, "Finished sequences that had to go"),
        ("parked_tokens", "gauge", stats.num_parked_tokens, "Tokens of finished sequences kept"),
    )
    lines = _singles("tgi_llamacpp_prefix_cache", rows)
    misses = {reason: stats.num_misses.get(reason, 0) for reason in PREFIX_MISSES}
    return lines + prometheus.counters(
        "tgi_llamacpp_prefix_cache_misses",
        "reason",
        misses,
        "Sequences that found no cached tokens",
    )


def _host_tier(stats: HostStats) -> list[str]:
    rows = (
        ("hits", "counter", stats.num_hits, "Prefix cache hits served from host memory"),
        ("cached_tokens", "counter", stats.num_cached_tokens, "Prompt tokens from host memory"),
        ("bytes", "gauge", stats.num_bytes, "Host memory held for prefixes"),
        ("max_bytes", "gauge", stats.max_bytes, "Host memory that prefixes may take"),
        ("states", "gauge", stats.num_states, "Sequences kept in host memory"),
        ("evictions", "counter", stats.num_evictions, "Sequences dropped from host memory"),
        ("saves", "counter", stats.num_saves, "Sequences saved to host memory"),
        ("idle_saves", "counter", stats.num_idle_saves, "Sequences saved while there was no work"),
        ("saved_bytes", "counter", stats.num_saved_bytes, "Bytes saved to host memory"),
        ("save_seconds", "counter", stats.save_s, "Time spent saving to host memory"),
        ("loads", "counter", stats.num_loads, "Sequences loaded from host memory"),
        ("loaded_bytes", "counter", stats.num_loaded_bytes, "Bytes loaded from host memory"),
        ("load_seconds", "counter", stats.load_s, "Time spent loading from host memory"),
    )
    lines = _singles("tgi_llamacpp_cache_ram", rows)
    for name, skips in (("save", stats.num_save_skips), ("load", stats.num_load_skips)):
        lines += prometheus.counters(
            f"tgi_llamacpp_cache_ram_{name}_skips",
            "reason",
            {reason: skips.get(reason, 0) for reason in TRANSFER_SKIPS},
            f"Times that a {name} was not done",
        )
    return lines


def _gauges(stats: Stats) -> list[str]:
    lines: list[str] = []
    for name, value, help_text in (
        ("tgi_queue_size", stats.num_waiting, "Current queue size"),
        ("tgi_batch_current_size", stats.num_running, "Current batch size"),
        (
            "tgi_batch_current_max_tokens",
            stats.num_reserved_tokens,
            "Maximum tokens for the current batch",
        ),
        ("tgi_llamacpp_engine_epoch", stats.epoch, "Number of the engine that serves"),
    ):
        lines += prometheus.single(name, "gauge", value, help_text)
    return lines


def _batch_counters(stats: Stats) -> list[str]:
    methods = _by_method(stats)
    done = {method: sum(steps.whole.counts) for method, steps in methods.items()}
    retried = {method: steps.num_retried for method, steps in methods.items()}
    joins = sum(stats.admissions.joins.counts)
    return [
        *prometheus.counters(
            "tgi_batch_inference_count",
            "method",
            {method: done[method] + retried[method] for method in methods},
            "Inference calls per method (prefill or decode)",
        ),
        *prometheus.counters(
            "tgi_batch_inference_success",
            "method",
            done,
            "Number of successful inference calls per method (prefill or decode)",
        ),
        *prometheus.counters("tgi_batch_inference_failure", "method", retried),
        # Prompts are read in chunks beside running answers, so this is the reason every time.
        *prometheus.counters("tgi_batch_concat", "reason", {"chunking": joins}),
    ]


def _histograms(stats: Stats) -> list[str]:
    lines: list[str] = []
    methods = _by_method(stats)
    for name, part, help_text in (
        ("inference", "whole", "Batch inference duration"),
        ("forward", "forward", "Batch forward duration per method (prefill or decode)"),
        ("decode", "sampling", "Time spent decoding a batch per method (prefill or decode)"),
        (
            "filter",
            "delivery",
            "Time spent filtering batches and sending generated tokens per method"
            " (prefill or decode)",
        ),
    ):
        observed = {key: _durations(getattr(steps, part)) for key, steps in methods.items()}
        lines += prometheus.histograms(f"tgi_batch_{name}_duration", "method", observed, help_text)
    joins = {"decode": _durations(stats.admissions.joins)}
    lines += prometheus.histograms("tgi_batch_concat_duration", "method", joins)
    sizes = Histogram(SIZE_BOUNDS, stats.admissions.sizes)
    lines += prometheus.histogram("tgi_batch_next_size", sizes, "Batch size of the next batch")
    return lines + prometheus.histogram(
        "tgi_request_skipped_tokens", _speculated(stats), "Speculated tokens per request"
    )


def _speculated(stats: Stats) -> Histogram:
    """Tokens that a sequence got in a step beyond the first: none, as nothing is speculated."""
    return Histogram([0], Counts([stats.num_decode_tokens, 0]))


def _by_method(stats: Stats) -> dict[str, StepStats]:
    return {"prefill": stats.prefill, "decode": stats.decode}


def _durations(counts: Counts) -> Histogram:
    return Histogram(DURATION_BOUNDS_S, counts)
