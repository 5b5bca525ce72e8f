"""Ten times what the server can do, for seconds. benchmarks/bench_overload.py does a minute."""

from __future__ import annotations

import asyncio

from benchmarks import bench_overload
from tests.server_process import ServerProcess


def test_ten_times_its_capacity_is_refused_and_the_accepted_keep_their_latency() -> None:
    slots, permits = bench_overload.NUM_SLOTS, bench_overload.NUM_PERMITS
    flags = (
        f"--max-batch-size={slots}",
        f"--max-concurrent-requests={permits}",
        "--cache-ram=0",
    )
    with ServerProcess("demo", *flags) as server:
        url = server.url + "/v1/completions"
        load = bench_overload.Load(url, num_prompt_tokens=16, num_tokens=100)
        measured = bench_overload.measure(load, server.pid, factor=10, seconds=10, capacity_s=4)
        result = asyncio.run(measured)  # which lets only 200 and 429 pass
        assert server.stop() == 0
    assert "ERROR" not in server.text
    full, over = result["at_capacity"], result["overloaded"]
    assert set(result["statuses"]) == {"200", "429"}
    assert over["num_accepted"] > full["num_accepted"]
    # So small a model refuses hundreds a second, and the clients share its cores.
    assert over["gap_ms"]["mean"] < 2 * full["gap_ms"]["mean"]
    assert over["first_ms"]["p50"] < 2 * full["first_ms"]["p50"]
    for memory in result["rss_mb"].values():
        assert memory["last"] < memory["first"] + 30
