"""What an operator can set, frozen and split per process. A default is written here alone.

ServerConfig is the operator's view: each of its fields is a flag and an environment variable, which
flags.py explains. derive.py resolves it into RouterConfig and into EngineConfig, which the engine
gets inside its Start frame. Nothing here reads a file, the environment or the machine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

MAX_INT32 = 2**31 - 1  # llama.cpp counts in 32 bits
MAX_TOP_TOKENS = 64  # alternatives that the engine can report beside one token
MIN_STEP_OUTPUTS = 64  # rows of logits that a step can give; prompts are scored so many at a time

Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_INT32)]
KvLayout = Literal["auto", "split", "unified"]
AdmissionPolicy = Literal["reserve", "optimistic"]
CountOrZero = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT32)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the engine process needs; all values are resolved (no None for "derive")."""

    model_path: str  # a GGUF file
    raw_model_path: bytes = b""  # where its bytes are no UTF-8
    max_total_tokens: int  # prompt and output of one sequence; at most the model's context
    max_batch_total_tokens: int  # the budget
    max_physical_batch_total_tokens: int  # rows of one ubatch, and of one step
    max_batch_size: int  # slots
    n_threads: int
    n_threads_batch: int
    n_gpu_layers: int  # -1 is all of them
    target_itl_ms: int = 250  # between two tokens of a running stream; 0 is no target
    min_aside_tokens: int = 256  # of a prompt computed aside: a shorter one is a few chunks
    max_warm_up_ms: int = 0  # to measure passes in before it is ready; 0 measures nothing
    split_mode: str = "layer"  # layer, row, none
    main_gpu: int = 0
    numa: str = "disabled"
    use_mmap: bool = True
    use_mlock: bool = False
    repack: bool = True  # weights, for the matrix instructions of the CPU
    offload_kqv: bool = True
    flash_attention: bool = True
    prefix_cache: bool = True
    kv_layout: KvLayout = "auto"  # auto: split where every slot's share fits the budget
    max_host_cache_bytes: int = 0  # of prefixes that have left their slots; 0 keeps none
    admission: AdmissionPolicy = "reserve"  # by the most that sequences can come to, or a forecast
    type_k: str = "f16"  # ggml's own name: f32, f16, bf16, q8_0, iq4_nl, ...
    type_v: str = "f16"
    extra_eog_ids: list[int] = []  # of generation_config.json
    log_level: str = "info"
    json_output: bool = False

    @property
    def model_path_bytes(self) -> bytes:
        """What the system opens, whatever encoding Python takes the locale's to be."""
        return self.raw_model_path or self.model_path.encode()

    def is_kv_unified(self, max_slot_tokens: int) -> bool:
        """Whether slots share one pool of the budget's size, or have max_slot_tokens each."""
        if self.kv_layout != "auto":
            return self.kv_layout == "unified"
        return self.max_batch_size * max_slot_tokens > self.max_batch_total_tokens


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the router refuses before the engine hears of it."""

    max_concurrent_requests: int
    max_input_tokens: int
    max_total_tokens: int
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_client_batch_size: int = 4
    payload_limit: int = 2_000_000
    disable_grammar_support: bool = False


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the router answers, and what it says of itself."""

    model_id: str
    limits: LimitsConfig
    validation_workers: int = 2
    cors_allow_origin: list[str] = []
    api_key: str | None = None
    api_key_file: str | None = None
    prefix_cache_scope: Literal["key", "all"] = "key"
    compute_type: str = "cpu"
    aip_predict_route: str | None = None
    aip_health_route: str | None = None

    @property
    def needs_key(self) -> bool:
        """Whether what does work is for those with a key alone."""
        return self.api_key is not None or self.api_key_file is not None


def _default(owner: type[msgspec.Struct], name: str) -> Any:
    """The default that a struct above gives to its field of this name."""
    return {field.name: field.default for field in msgspec.structs.fields(owner)}[name]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator sets: `max_total_tokens` is --max-total-tokens and MAX_TOTAL_TOKENS.

    Names and types are TGI's. None means that the value is derived, or was not given.
    """

    config: str | None = None
    model_id: str
    revision: str = "main"
    model_gguf: str | None = None

    n_threads: CountOrZero | None = None
    n_threads_batch: CountOrZero | None = None
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=MAX_INT32)] = -1
    split_mode: str = _default(EngineConfig, "split_mode")
    numa: Literal["disabled", "distribute", "isolate", "numactl", "mirror"] = "disabled"
    disable_mmap: bool = False
    disable_repack: bool = False
    use_mlock: bool = False
    disable_offload_kqv: bool = False
    disable_flash_attention: bool = False
    disable_prefix_cache: bool = False
    cache_ram: CountOrZero | None = None
    prefix_cache_scope: Literal["key", "all"] = _default(RouterConfig, "prefix_cache_scope")
    kv_layout: KvLayout = _default(EngineConfig, "kv_layout")
    admission: AdmissionPolicy = _default(EngineConfig, "admission")
    type_k: str = _default(EngineConfig, "type_k")
    type_v: str = _default(EngineConfig, "type_v")

    validation_workers: CountOrZero = _default(RouterConfig, "validation_workers")
    max_concurrent_requests: Count | None = None
    max_input_tokens: Count | None = None
    max_total_tokens: Count | None = None
    max_batch_total_tokens: Count | None = None
    max_physical_batch_total_tokens: Count | None = None
    max_batch_size: CountOrZero | None = None
    target_itl_ms: CountOrZero = _default(EngineConfig, "target_itl_ms")
    max_best_of: CountOrZero = _default(LimitsConfig, "max_best_of")
    max_stop_sequences: CountOrZero = _default(LimitsConfig, "max_stop_sequences")
    max_top_n_tokens: CountOrZero = _default(LimitsConfig, "max_top_n_tokens")
    max_client_batch_size: Count = _default(LimitsConfig, "max_client_batch_size")
    payload_limit: Count = _default(LimitsConfig, "payload_limit")

    hostname: str = "0.0.0.0"
    port: Port = 3000
    api_key: str | None = None
    api_key_file: str | None = None
    cors_allow_origin: list[str] = []
    shutdown_timeout: CountOrZero = 90
    json_output: bool = False
    log_level: str = _default(EngineConfig, "log_level")
    engine_watchdog_s: CountOrZero = 120
    exit_on_engine_failure: bool = False
    compute_type: str | None = None
    tokenizer_config_path: str | None = None
    disable_grammar_support: bool = False
    special_tokens_in_content: Literal["parse", "refuse", "plain"] = "parse"
    aip_http_port: Port | None = None
    aip_predict_route: str | None = None
    aip_health_route: str | None = None

    # Spellings of TGI's documentation and of its earlier versions.
    use_mmap: bool | None = None
    offload_kqv: bool | None = None
    flash_attention: bool | None = None
    max_input_length: Count | None = None

    # TGI's, without effect here: flags.py says why.
    defrag_threshold: float | None = None
    prometheus_port: Port | None = None
    otlp_endpoint: str | None = None
    otlp_service_name: str | None = None
    usage_stats: Literal["on", "off", "no-stack"] | None = None
    max_image_fetch_size: CountOrZero | None = None

    @property
    def listen_port(self) -> int:
        """Vertex AI's port, where it sets one, as TGI has it; else `port`."""
        return self.port if self.aip_http_port is None else self.aip_http_port
