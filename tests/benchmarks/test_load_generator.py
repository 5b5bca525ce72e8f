"""The load generator believes no server: it counts tokens, and times whole answers alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load_generator import Answer, BenchError, send
from benchmarks.measures import summarize
from benchmarks.scenarios import Request, Stream

Script = Callable[[dict[str, int]], list[bytes]]
Serve = Callable[..., str]


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text_event(text: str) -> bytes:
    return event({"choices": [{"text": text}]})


def usage_event(num_prompt: int, num_output: int) -> bytes:
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_output}
    return event({"choices": [], "usage": usage})


def obedient(body: dict[str, int]) -> list[bytes]:
    tokens = [text_event("\ndata: x")] * body["max_tokens"]
    return [*tokens, usage_event(body["num_prompt"], body["max_tokens"]), b"data: [DONE]\n\n"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that streams what a script says, a chunk for each part, so much a write."""
    servers = []

    def start(script: Script, write_bytes: int = 2**20) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in script(body))
                whole = chunks + b"0\r\n\r\n"
                for start in range(0, len(whole), write_bytes):
                    self.wfile.write(whole[start : start + write_bytes])

            def log_message(self, format: str, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1/completions"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(url: str, *streams: Stream) -> list[Answer]:
    return send(
        url,
        streams,
        lambda request: {
            "max_tokens": request.num_output_tokens,
            "num_prompt": request.num_prompt_tokens,
        },
    )


def test_every_request_of_every_stream_is_timed_token_by_token(serve: Serve) -> None:
    streams = (Stream((Request("a b", 2, 3), Request("c", 1, 5))), Stream((Request("d", 1, 1),)))
    answers = ask(serve(obedient), *streams)
    assert [len(answer.token_times_s) for answer in answers] == [3, 5, 1]
    for answer in answers:
        times = (answer.start_s, *answer.token_times_s)
        assert list(times) == sorted(times)
    assert answers[1].start_s >= answers[0].token_times_s[-1]


def test_an_event_cut_anywhere_is_counted_once(serve: Serve) -> None:
    for write_bytes in (1, 2, 5, 7, 50):
        (answer,) = ask(serve(obedient, write_bytes), Stream((Request("a b", 2, 3),)))
        assert len(answer.token_times_s) == 3


def test_a_server_that_counts_other_tokens_is_refused(serve: Serve) -> None:
    short = serve(lambda _: [text_event("a"), usage_event(2, 1)])
    with pytest.raises(BenchError, match=r"asked for \(2, 3\) tokens.* counted \(2, 1\)"):
        ask(short, Stream((Request("a b", 2, 3),)))


def test_a_stream_that_ends_in_an_error_is_refused(serve: Serve) -> None:
    broken = serve(lambda _: [text_event("a"), event({"error": "no more"})])
    with pytest.raises(BenchError, match="no more"):
        ask(broken, Stream((Request("a b", 2, 3),)))


def test_measures_are_those_of_the_definition() -> None:
    answers = [
        Answer("slow", 10.0, (11.0, 12.0, 14.0), 5, 3, 0),
        Answer("fast", 10.0, (10.5, 11.0, 11.5), 5, 3, 2),
    ]
    metrics = summarize(answers)
    assert metrics["all"]["tokens_per_s"] == pytest.approx(6 / 4)
    assert metrics["all"]["num_cached_tokens"] == 2
    assert metrics["all"]["gap_ms_max"] == 2000
    assert metrics["slow"]["ttft_ms_p50"] == 1000
    assert metrics["fast"]["gap_ms_p50"] == 500
