"""TGI's own Python client (`text-generation`) against the server at argv[1]; any failure ends it.

Its chat streams are left out: it cannot read those of any server, because it does not know [DONE].
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from text_generation import AsyncClient, Client
from text_generation.errors import OverloadedError, ValidationError

PROMPT = "The capital of France is"
TOKENS = [" P", "aris", ".", "<|endoftext|>"]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def generate(client: Client) -> None:
    answer = client.generate(PROMPT, max_new_tokens=8)
    assert answer.generated_text == " Paris."
    assert [token.text for token in answer.details.tokens] == TOKENS
    assert (answer.details.finish_reason, answer.details.generated_tokens) == ("eos_token", 4)
    assert client.generate(PROMPT, return_full_text=True).generated_text == PROMPT + " Paris."


def generate_stream(client: Client) -> None:
    *tokens, last = client.generate_stream(PROMPT, max_new_tokens=8)
    assert [response.token.text for response in (*tokens, last)] == TOKENS
    assert last.generated_text == " Paris."
    assert last.details.finish_reason == "eos_token"


def best_of_and_alternatives(client: Client) -> None:
    answer = client.generate(PROMPT, do_sample=True, best_of=2, top_n_tokens=3, max_new_tokens=4)
    assert len(answer.details.best_of_sequences) == 1
    assert all(len(tops) == 3 for tops in answer.details.top_tokens)


def every_sampling_parameter(client: Client) -> None:
    answer = client.generate(
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
        stop_sequences=["xyz"],
        max_new_tokens=4,
    )
    assert answer.details.seed == 5


def chat(client: Client) -> None:
    answer = client.chat(MESSAGES, max_tokens=32, temperature=0.0)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"


def errors_of_the_server(client: Client) -> None:
    for call in (
        lambda: client.generate("one two three " * 1000),
        lambda: list(client.generate_stream("one two three " * 1000)),
        lambda: client.chat(MESSAGES, temperature=0.5, top_p=-1.0),
    ):
        assert "Input validation error" in str(caught(ValidationError, call))


def caught(kind: type[Exception], call: Callable[[], object]) -> Exception:
    """The error that a call raises, which must be of that kind."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


async def async_client(url: str) -> None:
    client = AsyncClient(url)
    assert (await client.generate(PROMPT, max_new_tokens=8)).generated_text == " Paris."
    stream = client.generate_stream(PROMPT, max_new_tokens=8)
    assert [response.token.text async for response in stream] == TOKENS


def main() -> None:
    url, busy_url, key = sys.argv[1:]
    client = Client(url)
    generate(client)
    generate_stream(client)
    best_of_and_alternatives(client)
    every_sampling_parameter(client)
    chat(client)
    errors_of_the_server(client)
    busy = Client(busy_url, headers={"Authorization": f"Bearer {key}"})
    caught(OverloadedError, lambda: busy.generate(PROMPT))
    asyncio.run(async_client(url))


if __name__ == "__main__":
    main()
