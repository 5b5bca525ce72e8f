"""The command line, the environment and the file of --config, read into a ServerConfig.

FLAGS has one line a setting; its name, type and default come from the ServerConfig field of that
name, and --help and README's table come from here. Precedence: command line, environment, file,
default. What a value leads to is derive.py's affair.
"""

from __future__ import annotations

import argparse
import difflib
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec

from tgi_llamacpp import __version__, config_file
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import UsageError
from tgi_llamacpp.origins import read_origins


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting. `default` is said in words where the value is derived."""

    name: str  # the field of ServerConfig
    help: str
    default: str | None = None
    short: str | None = None
    has_option: bool = True
    has_variable: bool = True
    is_ignored: bool = False

    @property
    def option(self) -> str | None:
        return "--" + self.name.replace("_", "-") if self.has_option else None

    @property
    def variable(self) -> str | None:
        return self.name.upper() if self.has_variable else None


FLAGS = (
    Flag("config", "TOML file of settings, named as the flags are; read again on SIGHUP."),
    Flag("model_id", "Model to serve: a Hub id, a folder, or a .gguf file.", "required"),
    Flag("revision", "Branch, tag or commit of the model on the Hub."),
    Flag("model_gguf", "Weights: a path, or the name of one of the model's GGUF files."),
    Flag("n_threads", "Threads that decode a single sequence.", "usable CPUs"),
    Flag("n_threads_batch", "Threads that decode several sequences or a prompt.", "n_threads"),
    Flag("n_gpu_layers", "Layers to keep in GPU memory; -1 is all of them."),
    Flag("split_mode", "Split the model over GPUs by `layer` or `row`, or name one by its number."),
    Flag("numa", "Placement of memory and threads on NUMA machines."),
    Flag("disable_mmap", "Read the model into memory instead of mapping its file."),
    Flag("disable_repack", "Keep weights as the file has them, not repacked for CPU kernels."),
    Flag("use_mlock", "Lock the model in memory, so that it is never swapped out."),
    Flag("disable_offload_kqv", "Keep the KV cache out of GPU memory."),
    Flag("disable_flash_attention", "Do without flash attention."),
    Flag("type_k", "Type of the K cache, such as f32, f16, bf16, q8-0, q5-1, q4-0."),
    Flag("type_v", "Type of the V cache, such as f32, f16, bf16, q8-0, q5-1, q4-0."),
    Flag("kv_layout", "KV cache: a share for each slot, or one pool of the budget's size."),
    Flag(
        "admission", "Run what fits the budget at its longest, or as outputs have come out lately."
    ),
    Flag("disable_prefix_cache", "Compute every prompt from its first token."),
    Flag(
        "cache_ram",
        "MiB of memory for beginnings of prompts that slots have no room for; 0 keeps none.",
        "1/8 of memory, at most 8192",
    ),
    Flag("prefix_cache_scope", "Who shares computed prompts: requests of one API key, or all."),
    Flag("validation_workers", "Threads that tokenize prompts."),
    Flag("max_concurrent_requests", "Requests at once; one more gets a 429.", "2 x batch size"),
    Flag("max_input_tokens", "Longest prompt, in tokens.", "1024, at most half the total"),
    Flag("max_total_tokens", "Prompt and output of a request.", "2048, or as other limits allow"),
    Flag("max_batch_total_tokens", "Tokens of all running requests.", "batch size x total tokens"),
    Flag("max_physical_batch_total_tokens", "Most tokens that one step computes.", "512"),
    Flag("max_batch_size", "Requests that run at once.", "n_threads_batch, at least 8"),
    Flag("target_itl_ms", "Longest gap between tokens that prompts may cause; 0 is no limit."),
    Flag("max_best_of", "Largest best_of of a request on TGI's routes."),
    Flag("max_stop_sequences", "Most stop strings of a request."),
    Flag("max_top_n_tokens", "Most alternatives reported beside a token."),
    Flag("max_client_batch_size", "Most prompts in one completions request."),
    Flag("payload_limit", "Largest body of a request, in bytes."),
    Flag("hostname", "Address to listen on.", has_variable=False),
    Flag("port", "Port to listen on; 0 takes a free one.", short="-p"),
    Flag("api_key", "Key that clients must send as a bearer token."),
    Flag("api_key_file", "File of keys, one a line; good beside that of --api-key."),
    Flag("cors_allow_origin", "Origins that browsers may call from, one or a list.", "any"),
    Flag("shutdown_timeout", "Seconds that running requests have to finish after SIGTERM."),
    Flag("engine_watchdog_s", "Seconds until an engine that stands still is killed; 0: never."),
    Flag("exit_on_engine_failure", "End with code 3 when no engine can be started any more."),
    Flag("json_output", "Log one JSON object a line."),
    Flag("log_level", "How much to log: error, warn, info, debug or off.", has_option=False),
    Flag("compute_type", "What x-compute-type says.", "cpu or gpu", has_option=False),
    Flag("tokenizer_config_path", "File to read in place of the model's tokenizer_config.json."),
    Flag("disable_grammar_support", "Refuse grammars and tools."),
    Flag("special_tokens_in_content", "Control tokens in chat messages: as TGI, 422, or as text."),
    Flag("aip_http_port", "Vertex AI's port, in place of --port.", has_option=False),
    Flag("aip_predict_route", "Vertex AI's path, as /vertex.", has_option=False),
    Flag("aip_health_route", "Vertex AI's path, as /health.", has_option=False),
    Flag("use_mmap", "Map the model's file; older form of not --disable-mmap.", "true"),
    Flag("offload_kqv", "KV cache in GPU memory; older form of not --disable-offload-kqv.", "true"),
    Flag("flash_attention", "Older form of not --disable-flash-attention.", "true"),
    Flag("max_input_length", "Older name of --max-input-tokens."),
    Flag("defrag_threshold", "No effect: this KV cache needs no defragmenting.", is_ignored=True),
    Flag("prometheus_port", "No effect: metrics are at /metrics of --port.", is_ignored=True),
    Flag("otlp_endpoint", "No effect: no traces are sent.", is_ignored=True),
    Flag("otlp_service_name", "No effect: no traces are sent.", is_ignored=True),
    Flag("usage_stats", "No effect: nothing is ever reported to anyone.", is_ignored=True),
    Flag("max_image_fetch_size", "No effect: no images are fetched.", is_ignored=True),
)


def _types() -> dict[str, Any]:
    """The type of every field, None aside."""
    return {
        name: next(part for part in get_args(kind) if part is not type(None))
        if get_origin(kind) in (Union, types.UnionType)
        else kind
        for name, kind in get_type_hints(ServerConfig, include_extras=True).items()
    }


_TYPES: Mapping[str, Any] = _types()
_KEY_FLAGS = ("api_key", "api_key_file")
# Paths keep their bytes, whatever these are.
_PATH_FLAGS = ("config", "model_id", "model_gguf", "api_key_file", "tokenizer_config_path")
# fmt: off
_GGML_TYPES = (
    "f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0",
    "q8_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs",
    "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0",
)
# fmt: on


def parse(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    program: str = "text-generation-router-llamacpp",
    fixed: Mapping[str, object] | None = None,
) -> ServerConfig:
    """The settings that the command line, the environment and the file ask for.

    fixed: fields whose value is not the operator's choice; their flags are then unknown.
    Raises UsageError; exits with 0 after --help.
    """
    fixed = fixed or {}
    flags = [flag for flag in FLAGS if flag.name not in fixed]
    given = vars(_parser(flags, program).parse_args(arguments))
    settings: dict[str, Any] = dict(fixed)
    for flag in flags:
        text = _given(flag, given.get(flag.name))
        source = flag.option
        if text is None and flag.variable:
            text, source = environ.get(flag.variable) or None, flag.variable
        if text is not None:
            settings[flag.name] = _value(flag, text, source or "")
    if "config" in settings:
        settings = _from_file(settings["config"], flags) | settings
    if "model_id" not in settings:
        raise UsageError(f"--model-id is required, or MODEL_ID; try {program} --help")
    return ServerConfig(**settings)


def _from_file(path: str, flags: Sequence[Flag]) -> dict[str, Any]:
    """The settings of a file, which may set all that flags and variables set but itself."""
    by_name = {flag.name: flag for flag in flags if flag.name != "config"}
    settings: dict[str, Any] = {}
    for name, entry in config_file.read(path).items():
        flag = by_name.get(name)
        if flag is None:
            nearest = difflib.get_close_matches(name, by_name, 1)
            hint = f"; did you mean `{nearest[0].replace('_', '-')}`?" if nearest else ""
            raise UsageError(f"--config {path}: there is no setting `{entry.key}`{hint}")
        if isinstance(entry.text, list) and get_origin(_TYPES[name]) is not list:
            raise UsageError(f"--config {path}: `{entry.key}` takes one value, and no list")
        if (text := _given(flag, entry.text)) is not None:
            settings[name] = _value(flag, text, f"`{entry.key}` in {path}")
    return settings


def ignored(config: ServerConfig) -> list[str]:
    """The options that were given and have no effect."""
    names = [flag.name for flag in FLAGS if flag.is_ignored]
    return [name for name in names if getattr(config, name) is not None]


def markdown_table() -> str:
    """The table of README."""
    rows = ["| flag | variable | default | |", "|---|---|---|---|"]
    for flag in FLAGS:
        option = f"`{flag.option}`" if flag.option else "-"
        if flag.short:
            option += f", `{flag.short}`"
        variable = f"`{flag.variable}`" if flag.variable else "-"
        rows.append(f"| {option} | {variable} | {_default_text(flag)} | {flag.help} |")
    return "\n".join(rows) + "\n"


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; try {self.prog} --help")


def _parser(flags: Sequence[Flag], program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        usage="%(prog)s [OPTIONS]",
        description="Serve a GGUF model behind the HTTP API of text-generation-inference.",
        epilog="Of the environment alone: "
        + " ".join(f"{flag.variable}: {flag.help}" for flag in flags if flag.option is None),
        allow_abbrev=False,
        formatter_class=_one_line_each,
    )
    parser.add_argument("-V", "--version", action="version", version=f"{program} {__version__}")
    for flag in flags:
        if flag.option is None:
            continue
        names = [flag.option] if flag.short is None else [flag.option, flag.short]
        parser.add_argument(*names, dest=flag.name, help=_help(flag), **_action(flag))
    return parser


def _one_line_each(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=46, width=400)


def _help(flag: Flag) -> str:
    kind = _TYPES[flag.name]
    choices = f" [one of: {', '.join(get_args(kind))}]" if get_origin(kind) is Literal else ""
    env = f" [env: {flag.variable}]" if flag.variable else ""
    return f"{flag.help}{choices} [default: {_default_text(flag)}]{env}".replace("%", "%%")


def _default_text(flag: Flag) -> str:
    if flag.default is not None:
        return flag.default
    default = next(f for f in msgspec.structs.fields(ServerConfig) if f.name == flag.name).default
    return {None: "unset", True: "true", False: "false"}.get(default, str(default))


def _action(flag: Flag) -> dict[str, Any]:
    kind = _TYPES[flag.name]
    if kind is bool:
        return {"action": "store_const", "const": "true"}
    if get_origin(kind) is list:
        return {"action": "append", "metavar": "TEXT"}
    if get_origin(kind) is Literal:
        return {"metavar": "NAME"}
    return {"metavar": "TEXT" if kind is str else "N"}


def _given(flag: Flag, text: str | list[str] | None) -> str | list[str] | None:
    """What the command line or the file says of a setting; None where that is nothing.

    An empty text is nothing, as scripts have it from a variable that is unset. An empty number is a
    mistake, and so is an empty key, which would open a server that was meant to be closed.
    """
    if isinstance(text, list):
        return [item for item in text if item] or None
    is_text = _TYPES[flag.name] is str and flag.name not in _KEY_FLAGS
    return None if text == "" and is_text else text


def empty_keys(environ: Mapping[str, str]) -> list[str]:
    """The variables of keys that are there and empty, which is as if they were not there."""
    return [name.upper() for name in _KEY_FLAGS if environ.get(name.upper()) == ""]


def _value(flag: Flag, text: str | list[str], source: str) -> Any:
    """The value of a field, from what was written.

    Raises UsageError.
    """
    kind = _TYPES[flag.name]
    if isinstance(text, list) or get_origin(kind) is list:
        parts = text if isinstance(text, list) else [text]
        return [item for part in parts for item in _list_of(_utf8(part, source), source)]
    if flag.name not in _PATH_FLAGS:
        text = _utf8(text, source)
    try:
        if flag.name in _READERS:
            return _READERS[flag.name](text)
        if kind is bool:
            return _read_choice(text, ("true", "false")) == "true"
        if get_origin(kind) is Literal:
            return _read_choice(text, get_args(kind))
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        reason = f"not {_describe(kind)}"
    except ValueError as error:
        reason = str(error)
    shown = "" if flag.name == "api_key" else f" '{text}'"  # a key is for no terminal and no log
    raise UsageError(f"invalid value{shown} for {source}: {reason}")


def _utf8(text: str, source: str) -> str:
    """A text of the command line or the environment, which Python decodes by the locale."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError as error:
        raise UsageError(f"invalid value '{text}' for {source}: it is not UTF-8") from error


