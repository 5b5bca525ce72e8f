import dataclasses
import gzip
import json
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from tests.conftest import TOOLS, MakeServer
from tests.fake_text import FakePool

VARY = "origin, access-control-request-method, access-control-request-headers"
HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("path", ["/generate/", "/nothing", "/v1", "/docs/x"])
def test_an_unknown_path_is_an_empty_404(http: httpx.Client, path: str) -> None:
    response = http.post(path, json={})
    assert (response.status_code, response.content) == (404, b"")
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/generate", "POST"),
        ("POST", "/health", "GET,HEAD"),
        ("PUT", "/", "POST,GET,HEAD"),
    ],
)
def test_a_wrong_method_is_an_empty_405_that_names_the_right_ones(
    http: httpx.Client, method: str, path: str, allow: str
) -> None:
    response = http.request(method, path)
    assert (response.status_code, response.content) == (405, b"")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/v1/completions", "/v1/", '/v1/"\n'])
def test_an_unknown_path_below_v1_is_told_of_as_openai_tells_errors(
    http: httpx.Client, method: str, path: str
) -> None:
    response = http.request(method, quote(path))
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    assert response.headers["access-control-allow-origin"] == "*"
    error = response.json()["error"]
    assert f"{method} {path}" in error["message"]
    assert "POST /v1/chat/completions" in error["message"]
    assert (error["type"], error["code"]) == ("not_found_error", "route_not_found")
    assert http.head(quote(path)).content == b""


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/chat/completions", ["POST"]),
        ("GET", "/v1/completions", ["POST"]),
        ("POST", "/v1/models", ["GET", "HEAD"]),
        ("PATCH", "/v1/models/org/model", ["GET", "HEAD"]),
    ],
)
def test_a_wrong_method_below_v1_is_told_of_as_openai_tells_errors(
    http: httpx.Client, method: str, path: str, allow: list[str]
) -> None:
    response = http.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == ",".join(allow)
    error = response.json()["error"]
    assert error["message"] == f"{path} does not take {method}. Use {' or '.join(allow)}."
    assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_allowed")


@pytest.mark.parametrize("encoding", ["gzip", "br", "Zstd", "identity, deflate"])
def test_an_encoded_body_is_refused_by_the_name_of_its_encoding(
    http: httpx.Client, encoding: str
) -> None:
    for path, body in POSTS.items():
        data = gzip.compress(json.dumps(body).encode())
        headers = {"content-type": "application/json", "content-encoding": encoding}
        response = http.post(path, content=data, headers=headers)
        assert response.status_code == 415
        text = response.json()["error"]["message"] if path.startswith("/v1/") else response.text
        assert text == (
            f"`Content-Encoding: {encoding}` is not supported: send the body without an encoding"
        )


@pytest.mark.parametrize("encoding", ["identity", "Identity", "", "identity,identity"])
def test_a_body_that_is_encoded_in_name_alone_is_read(http: httpx.Client, encoding: str) -> None:
    for path, body in POSTS.items():
        response = http.post(path, json=body, headers={"content-encoding": encoding})
        assert response.status_code == 200


def test_head_works_where_get_does(http: httpx.Client) -> None:
    for path in ("/", "/info", "/metrics", "/v1/models"):
        response = http.head(path)
        assert (response.status_code, response.content) == (200, b"")


def test_any_origin_may_read_every_answer(http: httpx.Client) -> None:
    for response in (
        http.get("/info"),
        http.post("/generate", content=b"x"),
        http.post("/generate_stream", json={"inputs": "a"}),
    ):
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["vary"] == VARY
        assert "access-control-max-age" not in response.headers


def test_scripts_may_read_every_header_that_answers_have(make_server: MakeServer) -> None:
    server = make_server(limits={"max_concurrent_requests": 1})
    allowed = {"retry-after"}
    with httpx.Client(base_url=server.url) as client:
        for path in ("/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions"):
            response = client.post(path, json=POSTS[path])
            assert response.status_code == 200
            sent = {name for name in response.headers if name.startswith("x-")}
            allowed |= sent - {"x-accel-buffering"}  # which is for proxies
            exposed = response.headers["access-control-expose-headers"].split(",")
            assert "retry-after" in exposed
        assert set(exposed) == allowed


def test_options_are_answered_on_any_path(make_server: MakeServer) -> None:
    server = make_server(api_key="secret")
    for path in ("/generate", "/nothing", "/"):
        response = httpx.options(server.url + path)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["access-control-allow-methods"] == "GET,POST"
        assert response.headers["access-control-allow-headers"] == (
            "content-type,authorization,x-request-timeout"
        )
        assert response.headers["access-control-allow-origin"] == "*"
        assert int(response.headers["access-control-max-age"]) >= 600
        assert response.headers["vary"] == VARY


@pytest.mark.parametrize("origin", ["https://a.example", "https://b.example"])
def test_a_preflight_is_granted_the_headers_that_it_asks_for(
    make_server: MakeServer, origin: str
) -> None:
    server = make_server(cors_allow_origin=["https://a.example"])
    asked = ["authorization", "content-type", "x-stainless-lang", "x-stainless-retry-count"]
    response = httpx.options(
        f"{server.url}/v1/chat/completions",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": ", ".join(asked),
        },
    )
    assert response.headers["access-control-allow-headers"].split(",") == asked
    is_let_in = response.headers.get("access-control-allow-origin") == origin
    assert is_let_in is (origin == "https://a.example")


