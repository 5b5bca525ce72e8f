"""The requests that TGI's documentation shows, sent as it shows them, to our host."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from typing import Any

import openai
import pytest
import requests
from huggingface_hub import AsyncInferenceClient, InferenceClient

from tests.server_process import PATIENCE_S

LEARNING = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is deep learning?"},
]
COUNT = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Count to 10"},
]
GENERATE = {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 20}}
AS_JSON = "Content-Type: application/json"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")


def curl(url: str, body: object, *options: str) -> str:
    """What curl prints; it must end well."""
    command = ["curl", "-sS", "--fail", *options, url.removeprefix("http://")]
    command += ["-X", "POST", "-d", json.dumps(body, indent=2), "-H", AS_JSON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return done.stdout


def data_of(events: str) -> list[str]:
    return [line.removeprefix("data:").strip() for line in events.splitlines() if line]


@needs_curl
class TestCurl:
    def test_a_chat_is_streamed(self, url: str) -> None:
        body = {"model": "tgi", "messages": LEARNING, "stream": True, "max_tokens": 20}
        *chunks, done = data_of(curl(f"{url}/v1/chat/completions", body, "-N"))
        assert done == "[DONE]"
        choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
        assert "".join(choice["delta"]["content"] for choice in choices)
        assert choices[-1]["finish_reason"] in ("stop", "length")

    def test_a_prompt_is_gone_on_with(self, url: str) -> None:
        answer = json.loads(curl(f"{url}/generate", GENERATE))
        assert answer == {"generated_text": answer["generated_text"]}
        assert answer["generated_text"]

    def test_a_prompt_is_streamed(self, url: str) -> None:
        *tokens, last = map(json.loads, data_of(curl(f"{url}/generate_stream", GENERATE, "-N")))
        assert all(token["generated_text"] is None for token in tokens)
        whole = json.loads(curl(f"{url}/generate", GENERATE))
        assert last["generated_text"] == whole["generated_text"]


class TestPython:
    def test_requests_gets_the_text(self, url: str) -> None:
        headers = {"Content-Type": "application/json"}
        response = requests.post(
            f"{url}/generate", headers=headers, json=GENERATE, timeout=PATIENCE_S
        )
        assert list(response.json()) == ["generated_text"]

    @pytest.mark.parametrize("base", ["/v1/", "/v1"])
    def test_the_openai_client_streams_and_does_not(self, url: str, base: str) -> None:
        with openai.OpenAI(base_url=url + base, api_key="-") as client:
            create = client.chat.completions.create
            chunks = list(create(model="tgi", messages=LEARNING, stream=True))
            answer = create(model="tgi", messages=LEARNING, stream=False)
        assert all(chunk.choices[0].delta for chunk in chunks)
        assert answer.choices[0].message.content

    @pytest.mark.parametrize(("base", "model"), [("/v1/", "tgi"), ("", None)])
    def test_the_inference_client_prints_chunk_after_chunk(
        self, url: str, base: str, model: str | None
    ) -> None:
        client = InferenceClient(base_url=url + base, timeout=PATIENCE_S)
        named: Any = {} if model is None else {"model": model}
        output = client.chat.completions.create(
            messages=COUNT, stream=True, max_tokens=1024, **named
        )
        contents = [chunk.choices[0].delta.content for chunk in output]
        assert all(isinstance(content, str) for content in contents)
        assert "".join(contents).startswith("1")

    def test_the_async_inference_client_prints_chunk_after_chunk(self, url: str) -> None:
        async def content() -> str:
            async with AsyncInferenceClient(base_url=url, timeout=PATIENCE_S) as client:
                stream = await client.chat.completions.create(
                    messages=[{"role": "user", "content": "Say this is a test"}], stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert asyncio.run(content())

    def test_a_chat_interface_adds_every_chunk_to_the_message(self, url: str) -> None:
        client = InferenceClient(base_url=url, timeout=PATIENCE_S)
        message = ""
        for chunk in client.chat.completions.create(
            messages=[COUNT[0], {"role": "user", "content": "Are tomatoes vegetables?"}],
            stream=True,
            max_tokens=1024,
        ):
            message += chunk.choices[0].delta.content  # must be a string in every one
        assert message

    def test_the_inference_client_streams_a_prompts_tokens(self, url: str) -> None:
        client = InferenceClient(url, timeout=PATIENCE_S)
        prompt = "How do you make cheese?"
        tokens = list(client.text_generation(prompt, max_new_tokens=12, stream=True))
        *_, last = client.text_generation(prompt, max_new_tokens=12, details=True, stream=True)
        assert all(isinstance(token, str) for token in tokens)
        assert last.details is not None
        assert last.details.generated_tokens == len(tokens)


@needs_node
class TestJavaScript:
    def test_fetch_gets_the_text(self, url: str) -> None:
        program = f"""
            const response = await fetch({json.dumps(url + "/generate")}, {{
                method: 'POST',
                headers: {{ 'Content-Type': 'application/json' }},
                body: JSON.stringify({json.dumps(GENERATE)}),
            }});
            console.log(JSON.stringify(await response.json()));
        """
        command = ["node", "--input-type=module", "--eval", program]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        assert list(json.loads(done.stdout)) == ["generated_text"]
