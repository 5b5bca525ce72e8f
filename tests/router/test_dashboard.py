"""TGI's Grafana dashboard fills: every series that its panels ask for is there, and is true.

The table is what the panels of TGI's dashboard query, in the order of the page: metric, type, and
the labels that a query selects by or groups by. Traffic goes through the whole program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.server_process import ServerProcess

NUM_REQUESTS = 6
PREFILL, DECODE = {"method": "prefill"}, {"method": "decode"}
PANELS: list[tuple[str, str, dict[str, str]]] = [
    ("tgi_request_queue_duration", "histogram", {}),
    ("tgi_batch_inference_duration", "histogram", PREFILL),
    ("tgi_batch_forward_duration", "histogram", DECODE),
    ("tgi_request_generated_tokens", "histogram", {}),
    ("tgi_request_input_length", "histogram", {}),
    ("tgi_request_success", "counter", {}),
    ("tgi_request_failure", "counter", {"err": "validation"}),
    ("tgi_request_mean_time_per_token_duration", "histogram", {}),
    ("tgi_request_count", "counter", {}),
    ("tgi_queue_size", "gauge", {}),
    ("tgi_batch_current_max_tokens", "gauge", {}),
    ("tgi_request_skipped_tokens", "histogram", {}),
    ("tgi_request_duration", "histogram", {}),
    ("tgi_batch_current_size", "gauge", {}),
    ("tgi_batch_concat", "counter", {"reason": "chunking"}),
    ("tgi_batch_inference_duration", "histogram", DECODE),
    ("tgi_batch_decode_duration", "histogram", DECODE),
    ("tgi_batch_filter_duration", "histogram", DECODE),
    ("tgi_batch_concat_duration", "histogram", DECODE),
]
GAUGES_AT_REST = {"tgi_queue_size", "tgi_batch_current_max_tokens", "tgi_batch_current_size"}
SERIES = re.compile(r"(?P<name>\w+)(\{(?P<labels>[^}]*)\})? (?P<value>\S+)")


class Page(NamedTuple):
    """`/metrics`, parsed: the type of each family, and every series with its labels."""

    types: dict[str, str]
    series: list[tuple[str, dict[str, str], float]]

    def values(self, name: str, labels: dict[str, str]) -> list[float]:
        """Of all series of this name that have these labels among theirs."""
        return [
            value
            for found, own, value in self.series
            if found == name and labels.items() <= own.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        """Of the only one."""
        (value,) = self.values(name, labels)
        return value


def parse(text: str) -> Page:
    types, series = {}, []
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"{name} comes twice"
            types[name] = kind
        elif line and not line.startswith("#"):
            match = SERIES.fullmatch(line)
            assert match is not None, line
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"] or ""))
            series.append((match["name"], labels, float(match["value"])))
    return Page(types, series)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """The metrics after a long answer that others joined, a refusal, and the end of all."""
    long = {"prompt": "a", "max_tokens": 1200, "ignore_eos": True, "stream": True}
    short = {"inputs": "one two three four five", "parameters": {"max_new_tokens": 20}}
    with (
        ServerProcess("demo", "--max-physical-batch-total-tokens=8") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        with client.stream("POST", "/v1/completions", json=long) as answer:
            events = answer.iter_lines()
            next(events)  # from here on it decodes
            for _ in range(NUM_REQUESTS - 1):
                assert client.post("/generate", json=short).status_code == 200
            assert client.post("/generate", json={"inputs": ""}).status_code == 422
            assert list(events)[-2] == "data: [DONE]"
        while (now := parse(client.get("/metrics").text)).value("tgi_batch_current_size"):
            pass
        yield now


@pytest.mark.parametrize(("name", "kind", "labels"), PANELS)
def test_every_panel_of_tgis_dashboard_has_its_series(
    page: Page, name: str, kind: str, labels: dict[str, str]
) -> None:
    assert page.types[name] == kind
    if kind != "histogram":
        assert page.values(name, labels)
        assert name in GAUGES_AT_REST or page.value(name, **labels) > 0
        return
    (num_observed,) = page.values(f"{name}_count", labels)
    assert num_observed > 0
    assert len(page.values(f"{name}_sum", labels)) == 1
    buckets = page.values(f"{name}_bucket", labels)
    assert buckets == sorted(buckets)
    assert page.value(f"{name}_bucket", **labels, le="+Inf") == buckets[-1] == num_observed


def test_the_engines_durations_add_up(page: Page) -> None:
    for method in ("prefill", "decode"):
        parts = [
            page.value(f"tgi_batch_{part}_duration_sum", method=method)
            for part in ("forward", "decode", "filter")
        ]
        assert all(part > 0 for part in parts)
        whole = page.value("tgi_batch_inference_duration_sum", method=method)
        assert sum(parts) == pytest.approx(whole)
        num_done = page.value("tgi_batch_inference_success", method=method)
        num_called = page.value("tgi_batch_inference_count", method=method)
        num_failed = page.value("tgi_batch_inference_failure", method=method)
        assert num_called == num_done + num_failed
        assert num_done == page.value("tgi_batch_inference_duration_count", method=method)
    assert page.value("tgi_llamacpp_steps") == sum(page.values("tgi_batch_inference_success", {}))


def test_joins_and_batch_sizes_are_counted_as_they_happened(page: Page) -> None:
    assert page.value("tgi_batch_next_size_sum") == NUM_REQUESTS
    assert page.value("tgi_batch_next_size_bucket", le="1") == NUM_REQUESTS
    assert page.value("tgi_batch_concat", reason="chunking") == NUM_REQUESTS - 1
    assert page.value("tgi_batch_concat_duration_count", method="decode") == NUM_REQUESTS - 1


def test_the_operators_table_has_every_metric_with_its_type(page: Page) -> None:
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    table = re.findall(r"^\| `(tgi_\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert dict(table) == page.types
    assert len(table) == len(page.types)


def test_nothing_is_speculated_and_every_token_says_so(page: Page) -> None:
    assert page.value("tgi_request_skipped_tokens_sum") == 0
    assert page.value("tgi_request_skipped_tokens_count") == page.value(
        "tgi_llamacpp_decode_tokens"
    )
