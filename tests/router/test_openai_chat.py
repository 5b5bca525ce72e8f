import re

import httpx
import numpy as np
import pytest

from tests.conftest import MakeServer, sse_data, sse_events
from tests.fake_engine import FakeToken
from tests.fake_text import EOS, FIRST_BYTE
from tgi_llamacpp import __version__
from tgi_llamacpp.messages import Abort, Finish, Submit
from tgi_llamacpp.router.sampling import sequence_seed

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


def _submits(server: object) -> list[Submit]:
    return [m for m in server.engine.received if isinstance(m, Submit)]


def test_a_chat_is_answered_with_one_message(http: httpx.Client) -> None:
    response = http.post(CHAT, json={"messages": HI})
    answer = response.json()
    assert list(answer) == [
        "object",
        "id",
        "created",
        "model",
        "system_fingerprint",
        "choices",
        "usage",
    ]
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", answer["id"])
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "org/model"
    assert answer["system_fingerprint"] == f"{__version__}-native"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": " love to code"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    num_prompt = len("[user]hi[assistant]")
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 4,
        "total_tokens": num_prompt + 4,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert response.headers["x-prompt-tokens"] == str(num_prompt)
    assert response.headers["x-compute-characters"] == str(num_prompt)


def test_a_rendered_chat_gets_no_special_tokens(make_server: MakeServer) -> None:
    server = make_server()
    httpx.post(server.url + CHAT, json={"messages": HI})
    ids = np.frombuffer(_submits(server)[0].prompt_ids, np.int32).tolist()
    assert "".join(map(chr, ids)) == "[user]hi[assistant]"


@pytest.mark.parametrize(
    ("changes", "prompt"),
    [
        ({}, "[user]hi[assistant]o[assistant]"),
        ({"continue_final_message": False}, "[user]hi[assistant]o[assistant]"),
        ({"add_generation_prompt": False}, "[user]hi[assistant]o"),
    ],
)
def test_a_last_message_of_the_assistant_is_continued(
    make_server: MakeServer, changes: dict[str, object], prompt: str
) -> None:
    messages = [*HI, {"role": "assistant", "content": "o"}]
    server = make_server()
    body = {"messages": messages, **changes}
    templated = httpx.post(f"{server.url}/chat_tokenize", json=body).json()["templated_text"]
    assert templated == ("[user]hi[assistant]o" if not changes else prompt)


def test_a_stream_begins_with_the_role_and_ends_with_why(http: httpx.Client) -> None:
    response = http.post(CHAT, json={"messages": HI, "stream": True})
    data = sse_data(response)
    assert data[-1] == "[DONE]"
    chunks = sse_events(response)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": " love"},
        {"content": " to"},
        {"content": " code"},
        {"content": ""},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 4 + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks)


def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(http: httpx.Client) -> None:
    body = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    chunks = sse_events(http.post(CHAT, json=body))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 5


def test_a_stop_string_is_cut_and_says_stop(make_server: MakeServer) -> None:
    server = make_server()
    for stop in ("ve to", ["x", "ve to"]):
        answer = httpx.post(server.url + CHAT, json={"messages": HI, "stop": stop}).json()
        assert answer["choices"][0]["message"]["content"] == " lo"
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == 2
    assert len(server.call(server.engine.wait_for(Abort, 2))) == 2
    body = {"messages": HI, "stop": "ve to", "stream": True}
    chunks = sse_events(httpx.post(server.url + CHAT, json=body))
    content = [c["choices"][0]["delta"].get("content", "") for c in chunks]
    assert content == ["", " lo", ""]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_length_says_length(http: httpx.Client, name: str) -> None:
    answer = http.post(CHAT, json={"messages": HI, name: 2}).json()
    assert answer["choices"][0]["message"]["content"] == " love to"
    assert answer["choices"][0]["finish_reason"] == "length"


