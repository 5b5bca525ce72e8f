import httpx
import pytest

from tests.conftest import LIMITS, MakeServer
from tgi_llamacpp.errors import (
    DeadlineError,
    GenerationError,
    IncompleteError,
    OverloadedError,
    TemplateError,
    ToolError,
    ValidationError,
)
from tgi_llamacpp.histogram import DURATION_BOUNDS_S
from tgi_llamacpp.messages import HostStats, PrefixStats, SamplingParams, Stats
from tgi_llamacpp.router.mailbox import Mailbox
from tgi_llamacpp.router.metrics import (
    Metrics,
    RequestTimes,
    length_buckets,
)

# The bounds as TGI prints them.
DURATIONS = """
0.00015000000000000001 0.00022500000000000002 0.0003375 0.00050625 0.000759375
0.0011390624999999999 0.0017085937499999998 0.0025628906249999996 0.0038443359374999994
0.00576650390625 0.008649755859375 0.0129746337890625 0.01946195068359375
0.029192926025390625 0.043789389038085935 0.0656840835571289 0.09852612533569335
0.14778918800354002 0.22168378200531003 0.33252567300796504 0.49878850951194753
0.7481827642679213 1.122274146401882 1.683411219602823 2.5251168294042348
3.787675244106352 5.681512866159528 8.52226929923929 12.783403948858936
19.175105923288406 28.76265888493261 43.143988327398915 64.71598249109837
97.07397373664756 145.61096060497135
"""


def _buckets(text: str, name: str) -> dict[str, int]:
    lines = [line for line in text.splitlines() if line.startswith(f"{name}_bucket")]
    return {line.split('"')[1]: int(line.rsplit(" ", 1)[1]) for line in lines}


def test_duration_buckets_are_tgis_to_the_last_digit() -> None:
    text = Metrics(LIMITS).render(None)
    assert list(_buckets(text, "tgi_request_duration")) == [*DURATIONS.split(), "+Inf"]
    assert len(DURATION_BOUNDS_S) == 35


def test_length_buckets_are_a_hundred_steps_to_the_limit() -> None:
    labels = list(_buckets(Metrics(LIMITS).render(None), "tgi_request_input_length"))
    assert labels[:3] == ["10.24", "20.48", "30.72"]
    assert labels[24] == "256"
    assert labels[34] == "358.40000000000003"
    assert labels[-2:] == ["1024", "+Inf"]
    assert len(length_buckets(2048)) == 100


def test_a_value_on_a_bound_is_below_it() -> None:
    metrics = Metrics(LIMITS)
    metrics.observe_valid(256, 1)
    buckets = _buckets(metrics.render(None), "tgi_request_input_length")
    assert buckets["245.76"] == 0
    assert buckets["256"] == buckets["+Inf"] == 1


def test_every_failure_that_tgi_counts_is_counted_under_its_name() -> None:
    metrics = Metrics(LIMITS)
    for error in (
        OverloadedError(1),
        DeadlineError(0.5, 1),
        ValidationError("x"),
        ValidationError("y"),
        TemplateError("x"),
        IncompleteError(),
        GenerationError("x"),
        ToolError("not counted"),
    ):
        metrics.count_failure(error)
    metrics.count_dropped()
    lines = metrics.render(None).splitlines()
    start = lines.index("# TYPE tgi_request_failure counter")
    assert lines[start + 1 : start + 9] == [
        'tgi_request_failure{err="dropped"} 1',
        'tgi_request_failure{err="generation"} 1',
        'tgi_request_failure{err="incomplete"} 1',
        'tgi_request_failure{err="overloaded"} 1',
        'tgi_request_failure{err="template"} 1',
        'tgi_request_failure{err="timeout"} 1',
        'tgi_request_failure{err="validation"} 2',
        "",
    ]


def test_the_text_has_tgis_form() -> None:
    metrics = Metrics(LIMITS)
    metrics.count_request()
    metrics.observe_success(RequestTimes(0.512, 0.001, 0.002, 0.5, 0.125), 4)
    text = metrics.render(None)
    assert text.startswith(
        "# HELP tgi_request_count Total number of requests\n"
        "# TYPE tgi_request_count counter\n"
        "tgi_request_count 1\n"
        "\n"
        "# HELP tgi_request_success Number of successful requests\n"
    )
    assert (
        "# HELP tgi_request_duration Request duration\n"
        "# TYPE tgi_request_duration histogram\n"
        'tgi_request_duration_bucket{le="0.00015000000000000001"} 0\n'
    ) in text
    assert (
        'tgi_request_duration_bucket{le="+Inf"} 1\n'
        "tgi_request_duration_sum 0.512\n"
        "tgi_request_duration_count 1\n"
        "\n"
    ) in text


