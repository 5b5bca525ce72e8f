"""The Prometheus text format, as TGI's exporter writes it: a family, then a blank line.

Knows what a counter, a gauge and a histogram look like, and no metric by name. Called by metrics.py
and engine_metrics.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from tgi_llamacpp.histogram import Histogram
from tgi_llamacpp.router.json_format import plain_float


def single(name: str, kind: str, value: float, help_text: str) -> list[str]:
    """A counter or gauge without labels."""
    return [*_head(name, kind, help_text), f"{name} {plain_float(float(value))}", ""]


def counters(
    name: str, label: str, values: Mapping[str, int], help_text: str | None = None
) -> list[str]:
    """A counter for each value of one label."""
    series = [f'{name}{{{label}="{key}"}} {count}' for key, count in values.items()]
    return [*_head(name, "counter", help_text), *series, ""]


def histograms(
    name: str, label: str, values: Mapping[str, Histogram], help_text: str | None = None
) -> list[str]:
    """A histogram for each value of one label."""
    lines = _head(name, "histogram", help_text)
    for key, histogram in values.items():
        lines += _series(name, histogram, f'{label}="{key}"')
    return [*lines, ""]


def histogram(name: str, observed: Histogram, help_text: str | None = None) -> list[str]:
    """A histogram without labels."""
    return [*_head(name, "histogram", help_text), *_series(name, observed, ""), ""]


def _head(name: str, kind: str, help_text: str | None) -> list[str]:
    type_line = f"# TYPE {name} {kind}"
    return [type_line] if help_text is None else [f"# HELP {name} {help_text}", type_line]


def _series(name: str, observed: Histogram, label: str) -> list[str]:
    cumulative = list(accumulate(observed.state.counts))
    bounds = [*(plain_float(float(bound)) for bound in observed.bounds), "+Inf"]
    before = f"{label}," if label else ""
    alone = f"{{{label}}}" if label else ""
    return [
        *(
            f'{name}_bucket{{{before}le="{bound}"}} {count}'
            for bound, count in zip(bounds, cumulative, strict=True)
        ),
        f"{name}_sum{alone} {plain_float(observed.state.total)}",
        f"{name}_count{alone} {cumulative[-1]}",
    ]
