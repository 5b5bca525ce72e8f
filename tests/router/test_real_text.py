"""The routes over the demo model's own tokenizer and template, with the engine still scripted."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import tgi_llamacpp
from tests.conftest import RunningServer, running_servers, sse_events
from tests.fake_engine import FakeToken
from tgi_llamacpp.messages import Finish, Submit
from tgi_llamacpp.router.chat import load_chat_template
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.services import TextTools
from tgi_llamacpp.router.tokenizer import LoadedTokenizer, TokenizerPool, load_tokenizer

DEMO = Path(tgi_llamacpp.__file__).parent / "demo"
ANSWER = "Zoë said: 日本 is far — 😀!\n\tThe end."


@pytest.fixture(scope="module")
def tokenizer() -> LoadedTokenizer:
    return load_tokenizer(read_metadata(DEMO / "demo.gguf"), folder=DEMO)


@pytest.fixture(scope="module")
def server(tokenizer: LoadedTokenizer) -> Iterator[RunningServer]:
    metadata = read_metadata(DEMO / "demo.gguf")
    pool = TokenizerPool(tokenizer, 1)
    eog = tokenizer.eos_id
    assert eog is not None
    answer = tokenizer.tokenizer.encode(ANSWER, add_special_tokens=False).ids

    def script(submit: Submit) -> list[FakeToken]:
        return [*map(FakeToken, answer), FakeToken(eog, finish=Finish.EOG)]

    text = TextTools(
        pool=pool,
        detokenizer=Detokenizer(tokenizer, extra_special_ids=[eog]),
        chat_template=load_chat_template(metadata, tokenizer, folder=DEMO),
    )
    with running_servers() as make:
        yield make(script, text=text)
    pool.close()


def test_streamed_tokens_add_up_to_the_text(server: RunningServer) -> None:
    response = httpx.post(f"{server.url}/generate_stream", json={"inputs": "Hi"}, timeout=20)
    events = sse_events(response)
    plain = [event["token"]["text"] for event in events if not event["token"]["special"]]
    assert "".join(plain) == events[-1]["generated_text"] == ANSWER
    assert not any("\ufffd" in text for text in plain)


def test_a_chat_is_rendered_and_answered(server: RunningServer, tokenizer: LoadedTokenizer) -> None:
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    body = {"messages": messages}
    chat = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=20).json()
    assert chat["choices"][0]["message"]["content"] == ANSWER
    templated = httpx.post(f"{server.url}/chat_tokenize", json=body, timeout=20).json()
    submit = [m for m in server.engine.received if isinstance(m, Submit)][-1]
    ids = np.frombuffer(submit.prompt_ids, np.int32).tolist()
    assert [token["id"] for token in templated["tokenize_response"]] == ids
    assert chat["usage"]["prompt_tokens"] == len(ids)
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=False) == templated["templated_text"]


def test_tokenize_cuts_the_input_into_its_bytes(server: RunningServer) -> None:
    text = "Hi 日本 😀"
    tokens = httpx.post(f"{server.url}/tokenize", json={"inputs": text}, timeout=20).json()
    spans = [(token["start"], token["stop"]) for token in tokens if token["stop"]]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text.encode())


def test_lone_surrogates_never_reach_the_tokenizer(server: RunningServer) -> None:
    response = httpx.post(
        f"{server.url}/generate",
        content=b'{"inputs":"\\ud800"}',
        headers={"content-type": "application/json"},
        timeout=20,
    )
    assert response.status_code == 400