def test_what_is_no_name_of_a_header_is_not_sent_back(http: httpx.Client) -> None:
    asked = {"access-control-request-headers": 'x-one,\tx two, \xe9"x-three'}
    response = http.options(
        "/generate", headers=[(k, v.encode("latin-1")) for k, v in asked.items()]
    )
    assert response.headers["access-control-allow-headers"] == "x-one,x,two,x-three"


def test_a_list_of_origins_lets_those_in(make_server: MakeServer) -> None:
    server = make_server(cors_allow_origin=["https://a.example", "https://b.example"])
    for origin, allowed in (
        ("https://b.example", True),
        ("https://c.example", False),
        (None, False),
    ):
        headers = {"origin": origin} if origin else {}
        response = httpx.get(f"{server.url}/info", headers=headers)
        expected = origin if allowed else None
        assert response.headers.get("access-control-allow-origin") == expected
        assert response.headers["vary"] == VARY


POSTS = {
    "/": {"inputs": "a"},
    "/generate": {"inputs": "a"},
    "/generate_stream": {"inputs": "a"},
    "/tokenize": {"inputs": "a"},
    "/chat_tokenize": {"messages": HI},
    "/invocations": {"inputs": "a"},
    "/vertex": {"instances": [{"inputs": "a"}]},
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "a"},
    "/v2/models/m/versions/1/infer": {"id": "1", "inputs": [], "outputs": []},
}


def test_a_key_guards_every_route_that_does_work(make_server: MakeServer) -> None:
    server = make_server(api_key="Secret")
    wrong = [None, "Bearer wrong", "Bearer secret", "Basic Secret", "Secret", "Bearer Secret "]
    with httpx.Client(base_url=server.url) as client:
        for path, body in POSTS.items():
            for value in wrong[:5]:
                headers = {"authorization": value} if value else {}
                response = client.post(path, json=body, headers=headers)
                assert response.status_code == 401, (path, value)
                assert "www-authenticate" not in response.headers
                if path.startswith("/v1/"):
                    assert response.json()["error"]["code"] == "invalid_api_key"
                else:
                    assert response.content == b""
            for scheme in ("Bearer", "bearer"):
                headers = {"authorization": f"{scheme} Secret"}
                assert client.post(path, json=body, headers=headers).status_code == 200


def test_probes_and_scrapers_need_no_key(make_server: MakeServer) -> None:
    server = make_server(api_key="secret")
    for path in ("/", "/health", "/ping", "/info", "/metrics", "/v1/models"):
        assert httpx.get(server.url + path).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/problem+json", 200),
        ("APPLICATION/JSON", 200),
        ("text/plain", 415),
        ("application/jsonx", 415),
        ("application/json/x", 415),
        ("", 415),
    ],
)
def test_only_json_is_read(http: httpx.Client, content_type: str, status: int) -> None:
    headers = {"content-type": content_type}
    response = http.post("/generate", content=b'{"inputs":"a"}', headers=headers)
    assert response.status_code == status
    if status == 415:
        assert response.text == "Expected request with `Content-Type: application/json`"
        assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_star_in_the_list_lets_everyone_in(make_server: MakeServer) -> None:
    server = make_server(cors_allow_origin=["https://a.example", "*"])
    response = httpx.get(f"{server.url}/info", headers={"origin": "https://c.example"})
    assert response.headers["access-control-allow-origin"] == "*"


class _BrokenPool(FakePool):
    async def encode(self, text: str, *, add_special_tokens: bool) -> np.ndarray:
        raise ZeroDivisionError


def test_a_bug_of_ours_is_a_500_without_a_traceback(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server(text=dataclasses.replace(TOOLS, pool=_BrokenPool()))
    with httpx.Client(base_url=server.url) as client:
        for path in ("/generate", "/v1/completions"):
            response = client.post(path, json={"inputs": "a", "prompt": "a"})
            assert response.status_code == 500
            assert "ZeroDivision" not in response.text
            assert response.json()["error_type"] == "internal"
        assert client.get("/health").status_code == 200
    assert server.app.state.services.permits.num_used == 0
    assert "ZeroDivisionError" in caplog.text


def test_what_clients_send_is_escaped_in_the_log(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    grammar = {"type": "x\n2026 ERROR forged\x1b[31m", "value": 1}
    http.post("/generate", json={"inputs": "a", "parameters": {"grammar": grammar}})
    http.get("/v1/models/a%1b%0d")
    lines = [record.getMessage() for record in caplog.records]
    assert any("forged" in line for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat_tokenize"])
def test_a_prompt_in_a_wrong_place_is_told_to_the_client_and_not_to_the_log(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with caplog.at_level("INFO"):
        answer = http.post(path, json={"messages": 'my "private" prompt'})
    assert answer.status_code == 422
    assert "private" in answer.text
    assert "invalid type: string, expected a sequence" in caplog.text
    assert "private" not in caplog.text
