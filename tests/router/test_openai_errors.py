import httpx
import pytest

from tests.conftest import MakeServer, sse_data, sse_events
from tests.fake_engine import FakeToken
from tgi_llamacpp.messages import Submit

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("route", "fields", "message", "param"),
    [
        (
            CHAT,
            {"temperature": -1},
            "`temperature` must be >= 0 and finite (0 takes the likeliest token). Given: -1.0",
            "temperature",
        ),
        (
            TEXT,
            {"top_p": 1.5},
            "`top_p` must be >= 0 and <= 1 (1 is off, 0 takes the likeliest token). Given: 1.5",
            "top_p",
        ),
        (
            CHAT,
            {"typical_p": 0},
            "`typical_p` must be > 0 and <= 1 (1 is off). Given: 0.0",
            "typical_p",
        ),
        (
            TEXT,
            {"presence_penalty": 3},
            "`presence_penalty` must be >= -2 and <= 2 (0 is off). Given: 3.0",
            "presence_penalty",
        ),
        (CHAT, {"n": 0}, "`n` must be > 0 and <= 8. Given: 0", "n"),
        (CHAT, {"n": 9}, "`n` must be > 0 and <= 8. Given: 9", "n"),
        (CHAT, {"n_cmpl": 9}, "`n_cmpl` must be > 0 and <= 8. Given: 9", "n_cmpl"),
        (
            TEXT,
            {"id_slot": 2},
            "`id_slot` is not supported on this route: leave it out, or send -1",
            "id_slot",
        ),
        (
            CHAT,
            {"top_logprobs": 21, "logprobs": True},
            "`top_logprobs` must be >= 0 and <= 20. Given: 21",
            "top_logprobs",
        ),
        (
            CHAT,
            {"response_format": {"type": "json_object"}},
            "`response_format` is not supported yet, other than of type `text`",
            "response_format",
        ),
        (
            CHAT,
            {"modalities": ["audio"]},
            "`modalities` other than `text` are not supported",
            "modalities",
        ),
        (
            CHAT,
            {"max_tokens": 3, "max_completion_tokens": 4},
            "`max_tokens` and `max_completion_tokens` are two names of one setting and must not"
            " differ. Given: 3 and 4: send one of them",
            "max_tokens",
        ),
        (
            TEXT,
            {"max_completion_tokens": 4, "n_predict": -1},
            "`max_completion_tokens` and `n_predict` are two names of one setting and must not"
            " differ. Given: 4 and -1: send one of them",
            "max_completion_tokens",
        ),
        *(
            (
                route,
                {name: 0},
                f"`{name}` must be > 0, or -1 for all the room there is. Given: 0",
                name,
            )
            for route in (CHAT, TEXT)
            for name in ("max_tokens", "max_completion_tokens", "n_predict")
        ),
        (
            CHAT,
            {"min_tokens": 4, "max_tokens": 3},
            "`min_tokens` must be <= 3, the most that this request may generate. Given: 4",
            "min_tokens",
        ),
        (
            CHAT,
            {"messages": []},
            "`messages` must have at least one message. Given: an empty list",
            "messages",
        ),
        (CHAT, {"n_probs": 21}, "`n_probs` must be >= 0 and <= 20. Given: 21", "n_probs"),
        (TEXT, {"n_probs": 6}, "`n_probs` must be >= 0 and <= 5. Given: 6", "n_probs"),
        (CHAT, {"stop": [""]}, "`stop` sequences cannot be empty", "stop"),
        (
            TEXT,
            {"best_of": 2, "n": 3},
            "`best_of` must be >= `n` (3) and <= 8. Given: 2",
            "best_of",
        ),
        (TEXT, {"best_of": 9}, "`best_of` must be >= `n` (1) and <= 8. Given: 9", "best_of"),
        (
            TEXT,
            {"prompt": ["a", "b", "c"], "n": 3},
            "`prompt` must ask for at most 8 sequences at once, which is the number of prompts"
            " times `best_of` or `n`. Given: 9",
            "prompt",
        ),
        (TEXT, {"logprobs": 6}, "`logprobs` must be >= 0 and <= 5. Given: 6", "logprobs"),
        (
            TEXT,
            {"prompt": [400_000]},
            "`prompt` token ids must be < 400000. Given: 400000",
            "prompt",
        ),
        (TEXT, {"prompt": ""}, "`prompt` cannot be empty", "prompt"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_field_that_cannot_be_honoured_is_named(
    http: httpx.Client,
    route: str,
    fields: dict[str, object],
    message: str,
    param: str,
    stream: bool,
) -> None:
    base: dict[str, object] = {"messages": HI} if route == CHAT else {"prompt": "a"}
    response = http.post(route, json={**base, **fields, "stream": stream})
    assert response.status_code == 422
    assert response.json() == {
        "error": {
            "message": f"Input validation error: {message}",
            "type": "invalid_request_error",
            "param": param,
            "code": "validation",
        },
        "error_type": "validation",
    }


@pytest.mark.parametrize("choice", [None, "auto", "required", {"function": {"name": "f"}}])
def test_tools_are_refused_until_they_work(http: httpx.Client, choice: object) -> None:
    response = http.post(CHAT, json={"messages": HI, "tools": [TOOL], "tool_choice": choice})
    assert response.status_code == 422
    assert response.json()["error_type"] == "tool_error"
    assert response.json()["error"]["message"] == "Tool error: `tools` are not supported yet"


@pytest.mark.parametrize("choice", [None, "auto", {"name": "f"}])
def test_functions_are_refused_as_tools_are(http: httpx.Client, choice: object) -> None:
    response = http.post(CHAT, json={"messages": HI, "functions": [{}], "function_call": choice})
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "Tool error: `functions` are not supported yet"
    assert response.json()["error"]["param"] == "functions"


def test_tools_that_may_not_be_called_are_left_out(http: httpx.Client) -> None:
    for fields in (
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"tools": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none", "function_call": "none"},
        {"function_call": "auto"},
    ):
        assert http.post(CHAT, json={"messages": HI, **fields}).status_code == 200, fields


@pytest.mark.parametrize(
    ("field", "choice"),
    [
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("function_call", {"name": "f"}),
    ],
)
def test_a_call_that_must_be_is_refused_without_tools(
    http: httpx.Client, field: str, choice: object
) -> None:
    response = http.post(CHAT, json={"messages": HI, field: choice})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == field


def test_neutral_values_of_unsupported_fields_are_no_reason(http: httpx.Client) -> None:
    neutral = {"adapter_id": "", "grammar": None, "functions": [], "watermark": False, "best_of": 1}
    body = {"messages": HI, **neutral, "response_format": {"type": "text"}}
    assert http.post(CHAT, json=body).status_code == 200


@pytest.mark.parametrize(
    ("route", "prompt_field", "length_field"),
    [
        (CHAT, "messages", "max_tokens"),
        (CHAT, "messages", "max_completion_tokens"),
        (TEXT, "prompt", "max_tokens"),
        (TEXT, "prompt", "n_predict"),
    ],
)
def test_lengths_are_told_by_the_names_and_numbers_that_were_sent(
    http: httpx.Client, route: str, prompt_field: str, length_field: str
) -> None:
    def ask(num_characters: int, **fields: object) -> dict[str, str]:
        text = "a" * num_characters
        prompt = text if route == TEXT else [{"role": "user", "content": text}]
        response = http.post(route, json={prompt_field: prompt, **fields})
        assert response.status_code == 422
        return dict(response.json()["error"])

    long = ask(3000)
    assert f"`{prompt_field}` must have at most 1024 tokens. Given: 30" in long["message"]
    together = ask(1200, **{length_field: 1500})
    assert f"`{prompt_field}` tokens + `{length_field}` must be <= 2048" in together["message"]
    assert together["message"].endswith(f" and 1500 `{length_field}`")
    for error in (long, together):
        assert error["code"] == "context_length_exceeded"
        assert error["param"] == prompt_field


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
@pytest.mark.parametrize("route", [CHAT, TEXT])
def test_a_length_of_minus_1_is_all_the_room(
    make_server: MakeServer, route: str, name: str
) -> None:
    server = make_server()
    body: dict[str, object] = {"messages": HI} if route == CHAT else {"prompt": "a"}
    for fields in ({}, {name: -1}, {name: 7}):
        assert httpx.post(server.url + route, json={**body, **fields}).status_code == 200
    lengths = [m.max_new_tokens for m in server.engine.received if isinstance(m, Submit)]
    assert lengths[0] == lengths[1] > 1024
    assert lengths[2] == 7
    assert httpx.post(server.url + route, json={**body, name: -2}).status_code == 422


def test_what_the_template_says_reaches_the_client(http: httpx.Client) -> None:
    response = http.post(CHAT, json={"messages": [{"role": "wrong", "content": ""}]})
    assert response.status_code == 422
    assert response.json()["error_type"] == "template_error"
    message = response.json()["error"]["message"]
    assert message == "Template error: no such role (in line 1)"


def test_bodies_of_the_wrong_shape_have_the_object_too(http: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    for body, status in ((b"{", 400), (b"{}", 422)):
        response = http.post(CHAT, content=body, headers=headers)
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"
    assert http.post(CHAT, content=b"{}").status_code == 415


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        (CHAT, b'{"messages":[],"temperature":"hot"}', "temperature"),
        (CHAT, b'{"messages":[{"role":"user"}]}', "messages"),
        (CHAT, b'{"messages":[],"stream_options":{"include_usage":1}}', "stream_options"),
        (CHAT, b"{}", "messages"),
        (CHAT, b'{"n":1,"n":2,"messages":[]}', "n"),
        (TEXT, b'{"prompt":[]}', "prompt"),
        (TEXT, b'{"prompt":"a","stop":[1]}', "stop"),
        (TEXT, b"{", None),
        (TEXT, b'{"prompt":', None),
        (TEXT, b"[]", None),
    ],
)
def test_a_value_of_the_wrong_type_is_blamed_on_its_field(
    http: httpx.Client, route: str, body: bytes, param: str | None
) -> None:
    response = http.post(route, content=body, headers={"content-type": "application/json"})
    assert response.json()["error"]["param"] == param


def _one_then_silence(submit: Submit) -> list[FakeToken]:
    return [FakeToken(5360)]


@pytest.mark.parametrize("route", [CHAT, TEXT])
def test_an_engine_that_fails_mid_stream_ends_it_with_error_and_done(
    make_server: MakeServer, route: str
) -> None:
    server = make_server(_one_then_silence)
    body = {"messages": HI, "prompt": "a", "stream": True}
    with (
        httpx.Client(base_url=server.url) as client,
        client.stream("POST", route, json=body) as response,
    ):
        server.call(server.engine.wait_for(Submit))
        lines = response.iter_lines()
        assert any(" love" in line for line in lines)
        server.do(lambda: server.engine.fail_all("no memory"))
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert rest[-2] == (
        'data: {"error":{"message":"Request failed during generation: no memory",'
        '"type":"server_error","param":null,"code":"generation"},"error_type":"generation"}'
    )


def test_before_the_first_token_a_failure_has_a_status_of_its_own(
    make_server: MakeServer,
) -> None:
    server = make_server(lambda submit: [])
    server.do(server.engine.die)
    server.call(server.client.wait_closed())
    response = httpx.post(server.url + CHAT, json={"messages": HI, "stream": True})
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"


def test_streams_of_valid_requests_hold_no_error(http: httpx.Client) -> None:
    response = http.post(CHAT, json={"messages": HI, "stream": True})
    assert all("error" not in chunk for chunk in sse_events(response))
    assert sse_data(response)[-1] == "[DONE]"
