"""Score the demo model on held-out items by greedy decoding: `data.py` says what is right.

With `--checkpoint` PyTorch decodes, from a checkpoint or a GGUF file; with `--url` a running server
does: `/generate` of TGI's API, or llama.cpp's own `/completion` with `--native`.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import data
import torch
from export import DEMO
from model import Model, load
from tokenizers import Tokenizer

Answer = tuple[str, bool]
Decode = Callable[[list[str]], list[Answer]]
MAX_NEW = 256


def prompt_text(item: data.Item) -> str:
    text = "".join(part for part, _ in data.chat(item.messages, item.tools))
    return f"{text}{data.IM_START}assistant\n"


def post(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        answer: dict[str, object] = json.load(reply)
        return answer


def by_tgi(url: str) -> Decode:
    def one(prompt: str) -> Answer:
        parameters = {"max_new_tokens": MAX_NEW, "details": True}
        reply = post(f"{url}/generate", {"inputs": prompt, "parameters": parameters})
        details = reply["details"]
        assert isinstance(details, dict)
        return str(reply["generated_text"]), details["finish_reason"] == "eos_token"

    return lambda prompts: [one(p) for p in prompts]


def by_llama_server(url: str) -> Decode:
    def one(prompt: str) -> Answer:
        reply = post(
            f"{url}/completion",
            {
                "prompt": prompt,
                "n_predict": MAX_NEW,
                "temperature": 0,
                "top_k": 1,
                "cache_prompt": False,
            },
        )
        return str(reply["content"]), reply["stop_type"] == "eos"

    return lambda prompts: [one(p) for p in prompts]


def by_torch(model: Model) -> Decode:
    tok = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    ends = {tok.token_to_id(data.IM_END), tok.token_to_id(data.END_OF_TEXT)}

    def some(prompts: list[str]) -> list[Answer]:
        """All prompts at once, each padded on its right."""
        rows = [tok.encode(p).ids for p in prompts]
        starts = [len(row) for row in rows]
        open_rows = set(range(len(rows)))
        for _ in range(MAX_NEW):
            active = sorted(open_rows)
            longest = max(len(rows[i]) for i in active)
            tokens = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in active])
            last = torch.tensor([len(rows[i]) - 1 for i in active])
            hidden = model.hidden(tokens)[torch.arange(len(active)), last]
            for i, token in zip(active, model.token_embd(hidden).argmax(-1).tolist(), strict=True):
                rows[i].append(token)
                if token in ends:
                    open_rows.discard(i)
            if not open_rows:
                break
        return [
            (tok.decode(row[start:]), i not in open_rows)
            for i, (row, start) in enumerate(zip(rows, starts, strict=True))
        ]

    def decode(prompts: list[str]) -> list[Answer]:
        with torch.inference_mode():
            return [a for i in range(0, len(prompts), 32) for a in some(prompts[i : i + 32])]

    return decode


def score(decode: Decode, per_category: int, show: int) -> None:
    items = data.held_out_items(per_category)
    total = 0
    for category in data.CATEGORIES:
        group = [item for item in items if item.category == category]
        start = time.monotonic()
        answers = decode([prompt_text(item) for item in group])
        wrong = [
            (item, text)
            for item, (text, ended) in zip(group, answers, strict=True)
            if not data.is_right(item, text, ended)
        ]
        total += len(group) - len(wrong)
        share = 100 * (1 - len(wrong) / len(group))
        print(
            f"{category:<17} {share:5.1f} %  ({len(group) - len(wrong)} of {len(group)}, "
            f"{time.monotonic() - start:.0f} s)",
            flush=True,
        )
        for item, text in wrong[:show]:
            print(
                f"    {item.messages[-1]['content']!r}\n        gave {text!r}"
                f"\n        want {item.want or item.needed!r}"
            )
    print(f"{'all':<17} {100 * total / len(items):5.1f} %  ({total} of {len(items)})")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    where = args.add_mutually_exclusive_group(required=True)
    where.add_argument("--checkpoint", type=Path)
    where.add_argument("--url", help="for example http://127.0.0.1:3000")
    args.add_argument("--native", action="store_true", help="the URL is llama.cpp's own server")
    args.add_argument("--items", type=int, default=200, help="how many for each category")
    args.add_argument("--show", type=int, default=0, help="how many wrong answers to print")
    options = args.parse_args()
    if options.url:
        decode = (by_llama_server if options.native else by_tgi)(options.url)
    else:
        decode = by_torch(load(options.checkpoint))
    score(decode, options.items, options.show)


if __name__ == "__main__":
    main()
