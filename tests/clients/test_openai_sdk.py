"""OpenAI's Python SDK against a running server: what it parses, and the errors that it raises."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.clients.conftest import Guarded
from tests.server_process import PATIENCE_S, ServerProcess, copy_of_demo_model

FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
PROMPT = "The capital of France is"
GREEDY: Any = {"model": "tgi", "temperature": 0}


def client_of(url: str, key: str = "-") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S)


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url) as client:
        yield client


class TestChat:
    def test_a_question_is_answered(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(messages=FRANCE, **GREEDY)
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
        assert choice.finish_reason == "stop"
        assert answer.id.startswith("chatcmpl-")
        assert answer.object == "chat.completion"
        assert answer.system_fingerprint
        assert answer.usage is not None
        total = answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer.usage.total_tokens == total > 13

    def test_content_may_come_in_parts_and_a_developer_may_speak(
        self, client: openai.OpenAI
    ) -> None:
        parts = [{"type": "text", "text": FRANCE[0]["content"]}]
        messages: Any = [
            {"role": "developer", "content": "You are a helpful assistant."},
            {"role": "user", "content": parts},
        ]
        answer = client.chat.completions.create(messages=messages, **GREEDY)
        assert answer.choices[0].message.content == ANSWER

    def test_n_gives_as_many_choices(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="tgi", messages=FRANCE, n=3, seed=1, max_completion_tokens=8
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert all(choice.message.content for choice in answer.choices)

    @pytest.mark.parametrize("stop", [" is", ["Paris", " is"]])
    def test_a_stop_string_ends_the_answer_and_is_not_in_it(
        self, client: openai.OpenAI, stop: Any
    ) -> None:
        answer = client.chat.completions.create(messages=FRANCE, stop=stop, **GREEDY)
        assert answer.choices[0].message.content == "The capital of France"
        assert answer.choices[0].finish_reason == "stop"

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_a_limit_ends_the_answer(self, client: openai.OpenAI, name: str) -> None:
        answer = client.chat.completions.create(messages=FRANCE, **{name: 3}, **GREEDY)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3

    def test_logprobs_spell_the_answer_with_the_best_token_first(
        self, client: openai.OpenAI
    ) -> None:
        answer = client.chat.completions.create(
            messages=FRANCE, logprobs=True, top_logprobs=3, **GREEDY
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        *tokens, end = logprobs.content
        assert "".join(token.token for token in tokens) == ANSWER
        assert bytes(b for token in tokens for b in token.bytes or []) == ANSWER.encode()
        assert end.token == "<|im_end|>"
        for token in tokens:
            tops = token.top_logprobs
            assert len(tops) == 3
            assert (tops[0].token, tops[0].logprob) == (token.token, token.logprob)
            assert sorted((top.logprob for top in tops), reverse=True) == [
                top.logprob for top in tops
            ]

    def test_a_seed_repeats_an_answer(self, exact_url: str) -> None:
        def drawn(client: openai.OpenAI, seed: int) -> str | None:
            answer = client.chat.completions.create(
                model="tgi",
                messages=[{"role": "user", "content": "Tell me a story."}],
                seed=seed,
                temperature=1.5,
                max_tokens=20,
            )
            return answer.choices[0].message.content

        with client_of(exact_url) as client:
            assert drawn(client, 7) == drawn(client, 7) != drawn(client, 8)

    def test_a_biased_token_is_banned(self, client: openai.OpenAI, url: str) -> None:
        first = ANSWER[0]
        spans = httpx.post(f"{url}/tokenize", json={"inputs": first}).json()
        answer = client.chat.completions.create(
            messages=FRANCE, logit_bias={str(span["id"]): -100 for span in spans}, **GREEDY
        )
        assert not (answer.choices[0].message.content or "").startswith(first)

    def test_samplers_of_llama_cpp_are_extra_fields(self, client: openai.OpenAI) -> None:
        extra = {"min_p": 1, "top_k": 0, "repeat_penalty": 1.0, "dry_multiplier": 0.5}
        answer = client.chat.completions.create(
            model="tgi", messages=FRANCE, temperature=1.5, seed=1, extra_body=extra
        )
        assert answer.choices[0].message.content == ANSWER

    def test_usage_tells_what_was_cached(self, client: openai.OpenAI) -> None:
        for _ in range(2):
            answer = client.chat.completions.create(messages=FRANCE, **GREEDY)
            assert answer.usage is not None
            details = answer.usage.prompt_tokens_details
            assert details is not None
        assert 0 < (details.cached_tokens or 0) < answer.usage.prompt_tokens

    def test_fields_of_openais_own_platform_do_no_harm(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            messages=FRANCE,
            top_p=1.0,
            presence_penalty=0.5,
            frequency_penalty=0.5,
            user="someone",
            store=False,
            metadata={"a": "b"},
            service_tier="auto",
            parallel_tool_calls=True,
            **GREEDY,
        )
        assert answer.choices[0].message.content == ANSWER

    def test_headers_tell_what_tgis_tell(self, client: openai.OpenAI) -> None:
        raw = client.chat.completions.with_raw_response.create(messages=FRANCE, **GREEDY)
        answer = raw.parse()
        assert answer.usage is not None
        assert int(raw.headers["x-prompt-tokens"]) == answer.usage.prompt_tokens
        assert int(raw.headers["x-generated-tokens"]) == answer.usage.completion_tokens


class TestChatStream:
    def test_chunks_add_up_to_the_answer(self, client: openai.OpenAI) -> None:
        chunks = list(client.chat.completions.create(messages=FRANCE, stream=True, **GREEDY))
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
        ends = [chunk.choices[0].finish_reason for chunk in chunks]
        assert ends == [None] * (len(chunks) - 1) + ["stop"]
        assert all(chunk.usage is None for chunk in chunks)

    def test_usage_comes_last_when_asked_for(self, client: openai.OpenAI) -> None:
        *_, last = client.chat.completions.create(
            messages=FRANCE, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
        whole = client.chat.completions.create(messages=FRANCE, **GREEDY)
        assert last.choices == []
        assert last.usage is not None
        assert whole.usage is not None
        assert last.usage.total_tokens == whole.usage.total_tokens

    def test_the_stream_helper_puts_the_answer_together(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(messages=FRANCE, logprobs=True, **GREEDY) as stream:
            done = [event.content for event in stream if event.type == "content.done"]
            final = stream.get_final_completion()
        assert done == [ANSWER]
        assert final.choices[0].message.content == ANSWER
        assert final.choices[0].finish_reason == "stop"

    def test_choices_are_told_apart_by_their_index(self, client: openai.OpenAI) -> None:
        texts = ["", ""]
        for chunk in client.chat.completions.create(messages=FRANCE, n=2, stream=True, **GREEDY):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == [ANSWER, ANSWER]

    def test_many_streams_of_the_async_client_run_at_once(self, url: str) -> None:
        async def answer(client: openai.AsyncOpenAI) -> str:
            stream = await client.chat.completions.create(messages=FRANCE, stream=True, **GREEDY)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def ask() -> list[str]:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client:
                return await asyncio.gather(*(answer(client) for _ in range(4)))

        assert asyncio.run(ask()) == [ANSWER] * 4

    def test_a_closed_stream_leaves_the_server_well(self, client: openai.OpenAI) -> None:
        with client.completions.create(
            model="tgi", prompt="a", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        ) as stream:
            assert next(iter(stream)).object == "text_completion"
        assert client.chat.completions.create(messages=FRANCE, **GREEDY).choices


class TestCompletions:
    def test_best_of_answers_with_n_and_counts_all(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(
            model="tgi", prompt=PROMPT, n=2, best_of=3, max_tokens=3, seed=1
        )
        assert len(answer.choices) == 2
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 6

    def test_a_wrong_type_is_blamed_on_its_field(self, client: openai.OpenAI) -> None:
        bad: Any = "many"
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.completions.create(model="tgi", prompt=PROMPT, max_tokens=bad)
        assert caught.value.param == "max_tokens"

    def test_a_prompt_is_gone_on_with(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(prompt=PROMPT, **GREEDY)
        assert answer.choices[0].text == " Paris."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.id.startswith("cmpl-")
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4

    def test_several_prompts_are_answered_in_their_order(self, client: openai.OpenAI) -> None:
        prompts = [PROMPT, "The opposite of big is"]
        answer = client.completions.create(prompt=prompts, echo=True, **GREEDY)
        assert [choice.text for choice in answer.choices] == [
            "The capital of France is Paris.",
            "The opposite of big is small.",
        ]

    def test_logprobs_name_tokens_alternatives_and_offsets(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(prompt=PROMPT, logprobs=2, **GREEDY)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens == [" P", "aris", ".", "<|endoftext|>"]
        assert logprobs.text_offset == [0, 2, 6, 7]
        assert logprobs.top_logprobs is not None
        assert [len(tops) for tops in logprobs.top_logprobs] == [2] * 4

    def test_echo_has_the_logprobs_of_the_prompt_as_harnesses_read_them(
        self, client: openai.OpenAI
    ) -> None:
        answer = client.completions.create(
            model="tgi", prompt=PROMPT + " Paris", logprobs=1, echo=True, max_tokens=0
        )
        (choice,) = answer.choices
        assert choice.text == PROMPT + " Paris"
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.tokens[-2:] == [" P", "aris"]
        assert choice.logprobs.token_logprobs[0] is None
        assert all(logprob > -1 for logprob in choice.logprobs.token_logprobs[-2:])

    def test_a_stream_adds_up_to_the_text(self, client: openai.OpenAI) -> None:
        stream = client.completions.create(
            prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
        *chunks, last = stream
        assert "".join(chunk.choices[0].text for chunk in chunks) == " Paris."
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.completion_tokens == 4


class TestModels:
    def test_they_are_listed_and_retrieved(self, client: openai.OpenAI) -> None:
        (model,) = client.models.list()
        assert model.object == "model"
        assert client.models.retrieve(model.id) == model

    def test_another_one_is_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("another")
        assert caught.value.code == "model_not_found"


class TestErrors:
    def test_a_bad_field_is_an_unprocessable_entity_that_names_it(
        self, client: openai.OpenAI
    ) -> None:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.chat.completions.create(messages=FRANCE, top_p=-1, model="tgi")
        assert isinstance(caught.value, openai.APIStatusError)
        assert caught.value.status_code == 422
        assert caught.value.param == "top_p"
        assert caught.value.type == "invalid_request_error"
        assert isinstance(caught.value.body, dict)
        assert "`top_p`" in caught.value.body["message"]

    def test_so_it_is_when_a_stream_is_asked_for(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.UnprocessableEntityError):
            client.chat.completions.create(messages=FRANCE, top_p=-1, model="tgi", stream=True)

    def test_a_prompt_that_is_too_long_says_so(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.completions.create(prompt="one two three " * 1000, model="tgi")
        assert caught.value.code == "context_length_exceeded"

    def test_a_full_server_is_a_rate_limit(self, busy: Guarded) -> None:
        with (
            client_of(busy.url, busy.key) as client,
            pytest.raises(openai.RateLimitError) as caught,
        ):
            client.chat.completions.create(messages=FRANCE, **GREEDY)
        assert caught.value.code == "rate_limit_exceeded"

    def test_a_wrong_key_is_an_authentication_error(self, busy: Guarded) -> None:
        with client_of(busy.url) as client, pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(messages=FRANCE, **GREEDY)
        assert caught.value.code == "invalid_api_key"

    def test_no_engine_any_more_is_an_error_in_the_stream_and_a_503_after_it(
        self, tmp_path: Path
    ) -> None:
        model = copy_of_demo_model(tmp_path)
        with (
            ServerProcess("serve", f"--model-id={tmp_path}", f"--model-gguf={model}") as process,
            client_of(process.url) as client,
        ):
            stream = client.completions.create(
                model="tgi",
                prompt="a",
                n=4,
                max_tokens=1500,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            assert next(iter(stream)).choices
            model.unlink()
            os.kill(process.engine_pid, signal.SIGKILL)
            with pytest.raises(openai.APIError) as caught:
                list(stream)
            assert not isinstance(caught.value, openai.APIConnectionError)
            with pytest.raises(openai.InternalServerError) as refused:
                client.chat.completions.create(messages=FRANCE, **GREEDY)
            assert refused.value.status_code == 503
