"""langchain-openai and litellm against the server at argv[1]; any failure ends it."""

from __future__ import annotations

import sys

import litellm
from langchain_openai import ChatOpenAI, OpenAI
from openai import RateLimitError, UnprocessableEntityError

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
MESSAGES = [{"role": "user", "content": QUESTION}]


def langchain_chat(url: str) -> None:
    model = ChatOpenAI(
        base_url=f"{url}/v1", api_key="-", model="tgi", temperature=0, stream_usage=True
    )
    answer = model.invoke(QUESTION)
    assert answer.content == ANSWER
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] == 13
    first, *rest = model.stream(QUESTION)
    for chunk in rest:
        first += chunk
    assert first.content == ANSWER
    assert first.response_metadata["finish_reason"] == "stop"
    assert first.usage_metadata["output_tokens"] == 13
    assert [a.content for a in model.batch([QUESTION] * 3)] == [ANSWER] * 3
    assert model.bind(stop=[" is"]).invoke(QUESTION).content == "The capital of France"
    logprobs = model.bind(logprobs=True).invoke(QUESTION).response_metadata["logprobs"]
    assert "".join(token["token"] for token in logprobs["content"][:-1]) == ANSWER


def langchain_completion(url: str) -> None:
    model = OpenAI(base_url=f"{url}/v1", api_key="-", model="tgi", temperature=0, max_tokens=8)
    assert model.invoke("The capital of France is") == " Paris."
    assert "".join(model.stream("The capital of France is")) == " Paris."
    generations = model.generate(["The capital of France is", "The opposite of big is"])
    assert [texts[0].text for texts in generations.generations] == [" Paris.", " small."]


def langchain_errors(url: str, busy_url: str, key: str) -> None:
    for base, api_key, temperature, expected in (
        (url, "-", -1.0, UnprocessableEntityError),
        (busy_url, key, 0.0, RateLimitError),
    ):
        model = ChatOpenAI(
            base_url=f"{base}/v1",
            api_key=api_key,
            model="tgi",
            temperature=temperature,
            max_retries=0,
        )
        try:
            model.invoke(QUESTION)
        except expected:
            continue
        raise AssertionError(f"no {expected.__name__}")


def litellm_chat(url: str) -> None:
    for provider, base in (("openai", f"{url}/v1"), ("huggingface", url)):
        call = {
            "model": f"{provider}/tgi",
            "api_base": base,
            "api_key": "-",
            "messages": MESSAGES,
            "temperature": 0,
            "max_tokens": 32,
        }
        answer = litellm.completion(**call)
        assert answer.choices[0].message.content == ANSWER
        assert answer.usage.completion_tokens == 13
        chunks = list(litellm.completion(**call, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
        assert chunks[-1].choices[0].finish_reason == "stop"


def litellm_completion(url: str) -> None:
    answer = litellm.text_completion(
        model="text-completion-openai/tgi",
        api_base=f"{url}/v1",
        api_key="-",
        prompt="The capital of France is",
        temperature=0,
        max_tokens=8,
    )
    assert answer.choices[0].text == " Paris."


def litellm_errors(url: str, busy_url: str, key: str) -> None:
    for base, api_key, temperature, expected in (
        (url, "-", -1, litellm.BadRequestError),  # its name for every invalid_request_error
        (busy_url, key, 0, litellm.RateLimitError),
        (busy_url, "-", 0, litellm.AuthenticationError),
    ):
        try:
            litellm.completion(
                model="openai/tgi",
                api_base=f"{base}/v1",
                api_key=api_key,
                messages=MESSAGES,
                temperature=temperature,
                max_retries=0,
            )
        except expected:
            continue
        raise AssertionError(f"no {expected.__name__}")


def main() -> None:
    url, busy_url, key = sys.argv[1:]
    langchain_chat(url)
    langchain_completion(url)
    langchain_errors(url, busy_url, key)
    litellm_chat(url)
    litellm_completion(url)
    litellm_errors(url, busy_url, key)


if __name__ == "__main__":
    main()