def _list_of(text: str, source: str) -> list[str]:
    """The origins of one text: no other setting takes a list. Raises UsageError."""
    try:
        return read_origins(text)
    except ValueError as error:
        raise UsageError(f"invalid value '{text}' for {source}: {error}") from None


def _describe(kind: Any) -> str:
    """A number with its bounds, in words."""
    if get_origin(kind) is not Annotated:
        return "a number"
    meta = kind.__metadata__[0]
    upper = f" and at most {meta.le}" if meta.le is not None else ""
    return f"a whole number of at least {meta.ge}{upper}"


def _read_choice(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise ValueError(f"possible values are {', '.join(choices)}")
    return text


def _read_split_mode(text: str) -> str:
    mode = text.lower()
    if mode not in ("layer", "row") and not mode.isdecimal():
        raise ValueError("choose a GPU number or `layer` or `row`")
    return mode


def _read_ggml_type(text: str) -> str:
    """ggml's own spelling, with an underscore."""
    name = text.lower().replace("-", "_")
    if name not in _GGML_TYPES:
        raise ValueError(f"possible values are {', '.join(_GGML_TYPES).replace('_', '-')}")
    return name


def _read_key(text: str) -> str:
    """Without the white space around it: secrets that were made from files end with a newline."""
    key = text.strip()
    if not key:
        raise ValueError("a key cannot be empty")
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("a key is of printable ASCII without spaces")
    return key


def _read_key_file(text: str) -> str:
    if not text:
        raise ValueError("a file of keys needs a path")
    return text


def _read_path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable() or set(text) & set("{}?#"):
        raise ValueError("a path begins with / and has no {, }, ? or #")
    return text


_READERS: Mapping[str, Callable[[str], str]] = {
    "split_mode": _read_split_mode,
    "type_k": _read_ggml_type,
    "type_v": _read_ggml_type,
    "api_key": _read_key,
    "api_key_file": _read_key_file,
    "aip_predict_route": _read_path,
    "aip_health_route": _read_path,
}
