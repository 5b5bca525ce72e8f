"""What no decent client sends, to a real server over raw sockets: an error, and the server goes on.

test_connection_limits.py has slow clients and heads, test_body.py the words of every refusal.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.adversity.raw_http import Answer, connect, get, post, post_json
from tests.server_process import PATIENCE_S, ServerProcess

LIMIT = 2_000_000  # --payload-limit
MAX_S = 20.0  # of any refusal, on a machine that is busy with other things
SECRET = "xylophone-quartz-7731"
HI = [{"role": "user", "content": "hi"}]
POSTS = (
    "/",
    "/generate",
    "/generate_stream",
    "/tokenize",
    "/chat_tokenize",
    "/invocations",
    "/vertex",
    "/v1/chat/completions",
    "/v1/completions",
    "/v2/models/m/versions/1/infer",
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("demo", "--api-key=" + SECRET, LOG_LEVEL="debug") as process:
        yield process
        assert_serves(process)
        assert process.stop() == 0
        assert "Traceback" not in process.text
        assert "a bug of ours" not in process.text
        assert SECRET not in process.text
        assert "engine 2 started" not in process.text


def ask(server: ServerProcess, request: bytes) -> Answer:
    with connect(server.url) as client:
        start_s = time.monotonic()
        client.send(request)
        answer = client.answer()
        assert time.monotonic() - start_s < MAX_S
        return answer


def with_key(path: str, body: bytes) -> bytes:
    return post(path, body, f"authorization: Bearer {SECRET}")


def ask_json(server: ServerProcess, path: str, value: object) -> Answer:
    return ask(server, with_key(path, json.dumps(value).encode()))


def assert_serves(server: ServerProcess) -> None:
    answer = ask_json(server, "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 2}})
    assert answer.status == 200, answer


@pytest.mark.parametrize("path", POSTS)
def test_a_hundred_thousand_nested_brackets(server: ServerProcess, path: str) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        num = 100_000
        for body in (opening * num, opening * num + b"1" + closing * num):
            assert ask(server, with_key(path, body)).status in (400, 422)


@pytest.mark.parametrize(
    ("path", "before"),
    [
        ("/generate", b'{"inputs": "a", "parameters": {"grammar": '),
        ("/generate", b'{"inputs": "a", "unknown": '),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": '),
        ("/v1/chat/completions", b'{"messages": [], "tools": [{"function": '),
        ("/v1/chat/completions", b'{"messages": [], "chat_template_kwargs": {"a": '),
        ("/v1/completions", b'{"prompt": '),
        ("/v1/completions", b'{"prompt": "a", "logit_bias": '),
    ],
)
def test_nesting_inside_of_a_field(server: ServerProcess, path: str, before: bytes) -> None:
    num = 100_000
    assert ask(server, with_key(path, before + b"[" * num)).status in (400, 422)
    assert ask(server, with_key(path, before + b"[" * num + b"]" * num + b"}")).status in (400, 422)


@pytest.mark.parametrize("character", ["a", " ", "\n", "é", "\u0301", "<", "\x01", "🦙"])
def test_two_megabytes_of_one_character_delay_nobody(server: ServerProcess, character: str) -> None:
    num = (LIMIT - 100) // len(json.dumps(character, ensure_ascii=False).encode()[1:-1])
    body = json.dumps({"inputs": character * num}, ensure_ascii=False).encode()
    assert len(body) <= LIMIT
    with ThreadPoolExecutor() as others, connect(server.url) as client:
        refused = others.submit(ask, server, with_key("/generate", body))
        slowest_s = 0.0
        while not refused.done():
            start_s = time.monotonic()
            client.send(get("/v2/health/live"))
            assert client.answer().status == 200
            slowest_s = max(slowest_s, time.monotonic() - start_s)
        assert refused.result().status == 422
        assert b"must be <= 2048. Given: " in refused.result().body
    assert slowest_s < 2.0


def test_a_chat_of_two_megabytes_is_refused_by_its_length(server: ServerProcess) -> None:
    for messages in (
        [{"role": "user", "content": "a" * (LIMIT - 1000)}],
        [{"role": "user", "content": "a"}] * 40_000,
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * 40_000}],
    ):
        answer = ask_json(server, "/v1/chat/completions", {"messages": messages})
        assert answer.status == 422, answer.body[:300]


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": "\xff\xfe"}',
        b'{"inputs": "\xc3"}',
        b'{"inputs": "\xed\xa0\x80"}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "\\udc00\\ud800"}',
        b'\xef\xbb\xbf{"inputs": "a"}',
        '{"inputs": "a"}'.encode("utf-16"),
        b'{"inputs": "a\x00b"}',
        b'{"inputs": "a", "inputs": "b"}',
        b"",
        b"null",
        b'{"inputs": NaN}',
    ],
)
def test_a_body_that_is_no_text_or_no_json(server: ServerProcess, body: bytes) -> None:
    assert ask(server, with_key("/generate", body)).status in (400, 422)


NUMBERS = (
    *("-1", "0", "-0.0", "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "1e308"),
    *("4294967296", "18446744073709551616", "1" + "0" * 400, "9" * 5000, "true", '""'),
)
OF_TGI = (
    "temperature top_p top_k typical_p repetition_penalty frequency_penalty max_new_tokens seed"
    " best_of top_n_tokens truncate watermark stop"
)
OF_OPENAI = (
    "temperature top_p top_k min_p typical_p max_tokens n best_of seed presence_penalty logprobs"
    " frequency_penalty repeat_penalty repeat_last_n dry_multiplier dry_base dry_allowed_length"
    " dry_penalty_last_n xtc_probability xtc_threshold mirostat mirostat_tau mirostat_eta"
    " logit_bias"
)


@pytest.mark.parametrize("name", OF_TGI.split())
def test_a_number_on_tgis_route_is_taken_or_refused(server: ServerProcess, name: str) -> None:
    with connect(server.url) as client:
        for number in NUMBERS:
            # A length of its own, unless it is the length that is tried.
            length = "" if name == "max_new_tokens" else '"max_new_tokens": 1, '
            parameters = f'{{{length}"{name}": {number}}}'
            body = f'{{"inputs": "a", "parameters": {parameters}}}'.encode()
            client.send(with_key("/generate", body))
            assert client.answer().status in (200, 400, 422), number


@pytest.mark.parametrize("name", OF_OPENAI.split())
def test_a_number_on_openais_route_is_taken_or_refused(server: ServerProcess, name: str) -> None:
    with connect(server.url) as client:
        for number in NUMBERS:
            value = f'{{"7": {number}}}' if name == "logit_bias" else number
            length = "" if name == "max_tokens" else '"max_tokens": 1, '
            body = f'{{"prompt": "a", {length}"{name}": {value}}}'.encode()
            client.send(with_key("/v1/completions", body))
            assert client.answer().status in (200, 400, 422), number


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        ([""], 422),
        (["a", ""], 422),
        (["x" * 100], 200),
        (["x" * 1_000_000], 200),
        (["\x00", "\ufffd", "🦙"], 200),
        (["x"] * 5, 422),
        (["x"] * 200_000, 422),
    ],
    ids=["empty", "one empty", "long", "huge", "odd", "five", "many"],
)
def test_stop_strings_of_every_length(server: ServerProcess, stop: list[str], status: int) -> None:
    for path, body in (
        ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 40, "stop": stop}}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 40, "stop": stop}),
    ):
        assert ask_json(server, path, body).status == status


def test_a_body_over_the_limit_is_refused_however_it_comes(server: ServerProcess) -> None:
    head = (
        f"POST /generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        "content-type: application/json\r\n"
    ).encode()
    with connect(server.url) as client:  # told in advance: nothing of it is read
        client.send(head + b"content-length: 999999999999\r\n\r\n")
        assert client.answer().status == 413
    with connect(server.url) as client:
        client.send(head + b"transfer-encoding: chunked\r\n\r\n")
        num_sent = client.send_until_closed(b"10000\r\n" + b"a" * 0x10000 + b"\r\n", 3 * LIMIT)
        assert num_sent > LIMIT
        assert client.answer().status == 413
    with connect(server.url) as client:  # a chunk that claims to be huge
        client.send(head + b"transfer-encoding: chunked\r\n\r\nfffffffffff\r\n")
        client.send_until_closed(b"a" * 65536, 3 * LIMIT)
        assert client.answer().status == 413
    assert_serves(server)


def test_chunks_of_one_byte_are_a_body_too(server: ServerProcess) -> None:
    body = b'{"inputs": "a", "parameters": {"max_new_tokens": 1}}'
    head = with_key("/generate", b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    assert ask(server, head + chunks + b"0\r\n\r\n").status == 200


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    bodies = [{"inputs": "a", "parameters": {"max_new_tokens": n % 3 + 1}} for n in range(20)]
    with connect(server.url) as client:
        requests = [with_key("/generate", json.dumps(body).encode()) for body in bodies]
        client.send(b"".join(requests) + with_key("/generate", b"{") + get("/health"))
        assert [client.answer().status for _ in bodies] == [200] * 20
        assert [client.answer().status for _ in range(2)] == [400, 200]


def test_a_thousand_pipelined_requests_cost_nothing_but_their_time(server: ServerProcess) -> None:
    with connect(server.url) as client:
        client.send(get("/v2/health/live") * 1000)
        assert {client.answer().status for _ in range(1000)} == {200}


def test_a_half_closed_connection_frees_what_it_asked_for(server: ServerProcess) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1000}}
    clients = []
    for _ in range(16):  # as many as may be at once
        client = connect(server.url)
        opened = client.__enter__()
        clients.append((client, opened))
        opened.send(with_key("/generate_stream", json.dumps(body).encode()))
        opened.sock.shutdown(1)
    for client, opened in clients:
        assert opened.is_closed_within(MAX_S)
        client.__exit__(None, None, None)
    assert_serves(server)


def test_a_wrong_key_is_refused_before_the_body_is_read(server: ServerProcess) -> None:
    for value in ("", "Bearer", "Bearer " + "x" * 60_000, "Bearer \xff\xfe", f"Basic {SECRET}"):
        request = post("/generate", b'{"inputs": "a"}', f"authorization: {value}")
        assert ask(server, request).status == 401


def test_nothing_that_a_client_sends_reaches_the_log_unescaped(server: ServerProcess) -> None:
    evil = "\n2026-01-01T00:00:00.000Z ERROR router: forged \x1b[31m\x07\x85\u2028"
    quoted = "".join(f"%{byte:02x}" for byte in evil.encode())
    for path in ("/" + quoted, "/v1/models/" + quoted, f"/v2/models/{quoted}/versions/1/ready"):
        ask(server, get(path))
        ask(server, with_key(path, b"{}"))
    ask(server, post_json("/generate", {"inputs": evil}))
    ask(server, get("/health", "user-agent: \x1b[31mforged", "x-forwarded-for: \x1b[31m"))
    for path, body in (
        ("/generate", {"inputs": evil, evil: evil}),
        ("/v1/completions", {"prompt": "a", "model": evil, "max_tokens": 1}),
        ("/v1/completions", {"prompt": "a", "logit_bias": {evil: 1}}),
        ("/v1/completions", {"prompt": "a", "stop": evil, "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": evil}]}),
        ("/v1/chat/completions", {"messages": HI, evil: 1}),
    ):
        ask_json(server, path, body)
    assert_serves(server)
    assert not any(line.startswith("2026-01-01") for line in server.log)
    assert all(text.isprintable() for line in server.log for text in line.split("\t"))


def test_no_prompt_and_no_answer_is_logged_at_any_level(server: ServerProcess) -> None:
    secret = "prompt-of-somebody"
    chat = [{"role": "user", "content": f"What is the capital of France? {secret}"}]
    for path, body in (
        ("/generate", {"inputs": secret, "parameters": {"max_new_tokens": 4}}),
        ("/generate", {"inputs": secret, "parameters": {"max_new_tokens": -4}}),
        ("/generate", {"inputs": secret, "parameters": {"stop": [secret] * 9}}),
        ("/generate", {"inputs": [secret]}),
        ("/tokenize", {"inputs": secret}),
        ("/v1/completions", {"prompt": secret, "max_tokens": 2, "echo": True, "logprobs": 1}),
        ("/v1/completions", {"prompt": secret, "suffix": secret}),
        ("/v1/chat/completions", {"messages": chat, "max_tokens": 16, "temperature": 0}),
        ("/v1/chat/completions", {"messages": chat, "response_format": {"type": secret}}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": secret}]}]}),
    ):
        ask_json(server, path, body)
    assert_serves(server)
    assert secret not in server.text
    assert "Paris" not in server.text


def test_what_it_opens_is_nobody_elses(server: ServerProcess) -> None:
    """Files that it or its engine made: none with a name, none that others may read."""
    assert server.url
    for pid in (server.pid, server.engine_pid):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(fd)
            info = os.stat(fd)
            if not stat.S_ISREG(info.st_mode):
                continue
            is_written = "w" in _access(pid, fd.name)
            if target.startswith("/memfd:"):
                assert stat.S_IMODE(info.st_mode) & 0o077 == 0, target
            else:
                assert not is_written, target


def _access(pid: int, fd: str) -> str:
    """ "r", "w" or "rw"."""
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    flags = int(next(line for line in text.splitlines() if line.startswith("flags:")).split()[1], 8)
    return {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}[flags & os.O_ACCMODE]


def test_another_client_is_served_all_the_while(server: ServerProcess) -> None:
    answer = httpx.get(server.url + "/health", timeout=PATIENCE_S)
    assert answer.status_code == 200