def test_the_engines_state_fills_tgis_gauges() -> None:
    stats = Stats(
        epoch=1,
        num_steps=9,
        num_decode_tokens=8,
        num_prefill_tokens=7,
        num_waiting=3,
        num_running=2,
        num_reserved_tokens=100,
        num_shared_steps=4,
        num_reused_graphs=5,
        step_s=0.25,
        prefix=PrefixStats(6, {"short": 2}, 1234, 1, 99),
        host=HostStats(num_bytes=5000, num_hits=2, num_load_skips={"late": 3}, save_s=0.5),
    )
    lines = Metrics(LIMITS).render(stats).splitlines()
    for line in (
        "# TYPE tgi_queue_size gauge",
        "tgi_queue_size 3",
        "tgi_batch_current_size 2",
        "tgi_batch_current_max_tokens 100",
        "tgi_llamacpp_steps 9",
        "tgi_llamacpp_step_seconds 0.25",
        "tgi_llamacpp_prefix_cache_hits 6",
        'tgi_llamacpp_prefix_cache_misses{reason="short"} 2',
        'tgi_llamacpp_prefix_cache_misses{reason="unknown"} 0',
        "tgi_llamacpp_prefix_cache_cached_tokens 1234",
        "tgi_llamacpp_prefix_cache_evictions 1",
        "# TYPE tgi_llamacpp_prefix_cache_parked_tokens gauge",
        "tgi_llamacpp_prefix_cache_parked_tokens 99",
        "tgi_llamacpp_cache_ram_bytes 5000",
        "tgi_llamacpp_cache_ram_hits 2",
        "tgi_llamacpp_cache_ram_save_seconds 0.5",
        'tgi_llamacpp_cache_ram_load_skips{reason="late"} 3',
        'tgi_llamacpp_cache_ram_save_skips{reason="late"} 0',
    ):
        assert line in lines


def test_a_generation_is_counted_once_on_every_route(make_server: MakeServer) -> None:
    server = make_server()
    with httpx.Client(base_url=server.url) as client:
        client.post("/generate", json={"inputs": "abc"})
        client.post("/generate_stream", json={"inputs": "abc"})
        client.post("/v1/chat/completions", json={"messages": [{"role": "u", "content": "a"}]})
        client.post("/v1/completions", json={"prompt": "abc", "stream": True})
        client.post("/tokenize", json={"inputs": "abc"})
        client.post("/generate", json={"inputs": ""})
        response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    lines = response.text.splitlines()
    assert "tgi_request_count 5" in lines
    assert "tgi_request_success 4" in lines
    assert 'tgi_request_failure{err="validation"} 1' in lines
    assert "tgi_request_generated_tokens_sum 16" in lines
    assert "tgi_request_input_length_count 4" in lines
    assert "tgi_request_queue_duration_count 4" in lines


@pytest.mark.parametrize("stream", [False, True])
def test_every_prompt_of_a_request_is_a_request_and_a_success(
    make_server: MakeServer, stream: bool
) -> None:
    server = make_server()
    body = {"prompt": ["abc", "de"], "n": 2, "stream": stream}
    httpx.post(f"{server.url}/v1/completions", json=body)
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    assert "tgi_request_count 2" in lines
    assert "tgi_request_success 2" in lines
    assert "tgi_request_duration_count 2" in lines
    assert "tgi_request_generated_tokens_sum 16" in lines


def test_the_whole_room_is_observed(make_server: MakeServer) -> None:
    server = make_server()
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 1500}}
    httpx.post(f"{server.url}/generate", json=body)
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    assert "tgi_request_max_new_tokens_sum 1500" in lines


def test_everything_is_there_before_the_first_request(make_server: MakeServer) -> None:
    text = httpx.get(f"{make_server().url}/metrics").text
    assert "\ntgi_queue_size 0\n" in text
    assert '\ntgi_request_failure{err="overloaded"} 0\n' in text
    assert '\ntgi_batch_forward_duration_count{method="decode"} 0\n' in text


def test_what_waits_for_an_engine_is_in_the_queue(make_server: MakeServer) -> None:
    server = make_server()

    async def submit() -> None:
        server.client._on_lost()  # and no other comes, in this test
        server.client.submit(Mailbox(), b"\1\0\0\0", 5, SamplingParams())

    server.call(submit())
    assert "\ntgi_queue_size 1\n" in httpx.get(f"{server.url}/metrics").text


def test_nothing_runs_or_waits_in_an_engine_that_is_gone(make_server: MakeServer) -> None:
    server = make_server()
    server.do(lambda: server.engine.send_stats(num_running=3, num_waiting=2, num_steps=9))
    while "tgi_batch_current_size 3" not in (text := httpx.get(f"{server.url}/metrics").text):
        pass
    assert "\ntgi_queue_size 2\n" in text
    server.do(server.engine.die)
    server.call(server.client.wait_closed())
    text = httpx.get(f"{server.url}/metrics").text
    assert "\ntgi_queue_size 0\n" in text
    assert "\ntgi_batch_current_size 0\n" in text
    assert "\ntgi_llamacpp_steps 9\n" in text
