"""huggingface_hub's InferenceClient against a running server: text generation and chat."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import (
    HfHubHTTPError,
    OverloadedError,
    TextGenerationError,
    ValidationError,
)

from tests.clients.conftest import Guarded
from tests.server_process import PATIENCE_S, ServerProcess, copy_of_demo_model

PROMPT = "The capital of France is"
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
TOKENS = [" P", "aris", ".", "<|endoftext|>"]


@pytest.fixture
def client(url: str) -> InferenceClient:
    return InferenceClient(base_url=url, timeout=PATIENCE_S)


class TestTextGeneration:
    def test_a_prompt_is_gone_on_with(self, client: InferenceClient) -> None:
        answer = client.text_generation(PROMPT, max_new_tokens=8, return_full_text=False)
        assert answer == " Paris."

    def test_the_prompt_is_in_the_text_unless_it_is_not_wanted_as_in_tgi(
        self, client: InferenceClient
    ) -> None:
        assert client.text_generation(PROMPT, max_new_tokens=8) == PROMPT + " Paris."

    def test_details_hold_the_tokens(self, client: InferenceClient) -> None:
        answer = client.text_generation(PROMPT, max_new_tokens=8, details=True)
        details = answer.details
        assert details is not None
        assert [token.text for token in details.tokens] == TOKENS
        assert [token.special for token in details.tokens] == [False, False, False, True]
        assert all(token.logprob <= 0 for token in details.tokens)
        assert (details.finish_reason, details.generated_tokens) == ("eos_token", 4)
        assert details.seed is None

    def test_a_stream_gives_the_text_of_each_token(self, client: InferenceClient) -> None:
        assert list(client.text_generation(PROMPT, max_new_tokens=8, stream=True)) == TOKENS

    def test_a_stream_with_details_ends_with_the_whole(self, client: InferenceClient) -> None:
        *tokens, last = client.text_generation(
            PROMPT, max_new_tokens=8, stream=True, details=True, return_full_text=False
        )
        assert [output.token.text for output in (*tokens, last)] == TOKENS
        assert all(output.generated_text is None for output in tokens)
        assert last.generated_text == " Paris."
        assert last.details is not None
        assert (last.details.finish_reason, last.details.generated_tokens) == ("eos_token", 4)
        assert last.details.input_length > 0

    def test_a_stop_string_ends_it(self, client: InferenceClient) -> None:
        answer = client.text_generation(PROMPT, stop=["aris"], details=True, max_new_tokens=8)
        assert answer.generated_text.endswith("Paris")
        assert answer.details is not None
        assert answer.details.finish_reason == "stop_sequence"

    def test_best_of_shows_the_other_candidates_and_alternatives(
        self, client: InferenceClient
    ) -> None:
        answer = client.text_generation(
            PROMPT, best_of=2, do_sample=True, top_n_tokens=2, details=True, max_new_tokens=4
        )
        assert answer.details is not None
        assert answer.details.best_of_sequences is not None
        assert len(answer.details.best_of_sequences) == 1
        assert answer.details.top_tokens is not None
        assert [len(tops) for tops in answer.details.top_tokens] == [2] * len(answer.details.tokens)

    def test_every_sampling_parameter_is_taken(self, client: InferenceClient) -> None:
        answer = client.text_generation(
            PROMPT,
            do_sample=True,
            seed=5,
            temperature=0.5,
            top_k=10,
            top_p=0.9,
            typical_p=0.95,
            repetition_penalty=1.1,
            frequency_penalty=0.1,
            truncate=100,
            max_new_tokens=4,
            details=True,
        )
        assert answer.details is not None
        assert answer.details.seed == 5

    def test_a_refused_parameter_is_a_validation_error(self, client: InferenceClient) -> None:
        with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
            client.text_generation(PROMPT, temperature=-1.0)

    def test_a_full_server_is_overloaded(self, busy: Guarded) -> None:
        client = InferenceClient(base_url=busy.url, token=busy.key, timeout=PATIENCE_S)
        with pytest.raises(OverloadedError):
            client.text_generation(PROMPT)

    def test_an_engine_that_dies_is_a_pause_in_the_stream(self) -> None:
        with ServerProcess("demo") as process:
            client = InferenceClient(base_url=process.url, timeout=PATIENCE_S)
            os.kill(process.engine_pid, signal.SIGSTOP)
            stream = client.text_generation(PROMPT, max_new_tokens=8, stream=True)
            os.kill(process.engine_pid, signal.SIGKILL)
            assert list(stream) == TOKENS

    def test_an_engine_that_cannot_be_replaced_is_an_error_in_the_stream(
        self, tmp_path: Path
    ) -> None:
        model = copy_of_demo_model(tmp_path)
        with ServerProcess("serve", f"--model-id={tmp_path}", f"--model-gguf={model}") as process:
            client = InferenceClient(base_url=process.url, timeout=PATIENCE_S)
            os.kill(process.engine_pid, signal.SIGSTOP)
            stream = client.text_generation(PROMPT, max_new_tokens=8, stream=True)
            model.unlink()
            os.kill(process.engine_pid, signal.SIGKILL)
            with pytest.raises(TextGenerationError, match="Failed to load model"):
                list(stream)

    def test_the_async_client_streams_too(self, url: str) -> None:
        async def tokens() -> list[str]:
            async with AsyncInferenceClient(base_url=url, timeout=PATIENCE_S) as client:
                stream = await client.text_generation(PROMPT, max_new_tokens=8, stream=True)
                return [text async for text in stream]

        assert asyncio.run(tokens()) == TOKENS


class TestChat:
    def test_a_question_is_answered(self, client: InferenceClient) -> None:
        answer = client.chat_completion(FRANCE, temperature=0, max_tokens=32)
        assert answer.choices[0].message.content == ANSWER
        assert answer.choices[0].finish_reason == "stop"
        usage = answer.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    def test_a_stream_adds_up_to_the_answer(self, client: InferenceClient) -> None:
        *chunks, last = client.chat_completion(
            FRANCE,
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == 13

    def test_logprobs_and_a_stop_string(self, client: InferenceClient) -> None:
        answer = client.chat_completion(
            FRANCE, temperature=0, stop=[" is"], logprobs=True, top_logprobs=2
        )
        assert answer.choices[0].message.content == "The capital of France"
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert [len(token.top_logprobs) for token in logprobs.content] == [2] * len(
            logprobs.content
        )

    def test_a_refused_field_is_an_http_error_with_the_message(
        self, client: InferenceClient
    ) -> None:
        with pytest.raises(HfHubHTTPError, match="`top_p`") as caught:
            client.chat_completion(FRANCE, top_p=-1.0)
        assert caught.value.response.status_code == 422

    def test_a_base_url_with_v1_works_too(self, url: str) -> None:
        client = InferenceClient(base_url=f"{url}/v1/", timeout=PATIENCE_S)
        answer = client.chat.completions.create(messages=FRANCE, model="tgi", temperature=0)
        assert answer.choices[0].message.content == ANSWER
