"""Write the demo model as GGUF: matrices in Q8_0, norms in F32, the tokenizer and the template.

Q8_0 because llama.cpp has its fast kernels for it, as for the types that most people's models have:
what the demo runs through is what they run through.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import data
import gguf
import jinja2
from model import Model, Shape, load
from tokenizer import CHAT_TEMPLATE, PLAIN_ADDED, SPECIAL
from tokenizers import Tokenizer

DEMO = Path(__file__).parent.parent / "src" / "tgi_llamacpp" / "demo"


def check_template() -> None:
    """The training text must be what the template renders."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    template = environment.from_string(CHAT_TEMPLATE)
    rng = random.Random(3)
    for _ in range(300):
        messages, tools, call = data.weather_turns(rng)
        messages = data.system_message(rng) + messages + data.tool_result(rng, call)
        want = "".join(text for text, _ in data.chat(messages, tools))
        assert template.render(messages=messages, tools=tools) == want
        for m in messages:
            if data.CALL_OPEN in m["content"]:
                m.update(content="", tool_calls=[{"type": "function", "function": call}])
        assert template.render(messages=messages, tools=tools) == want


def add_metadata(out: gguf.GGUFWriter, s: Shape) -> None:
    out.add_name("tgi-llamacpp demo")
    out.add_description("A small trained chat model for tests: sums, capitals, JSON, stories")
    out.add_license("apache-2.0")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_vocab_size(s.vocab)
    out.add_context_length(s.context)
    out.add_embedding_length(s.width)
    out.add_block_count(s.layers)
    out.add_feed_forward_length(s.ffn)
    out.add_head_count(s.heads)
    out.add_head_count_kv(s.kv_heads)
    out.add_key_length(s.head_dim)
    out.add_value_length(s.head_dim)
    out.add_rope_dimension_count(s.head_dim)
    out.add_rope_freq_base(s.rope_base)
    out.add_layer_norm_rms_eps(s.norm_eps)


def add_tokenizer(out: gguf.GGUFWriter, folder: Path) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    ids: dict[str, int] = spec["model"]["vocab"] | {
        t["content"]: t["id"] for t in spec["added_tokens"]
    }
    tokens = sorted(ids, key=lambda t: ids[t])
    kinds = dict.fromkeys(SPECIAL, gguf.TokenType.CONTROL)
    kinds |= dict.fromkeys(PLAIN_ADDED, gguf.TokenType.USER_DEFINED)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens)
    out.add_token_types([kinds.get(t, gguf.TokenType.NORMAL) for t in tokens])
    merges = spec["model"]["merges"]
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    out.add_bos_token_id(ids[data.END_OF_TEXT])
    out.add_eos_token_id(ids[data.IM_END])
    out.add_eot_token_id(ids[data.IM_END])
    out.add_pad_token_id(ids[data.END_OF_TEXT])
    out.add_add_bos_token(False)
    out.add_chat_template(CHAT_TEMPLATE)


def export(model: Model, path: Path, folder: Path = DEMO) -> None:
    check_template()
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() == model.shape.vocab
    out = gguf.GGUFWriter(path, "llama")
    add_metadata(out, model.shape)
    add_tokenizer(out, folder)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if values.ndim == 1:
            out.add_tensor(name, values)
        else:
            key = name if name.endswith(".weight") else f"{name}.weight"
            out.add_tensor(key, gguf.quantize(values, kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--checkpoint", type=Path, help="what train.py wrote; none: random weights")
    args.add_argument("--out", type=Path, default=DEMO / "demo.gguf")
    options = args.parse_args()
    export(load(options.checkpoint), options.out)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