def test_openais_parameters_have_openais_meaning(make_server: MakeServer) -> None:
    server = make_server()

    def params_of(**fields: object) -> object:
        response = httpx.post(server.url + CHAT, json={"messages": HI, **fields})
        assert response.status_code == 200, response.text
        return _submits(server)[-1].params

    assert params_of().temperature == 1.0
    greedy = params_of(temperature=0, top_p=0.5)
    assert greedy.temperature == 0.0
    assert params_of(top_p=1.0).top_p == 1.0
    assert params_of(top_p=0).top_k == 1
    penalties = params_of(presence_penalty=-1.5, frequency_penalty=0.5)
    assert penalties.presence_penalty == -1.5
    assert penalties.frequency_penalty == 0.5
    assert penalties.repetition_penalty == 1.0
    assert not penalties.penalize_prompt
    extended = params_of(top_k=7, typical_p=0.5, repetition_penalty=1.5)
    assert (extended.top_k, extended.typical_p, extended.repetition_penalty) == (7, 0.5, 1.5)
    assert params_of(seed=-1).seed == sequence_seed(2**64 - 1, 0)
    params_of(ignore_eos=True)
    assert _submits(server)[-1].ignore_eog


def test_nulls_mean_not_given(http: httpx.Client) -> None:
    names = "stream stream_options stop seed n logprobs temperature max_tokens tools user"
    response = http.post(CHAT, json={"messages": HI, **dict.fromkeys(names.split())})
    assert response.status_code == 200


