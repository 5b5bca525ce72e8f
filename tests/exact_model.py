"""A model with which texts are equal to the last bit, whatever shares a step.

llama.cpp's fast kernels, which the demo model's Q8_0 weights run through, round by the number of
rows: a token that is decoded beside others, or read as part of a prompt, gets logits that differ in
their last bits from those that it gets alone. For Q5_1 its CPU code has no such kernels, so the
copy that is written here gives equal bits, if the KV cache is of bf16 too (`EXACT_KV`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf

import tgi_llamacpp

EXACT_KV = ("--type-k=bf16", "--type-v=bf16")
_DEMO = Path(tgi_llamacpp.__file__).parent / "demo"
_TYPE = gguf.GGMLQuantizationType.Q5_1
_SET_BY_THE_WRITER = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")


def write_exact_model(folder: Path) -> Path:
    """The demo model in Q5_1, in `folder`, with its tokenizer beside it; the path of the GGUF."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _DEMO.glob("*.json"):
        shutil.copy(path, folder)
    source = gguf.GGUFReader(_DEMO / "demo.gguf")
    target = folder / "demo.gguf"
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in source.fields.items():
        if name not in _SET_BY_THE_WRITER:
            kind, *_, inner = (*field.types, field.types[-1])
            is_list = kind is gguf.GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), kind, inner if is_list else None)
    for tensor in source.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quantize(values, _TYPE), raw_dtype=_TYPE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
