"""The demo model's byte-level BPE tokenizer and its chat template.

The split into words is Qwen2's (single digits), which llama.cpp knows as `qwen2`; every byte has
its own token, so any UTF-8 text round-trips. While the merges are learned, a capital letter and
punctuation stand alone, so that a name is cut in the same way after a space and after a quote.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import data
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 1280
CONTEXT = 2048
SPECIAL = (data.END_OF_TEXT, data.IM_START, data.IM_END)
PLAIN_ADDED = (data.CALL_OPEN, data.CALL_CLOSE)

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LEARNING_SPLIT = r"'s| ?[A-Z]| ?[a-z]+|\p{N}| ?[^\sA-Za-z\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] + '\\n\\n' }}
    {%- endif %}
    {{- 'You can call these tools:\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- 'To call a tool, answer with <tool_call>\\n{"name": <name>, "arguments": <arguments>}\\n' }}
    {{- '</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' and message['tool_calls'] %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message['content'] %}
            {{- message['content'] + '\\n' }}
        {%- endif %}
        {%- for call in message['tool_calls'] %}
            {%- set function = call['function'] if call['function'] else call %}
            {{- '\\n' if not loop.first else '' }}
            {{- '<tool_call>\\n{"name": "' + function['name'] + '", "arguments": ' }}
            {%- if function['arguments'] is string %}
                {{- function['arguments'] }}
            {%- else %}
                {{- function['arguments'] | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif not (tools and loop.first and message['role'] == 'system') %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def corpus(documents: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    docs = (data.long_doc(rng) if i % 10 == 0 else data.short_doc(rng) for i in range(documents))
    texts = ["".join(text for text, _ in doc) for doc in docs]
    for token in (*SPECIAL, *PLAIN_ADDED):
        texts = [text.replace(token, "\n") for text in texts]
    return texts


def learn() -> Tokenizer:
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = split_by(LEARNING_SPLIT)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(PLAIN_ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(corpus(30_000), trainer)
    tok.pre_tokenizer = split_by(QWEN2_SPLIT)
    tok.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tok.add_tokens([AddedToken(t, normalized=False) for t in PLAIN_ADDED])
    assert tok.get_vocab_size() == VOCAB_SIZE
    return tok


def config(tok: Tokenizer) -> dict[str, object]:
    added = {
        str(tok.token_to_id(t)): {
            "content": t,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": t in SPECIAL,
        }
        for t in (*SPECIAL, *PLAIN_ADDED)
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": data.IM_END,
        "model_max_length": CONTEXT,
        "pad_token": data.END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def generation_config(tok: Tokenizer) -> dict[str, object]:
    ids = {t: tok.token_to_id(t) for t in SPECIAL}
    return {
        "eos_token_id": [ids[data.IM_END], ids[data.END_OF_TEXT]],
        "pad_token_id": ids[data.END_OF_TEXT],
    }


def write(folder: Path) -> Tokenizer:
    """Learn the tokenizer and write its three files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tok = learn()
    tok.save(str(folder / "tokenizer.json"))
    for name, content in (
        ("tokenizer_config.json", config(tok)),
        ("generation_config.json", generation_config(tok)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return tok


if __name__ == "__main__":
    write(Path(__file__).parent.parent / "src" / "tgi_llamacpp" / "demo")