def test_choices_differ_in_their_seed_and_share_the_prompt(make_server: MakeServer) -> None:
    server = make_server()
    body = {"messages": HI, "n": 3, "seed": 5}
    answer = httpx.post(server.url + CHAT, json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 12
    seeds = [submit.params.seed for submit in _submits(server)]
    assert seeds == [sequence_seed(5, choice) for choice in range(3)]
    chunks = sse_events(httpx.post(server.url + CHAT, json={**body, "stream": True}))
    for index in range(3):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == " love to code"
        assert mine[-1]["finish_reason"] == "stop"


def _with_tops(submit: Submit) -> list[FakeToken]:
    tops = [(5360, -0.5), (EOS, -1.5)][: submit.params.num_top_tokens]
    return [FakeToken(5360, -0.5, tops=tops), FakeToken(304, -0.25, Finish.LENGTH, tops)]


def test_logprobs_come_with_bytes_and_alternatives(make_server: MakeServer) -> None:
    server = make_server(_with_tops)
    love = {"token": " love", "logprob": -0.5, "bytes": [32, 108, 111, 118, 101]}
    end = {"token": "</s>", "logprob": -1.5, "bytes": [60, 47, 115, 62]}
    to = {"token": " to", "logprob": -0.25, "bytes": [32, 116, 111]}
    expected = [{**love, "top_logprobs": [love, end]}, {**to, "top_logprobs": [love, end]}]
    body = {"messages": HI, "logprobs": True, "top_logprobs": 2}
    answer = httpx.post(server.url + CHAT, json=body).json()
    assert answer["choices"][0]["logprobs"] == {"content": expected, "refusal": None}
    chunks = sse_events(httpx.post(server.url + CHAT, json={**body, "stream": True}))
    in_chunks = [c["choices"][0]["logprobs"] for c in chunks]
    assert [c["content"][0] for c in in_chunks if c] == expected
    plain = httpx.post(server.url + CHAT, json={"messages": HI, "logprobs": True}).json()
    assert plain["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def _emoji(submit: Submit) -> list[FakeToken]:
    ids = [FIRST_BYTE + byte for byte in "😀".encode()]
    return [*(FakeToken(i) for i in ids), FakeToken(EOS, finish=Finish.EOG)]


def _letter(submit: Submit) -> list[FakeToken]:
    """The first half of an é, in a place where its second half or all of it might stand."""
    tops = [(FIRST_BYTE + 0xC3, -0.5), (FIRST_BYTE + 0xA9, -1.5), (ord("é"), -2.5)]
    return [FakeToken(FIRST_BYTE + 0xC3, -0.5, Finish.LENGTH, tops)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_is_no_whole_character_has_its_bytes_for_a_name(
    make_server: MakeServer, stream: bool
) -> None:
    body = {"messages": HI, "logprobs": True, "top_logprobs": 3, "stream": stream}
    response = httpx.post(make_server(_letter).url + CHAT, json=body)
    answers = sse_events(response) if stream else [response.json()]
    logprobs = [answer["choices"][0]["logprobs"] for answer in answers]
    (token,) = [token for one in logprobs if one for token in one["content"]]
    assert (token["token"], token["bytes"]) == ("\\xc3", [0xC3])
    tops = [(top["token"], bytes(top["bytes"])) for top in token["top_logprobs"]]
    assert tops == [("\\xc3", b"\xc3"), ("\\xa9", b"\xa9"), ("é", "é".encode())]


def test_no_chunk_is_sent_for_a_token_that_shows_nothing(make_server: MakeServer) -> None:
    server = make_server(_emoji)
    response = httpx.post(server.url + CHAT, json={"messages": HI, "stream": True})
    deltas = [c["choices"][0]["delta"] for c in sse_events(response)]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "😀"}, {"content": ""}]


def test_the_clients_name_for_the_model_comes_back(http: httpx.Client) -> None:
    for sent, answered in (("gpt-4", "gpt-4"), ("tgi", "org/model"), (None, "org/model")):
        assert http.post(CHAT, json={"messages": HI, "model": sent}).json()["model"] == answered


def test_contents_may_be_chunks_and_tool_calls_may_stand_alone(http: httpx.Client) -> None:
    call = {"id": "0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "0", "content": "22", "name": "f"},
    ]
    assert http.post(CHAT, json={"messages": messages}).status_code == 200


def test_models_are_listed_and_retrieved(http: httpx.Client) -> None:
    card = {"id": "org/model", "object": "model", "created": 0, "owned_by": "org/model"}
    assert http.get("/v1/models").json() == {"object": "list", "data": [card]}
    assert http.get("/v1/models/org/model").json() == card
    missing = http.get("/v1/models/other/model")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_chat_tokenize_shows_the_prompt_and_its_tokens(http: httpx.Client) -> None:
    answer = http.post("/chat_tokenize", json={"messages": HI}).json()
    assert list(answer) == ["tokenize_response", "templated_text"]
    assert answer["templated_text"] == "[user]hi[assistant]"
    assert answer["tokenize_response"][0] == {"id": 91, "text": "[", "start": 0, "stop": 1}


def test_models_are_unavailable_when_no_engine_can_be_started(make_server: MakeServer) -> None:
    server = make_server()
    paths = ("/v1/models", "/v1/models/org/model")
    server.client.is_stalled = True  # another engine will come
    assert [httpx.get(server.url + path).status_code for path in paths] == [200, 200]
    server.do(lambda: server.client.give_up("The engine ended 5 times in a row"))
    for path in paths:
        response = httpx.get(server.url + path)
        assert response.status_code == 503
        assert response.json()["error"]["message"] == "The engine ended 5 times in a row"
        assert response.json()["error_type"] == "engine_unavailable"


def test_top_logprobs_alone_change_nothing(make_server: MakeServer) -> None:
    server = make_server()
    answer = httpx.post(server.url + CHAT, json={"messages": HI, "top_logprobs": 3}).json()
    assert answer["choices"][0]["logprobs"] is None
    assert _submits(server)[0].params.num_top_tokens == 0


def test_fields_without_effect_are_taken(http: httpx.Client) -> None:
    fields = {
        "user": "u",
        "metadata": {},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "x"},
        "tool_prompt": "Tools:",
        "something_new": [1],
    }
    assert http.post(CHAT, json={"messages": HI, **fields}).status_code == 200


def test_bytes_of_parts_of_a_character_add_up_to_it(make_server: MakeServer) -> None:
    server = make_server(_emoji)
    answer = httpx.post(server.url + CHAT, json={"messages": HI, "logprobs": True}).json()
    content = answer["choices"][0]["logprobs"]["content"]
    *parts, end = [bytes(item["bytes"]) for item in content]
    assert [len(part) for part in parts] == [1, 1, 1, 1]
    assert b"".join(parts).decode() == "😀"
    assert end == b"</s>"
