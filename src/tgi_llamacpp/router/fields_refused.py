"""Fields of other servers that the OpenAI routes refuse by name, and their neutral values.

Owns which values of such a field are neutral; docs/compat.md lists the same fields, and a test
compares the two. Put together in router/schemas_openai.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from tgi_llamacpp.router.json_format import dumps
from tgi_llamacpp.router.json_reader import JsonReader
from tgi_llamacpp.router.shapes import Anything, Definitions, Schema

_EMPTY: tuple[object, ...] = (None, False, 0, "", [], {})


class Refused:
    """Any value; None where it asks for nothing but what happens anyway.

    neutral: values that do. takes_empty: false, 0, and empty texts, lists and objects do too.
    """

    _anything = Anything()

    def __init__(self, *neutral: object, takes_empty: bool = True) -> None:
        self._named = neutral
        self._neutral = (*neutral, *(_EMPTY if takes_empty else (None,)))

    @property
    def remedy(self) -> str:
        """What a client can send instead."""
        values = " or ".join(dumps(value) for value in self._named)
        return "leave it out" + (f", or send {values}" if values else "")

    def convert(self, value: object) -> object:
        return self._unless_neutral(self._anything.convert(value))

    def read(self, reader: JsonReader) -> object:
        return self._unless_neutral(reader.read_value())

    def schema(self, definitions: Definitions) -> Schema:
        return {"description": f"Not supported: {self.remedy}.", "enum": list(self._neutral)}

    def _unless_neutral(self, value: object) -> object:
        return None if any(_is_same(value, one) for one in self._neutral) else value


def _is_same(value: object, other: object) -> bool:
    """Equal as JSON: false is not 0, while 1.0 is 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


REFUSED: Mapping[str, Refused] = {
    # TGI
    "grammar": Refused(),
    "adapter_id": Refused(),
    "watermark": Refused(),
    # OpenAI
    "audio": Refused(),
    "web_search_options": Refused(),
    "verbosity": Refused("medium"),
    # What an answer must look like, in every dialect
    "json_schema": Refused(takes_empty=False),
    "structured_outputs": Refused(),
    "guided_json": Refused(takes_empty=False),
    "guided_regex": Refused(),
    "guided_choice": Refused(),
    "guided_grammar": Refused(),
    # llama-server
    "lora": Refused(),
    "reasoning_format": Refused("none", "auto"),
    "reasoning_control": Refused(),
    "reasoning_budget_tokens": Refused(-1, takes_empty=False),
    "thinking_budget_tokens": Refused(-1, takes_empty=False),
    "samplers": Refused(takes_empty=False),
    "min_keep": Refused(1),
    "top_n_sigma": Refused(-1),
    "dynatemp_range": Refused(),
    "adaptive_target": Refused(-1, takes_empty=False),
    "n_indent": Refused(),
    "t_max_predict_ms": Refused(-1),
    "id_slot": Refused(-1, takes_empty=False),
    "post_sampling_probs": Refused(),
    "return_tokens": Refused(),
    "return_progress": Refused(),
    "timings_per_token": Refused(),
    "response_fields": Refused(),
    "sse_ping_interval": Refused(takes_empty=False),
    "verbose": Refused(),
    # vLLM
    "use_beam_search": Refused(),
    "watermarking": Refused(),
    "stop_token_ids": Refused(),
    "include_stop_str_in_output": Refused(),
    "skip_special_tokens": Refused(True, takes_empty=False),
    "truncate_prompt_tokens": Refused(takes_empty=False),
    "prompt_logprobs": Refused(takes_empty=False),
    "logprob_token_ids": Refused(),
    "allowed_token_ids": Refused(takes_empty=False),
    "bad_words": Refused(),
    "logits_processors": Refused(),
    "priority": Refused(),
    "request_id": Refused(),
    "return_tokens_as_token_ids": Refused(),
    "return_token_ids": Refused(),
    "cache_salt": Refused(),
    "kv_transfer_params": Refused(),
    "ec_transfer_params": Refused(),
    "vllm_xargs": Refused(),
    "repetition_detection": Refused(),
    "thinking_token_budget": Refused(-1, takes_empty=False),
    "stream_interval": Refused(1),
    "include_reasoning": Refused(True, takes_empty=False),
}
REFUSED_IN_CHAT: Mapping[str, Refused] = {
    **REFUSED,
    "chat_template": Refused(),
    "best_of": Refused(1),
    "echo": Refused(),
    "suffix": Refused(),
    "add_special_tokens": Refused(),
    "return_prompt_text": Refused(),
}
REFUSED_IN_COMPLETIONS: Mapping[str, Refused] = {
    **REFUSED,
    "tools": Refused(),
    "tool_choice": Refused("none", "auto"),
    "functions": Refused(),
    "function_call": Refused("none", "auto"),
    "reasoning_effort": Refused("none"),
    "add_special_tokens": Refused(True, takes_empty=False),
    "prompt_embeds": Refused(),
}
OF_STREAM_OPTIONS: Mapping[str, Refused] = {
    "continuous_usage_stats": Refused(),
    "include_obfuscation": Refused(),
}
