"""Flags, environment, derived values, and what a mistake costs: one sentence and an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tgi_llamacpp import __version__, flags
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.derive import derive, engine_config, router_config
from tgi_llamacpp.errors import StartupError, UsageError
from tgi_llamacpp.machine import usable_cpus, usable_memory_bytes
from tgi_llamacpp.messages import Ready

ROOT = Path(__file__).parent.parent
TGI_FLAGS = {
    # text-generation-router-llamacpp --help of TGI 3.3.6, and the spellings of its documentation
    "--model-id", "--revision", "--model-gguf", "--n-threads", "--n-threads-batch",
    "--n-gpu-layers", "--split-mode", "--defrag-threshold", "--numa", "--disable-mmap",
    "--use-mlock", "--disable-offload-kqv", "--disable-flash-attention", "--type-k", "--type-v",
    "--validation-workers", "--max-concurrent-requests", "--max-input-tokens",
    "--max-total-tokens", "--max-batch-total-tokens", "--max-physical-batch-total-tokens",
    "--max-batch-size", "--hostname", "--port", "--prometheus-port", "--json-output",
    "--otlp-endpoint", "--otlp-service-name", "--cors-allow-origin", "--tokenizer-config-path",
    "--disable-grammar-support", "--max-client-batch-size", "--usage-stats", "--payload-limit",
    "--max-image-fetch-size", "--use-mmap", "--offload-kqv", "--flash-attention",
}  # fmt: skip


def parse(*arguments: str, **environ: str) -> ServerConfig:
    return flags.parse(["--model-id", "m", *arguments], environ)


class TestFlags:
    def test_every_flag_of_tgi_is_known(self) -> None:
        assert {flag.option for flag in flags.FLAGS} >= TGI_FLAGS

    def test_every_setting_has_one_line_of_help(self) -> None:
        names = [field.name for field in msgspec.structs.fields(ServerConfig)]
        assert sorted(names) == sorted(flag.name for flag in flags.FLAGS)
        assert all(flag.help and "\n" not in flag.help for flag in flags.FLAGS)

    def test_help_names_every_flag_with_its_variable_and_default(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit_info:
            parse("--help")
        assert exit_info.value.code == 0
        lines = capsys.readouterr().out.splitlines()
        for flag in flags.FLAGS:
            if flag.option is None:
                continue
            starts = (flag.option + " ", flag.option + ",")  # 3.13 writes "--port, -p PORT"
            (line,) = (text for text in lines if text.strip().startswith(starts))
            assert flag.help in line
            assert "[default: " in line
            assert flag.variable is None or f"[env: {flag.variable}]" in line

    def test_the_table_in_readme_is_the_table_of_flags(self) -> None:
        assert flags.markdown_table() in (ROOT / "README.md").read_text()

    def test_a_value_follows_a_space_or_an_equals_sign(self) -> None:
        assert parse("--port", "8080").port == parse("--port=8080").port == parse("-p", "8080").port

    def test_the_command_line_wins_over_the_environment(self) -> None:
        assert parse(PORT="81").port == 81
        assert parse("--port", "82", PORT="81").port == 82

    @pytest.mark.parametrize("text", ["predict", "/a{b}", "/a?b", "/a\n"])
    def test_a_path_of_vertex_ai_is_a_path(self, text: str) -> None:
        with pytest.raises(UsageError, match="AIP_PREDICT_ROUTE: a path begins with /"):
            parse(AIP_PREDICT_ROUTE=text)

    def test_the_hostname_is_not_taken_from_the_environment(self) -> None:
        assert parse(HOSTNAME="a1b2c3d4").hostname == "0.0.0.0"

    @pytest.mark.parametrize(
        "flag", [f for f in flags.FLAGS if f.variable and f.name != "config"], ids=lambda f: f.name
    )
    def test_every_variable_sets_its_field(self, flag: flags.Flag) -> None:
        assert flag.variable is not None
        samples = ["7", "0.5", "true", "q4-0", "isolate", "off", "row", "/path", "plain", "all"]
        samples += ["split", "optimistic", "http://a"]
        text = next(text for text in samples if _accepts(flag.variable, text))
        config = flags.parse([], {"MODEL_ID": "m", flag.variable: text})
        assert getattr(config, flag.name) != getattr(parse(), flag.name)

    @pytest.mark.parametrize("text", ["1", "True", "TRUE", "yes"])
    def test_a_boolean_variable_is_true_or_false_and_nothing_else(self, text: str) -> None:
        with pytest.raises(UsageError, match="JSON_OUTPUT: possible values are true, false"):
            parse(JSON_OUTPUT=text)

    def test_a_boolean_variable_may_say_false(self) -> None:
        assert parse(JSON_OUTPUT="false").json_output is False
        assert parse("--json-output", JSON_OUTPUT="false").json_output is True

    def test_every_empty_variable_is_unset(self) -> None:
        """As compose files and scripts set them from variables that are unset."""
        empty = {flag.variable: "" for flag in flags.FLAGS if flag.variable}
        assert parse(**empty) == parse()
        with pytest.raises(UsageError, match="--model-id is required, or MODEL_ID"):
            flags.parse([], empty)

    def test_an_empty_text_of_the_command_line_is_unset(self) -> None:
        texts = ["--model-gguf=", "--revision=", "--hostname=", "--config=", "--cors-allow-origin="]
        assert parse(*texts, "--tokenizer-config-path=") == parse()
        assert parse("--revision=", REVISION="v2").revision == "v2"
        with pytest.raises(UsageError, match="--model-id is required, or MODEL_ID"):
            flags.parse(["--model-id", ""], {})

    @pytest.mark.parametrize("option", ["--port", "--max-total-tokens", "--numa"])
    def test_an_empty_number_or_name_of_the_command_line_is_named(self, option: str) -> None:
        with pytest.raises(UsageError, match=f"invalid value '' for {option}: "):
            parse(f"{option}=")

    @pytest.mark.parametrize("name", ["key", "key-file"])
    def test_an_empty_key_is_refused_since_it_would_open_the_server(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"--api-{name}: a "):
            parse(f"--api-{name}=")

    def test_empty_variables_of_keys_are_told(self) -> None:
        assert flags.empty_keys({"API_KEY": "", "API_KEY_FILE": "x"}) == ["API_KEY"]
        assert flags.empty_keys({}) == []

    def test_a_path_keeps_bytes_that_are_no_utf8_and_nothing_else_has_any(self) -> None:
        text = os.fsdecode(b"mod\xe8le")
        assert flags.parse(["--model-id", text], {"MODEL_GGUF": text}).model_gguf == text
        for name in ("revision", "api-key", "cors-allow-origin"):
            with pytest.raises(UsageError, match=f"for --{name}: it is not UTF-8"):
                parse(f"--{name}={text}")

    def test_origins_may_be_repeated(self) -> None:
        config = parse("--cors-allow-origin", "http://a", "--cors-allow-origin=http://b")
        assert config.cors_allow_origin == ["http://a", "http://b"]
        assert parse(CORS_ALLOW_ORIGIN="http://a").cors_allow_origin == ["http://a"]

    @pytest.mark.parametrize(("text", "mode"), [("layer", "layer"), ("ROW", "row"), ("3", "3")])
    def test_split_mode_is_layer_row_or_a_gpu(self, text: str, mode: str) -> None:
        assert parse("--split-mode", text).split_mode == mode

    def test_cache_types_have_tgis_names(self) -> None:
        config = parse("--type-k", "q8-0", TYPE_V="iq4-nl")
        assert (config.type_k, config.type_v) == ("q8_0", "iq4_nl")

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--port", "65536"], "for --port: not a whole number of at least 0 and at most 65535"),
            (["--n-threads", "-1"], "for --n-threads: not a whole number of at least 0"),
            (["--max-batch-size", "x"], "invalid value 'x' for --max-batch-size"),
            (["--max-total-tokens", "1.5"], "invalid value '1.5' for --max-total-tokens"),
            (
                ["--numa", "all"],
                "possible values are disabled, distribute, isolate, numactl, mirror",
            ),
            (["--split-mode", "tensor"], "choose a GPU number or `layer` or `row`"),
            (["--type-k", "q9"], "invalid value 'q9' for --type-k"),
            (["--usage-stats", "maybe"], "possible values are on, off, no-stack"),
            (["--port"], "expected one argument"),
            (["--json-output=true"], "ignored explicit argument 'true'"),
            (["--max-total"], "unrecognized arguments: --max-total"),
            (["extra"], "unrecognized arguments: extra"),
        ],
    )
    def test_what_cannot_be_understood_is_a_usage_error(
        self, arguments: list[str], reason: str
    ) -> None:
        with pytest.raises(UsageError) as error:
            parse(*arguments)
        assert reason in str(error.value)

    def test_a_model_is_required(self) -> None:
        with pytest.raises(UsageError, match="--model-id is required, or MODEL_ID"):
            flags.parse([], {})

    def test_what_has_no_effect_is_accepted_and_named(self) -> None:
        config = parse("--defrag-threshold", "-1.0", "--usage-stats=off", OTLP_ENDPOINT="http://x")
        assert flags.ignored(config) == ["defrag_threshold", "otlp_endpoint", "usage_stats"]
        assert flags.ignored(parse()) == []


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes a file of settings; its path."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "server.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


class TestFileOfSettings:
    def test_keys_are_named_as_flags_or_as_fields(self, write: Callable[[str], str]) -> None:
        path = write("max-total-tokens = 900\nmax_best_of = 1\nlog_level = 'debug'\n")
        config = parse("--config", path)
        assert (config.max_total_tokens, config.max_best_of) == (900, 1)
        assert config.log_level == "debug"
        assert config.config == path

    def test_each_kind_of_value_has_a_form(self, write: Callable[[str], str]) -> None:
        config = parse(
            CONFIG=write(
                "hostname = '127.0.0.1'\nport = 81\njson-output = true\nuse-mlock = false\n"
                "cors-allow-origin = ['http://a', 'b://b']\n"
                "type-k = 'q8-0'\nsplit-mode = 1\nmodel-gguf = ''"
            )
        )
        assert (config.hostname, config.port, config.json_output) == ("127.0.0.1", 81, True)
        assert config.cors_allow_origin == ["http://a", "b://b"]
        assert (config.type_k, config.split_mode, config.model_gguf) == ("q8_0", "1", None)

    def test_flags_win_over_variables_and_those_over_the_file(
        self, write: Callable[[str], str]
    ) -> None:
        path = write("model-id = 'of the file'\nport = 81\nmax-best-of = 3")
        config = flags.parse(["--config", path, "--port=83"], {"PORT": "82", "MAX_BEST_OF": "4"})
        assert (config.model_id, config.port, config.max_best_of) == ("of the file", 83, 4)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("max-totl-tokens = 1", "there is no setting `max-totl-tokens`; did you mean `max-tot"),
            ("colour = 'red'", "there is no setting `colour`"),
            ("config = 'another'", "there is no setting `config`"),
            ("port = 1\nPORT = 2", "there is no setting `PORT`"),
            ("max-best-of = 1\nmax_best_of = 2", "`max-best-of` and `max_best_of` are the same"),
            ("port = 65536", "invalid value '65536' for `port` in"),
            ("port = 1.5", "not a whole number of at least 0 and at most 65535"),
            ("port = true", "invalid value 'true' for `port`"),
            ("json-output = 1", "possible values are true, false"),
            ("api-key = ''", "a key cannot be empty"),
            ("port = ''", "invalid value '' for `port`"),
            ("model-id = '/models/\\u0000'".replace("'", '"'), "`model-id` has a zero byte"),
            ("port = [81]", "`port` must be a text"),
            ("numa = ['isolate']", "`numa` takes one value, and no list"),
            ("port = 2026-01-01", "`port` must be a text, a number, true or false"),
            ("[server]\nport = 81", "`server` is a table: write its keys without one"),
            ("port: 81", "is no TOML: Expected '=' after a key"),
            ("model-id = m", "quote texts"),
            (b"model-id = '\xff'", "is no TOML: 'utf-8' codec"),
            ("x = " + "[" * 100_000, "is no TOML"),
            ("#" * (1 << 20) + "#", "is longer than 1048576 bytes"),
        ],
    )
    def test_what_a_file_has_wrong_is_named_with_the_file(
        self, text: str, reason: str, write: Callable[[str], str]
    ) -> None:
        path = write(text)
        with pytest.raises(UsageError) as error:
            parse("--config", path)
        assert reason in str(error.value)
        assert path in str(error.value)

    def test_a_file_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="nothing cannot be read: no such file or directory"):
            parse("--config", str(tmp_path / "nothing"))

    def test_the_demo_serves_its_own_model_whatever_the_file_says(
        self, write: Callable[[str], str]
    ) -> None:
        path = write("model-id = 'another'")
        with pytest.raises(UsageError, match="there is no setting `model-id`"):
            flags.parse(["--config", path], {}, "tgi-llamacpp demo", {"model_id": "demo"})


def _accepts(variable: str, text: str) -> bool:
    try:
        parse(**{variable: text})
    except UsageError:
        return False
    return True


class TestDerivedValues:
    def test_defaults_are_tgis_but_for_ours(self) -> None:
        derived = derive(parse(), num_cpus=4)
        assert (derived.n_threads, derived.n_threads_batch) == (4, 4)
        assert derived.max_batch_size == 8
        assert (derived.max_input_tokens, derived.max_total_tokens) == (1024, 2048)
        assert derived.max_batch_total_tokens == 8 * 2048
        assert derived.max_physical_batch_total_tokens == 512
        assert derived.max_concurrent_requests == 16

    def test_tgis_example_of_sixteen_cpus(self) -> None:
        derived = derive(parse(), num_cpus=16)
        assert derived.max_batch_size == 16
        assert derived.max_batch_total_tokens == 32768
        assert derived.max_concurrent_requests == 32

    def test_zero_means_derive(self) -> None:
        zeros = parse("--n-threads=0", "--n-threads-batch=0", "--max-batch-size=0")
        assert derive(zeros, num_cpus=9) == derive(parse(), num_cpus=9)

    def test_each_value_follows_the_one_before_it(self) -> None:
        derived = derive(parse("--n-threads=3", "--n-threads-batch=12"), num_cpus=64)
        assert derived.n_threads == 3
        assert derived.max_batch_size == 12
        assert derived.max_concurrent_requests == 24

    def test_the_physical_batch_is_an_upper_bound(self) -> None:
        small = ["--max-total-tokens=300", "--max-input-tokens=200", "--max-batch-total-tokens=400"]
        assert derive(parse(*small), 2).max_physical_batch_total_tokens == 400
        wide = derive(parse("--max-physical-batch-total-tokens=4096"), 2)
        assert wide.max_physical_batch_total_tokens == 4096

    def test_total_tokens_are_lowered_to_the_models_context_and_it_says_so(self) -> None:
        derived = derive(parse(), num_cpus=2, context_tokens=512)
        assert derived.max_total_tokens == 512
        assert derived.max_input_tokens == 256
        assert derived.max_batch_total_tokens == 8 * 512
        assert derived.notes == [
            "max_total_tokens is 512, the model's context, and not 2048",
            "max_input_tokens is 256, half of max_total_tokens",
        ]

    @pytest.mark.parametrize(
        ("arguments", "context", "expected"),
        [
            # flags -> max_input_tokens, max_total_tokens, max_batch_size, max_batch_total_tokens
            ("max-total=512", None, (256, 512, 8, 4096)),
            ("max-total=2", None, (1, 2, 8, 16)),
            ("max-total=8192", None, (1024, 8192, 8, 65536)),
            ("max-total=8192", 600, (300, 600, 8, 4800)),
            ("max-total=512 max-input=511", None, (511, 512, 8, 4096)),
            ("max-input=100", None, (100, 2048, 8, 16384)),
            ("max-input=3000", None, (3000, 4024, 8, 32192)),
            ("max-input=3000", 3500, (3000, 3500, 8, 28000)),
            ("max-batch-total=1000", None, (500, 1000, 8, 1000)),
            ("max-batch-total=1000 max-input=900", None, (900, 1000, 8, 1000)),
            ("max-batch-total=1000 max-total=300", None, (150, 300, 8, 1000)),
            ("max-batch-total=1000 max-batch-size=4", None, (500, 1000, 4, 1000)),
            ("max-batch-total=1000 max-batch-size=4 kv-layout=split", None, (125, 250, 4, 1000)),
            ("max-batch-total=4096 kv-layout=split", None, (1024, 2048, 2, 4096)),
            ("max-batch-total=1000 max-total=300 kv-layout=split", None, (150, 300, 3, 1000)),
            ("max-batch-size=256 max-total=100000000", 4096, (1024, 4096, 256, 1 << 20)),
        ],
    )
    def test_a_limit_that_nobody_set_follows_from_those_that_are(
        self, arguments: str, context: int | None, expected: tuple[int, ...]
    ) -> None:
        lengths = ("max-total", "max-input", "max-batch-total")
        options = {name: f"--{name}-tokens" for name in lengths}
        words = [text.partition("=") for text in arguments.split()]
        given = {options.get(name, f"--{name}"): value for name, _, value in words}
        texts = [f"{name}={value}" for name, value in given.items()]
        config = parse(*texts)
        derive(config, num_cpus=2)  # nothing contradicts itself before the model is known, either
        derived = derive(config, num_cpus=2, context_tokens=context)
        assert expected == (
            derived.max_input_tokens,
            derived.max_total_tokens,
            derived.max_batch_size,
            derived.max_batch_total_tokens,
        )
        variables = {name[2:].upper().replace("-", "_"): value for name, value in given.items()}
        assert parse(**variables) == config

    @pytest.mark.parametrize(
        ("arguments", "context", "reason"),
        [
            (["--max-input-tokens=600"], 512, "Given: 600 and 512, the model's context"),
            (
                ["--max-input-tokens=600", "--max-batch-total-tokens=512"],
                None,
                "Given: 600 and 512, all that `max_batch_total_tokens` allows",
            ),
            (["--max-total-tokens=1"], None, "`max_total_tokens` must be >= 2"),
        ],
    )
    def test_a_limit_that_leaves_no_room_is_named(
        self, arguments: list[str], context: int | None, reason: str
    ) -> None:
        with pytest.raises(StartupError) as error:
            derive(parse(*arguments), num_cpus=2, context_tokens=context)
        assert reason in str(error.value)

    def test_a_longer_context_changes_nothing(self) -> None:
        assert derive(parse(), 2, context_tokens=131072) == derive(parse(), 2)

    @pytest.mark.parametrize(
        ("arguments", "memory_gib", "mib"),
        [([], 4, 512), ([], 256, 8192), (["--cache-ram=100"], 4, 100), (["--cache-ram=0"], 4, 0)],
    )
    def test_prefixes_get_an_eighth_of_memory_or_what_was_asked_for(
        self, arguments: list[str], memory_gib: int, mib: int
    ) -> None:
        config = parse(*arguments)
        derived = derive(config, 2, memory_bytes=memory_gib << 30)
        assert derived.cache_ram_mib == mib
        engine = engine_config(config, derived, "m.gguf", [])
        assert engine.max_host_cache_bytes == mib << 20

    def test_tgis_third_check_is_no_error(self) -> None:
        config = parse("--max-batch-size=16", "--max-batch-total-tokens=4096")
        assert derive(config, 2).max_batch_total_tokens == 4096

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--max-total-tokens=512", "--max-input-tokens=1024"],
                "`max_input_tokens` must be < `max_total_tokens`. Given: 1024 and 512",
            ),
            (
                ["--max-batch-total-tokens=2047", "--max-total-tokens=2048"],
                "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 2048 and 2047",
            ),
            (["--validation-workers=0"], "`validation_workers` must be > 0"),
            (["--max-batch-size=257"], "`max_batch_size` must be <= 256"),
            (["--max-top-n-tokens=65"], "`max_top_n_tokens` must be <= 64"),
            (["--max-input-tokens=5", "--max-input-length=5"], "set only `max_input_tokens`"),
            (
                [
                    *("--kv-layout=split", "--max-batch-size=16"),
                    *("--max-batch-total-tokens=32767", "--max-total-tokens=2048"),
                ],
                "--kv-layout split needs `max_batch_size` x `max_total_tokens` (32768) tokens of KV"
                " cache, and `max_batch_total_tokens` is 32767: raise it",
            ),
            (["--type-k=q6-k"], "--type-k q6-k: a KV cache can be f32, f16, bf16, q8-0"),
            (["--type-v=q8-0", "--disable-flash-attention"], "--type-v q8-0 needs flash attention"),
        ],
    )
    def test_limits_that_contradict_each_other_are_refused(
        self, arguments: list[str], message: str
    ) -> None:
        with pytest.raises(StartupError) as error:
            derive(parse(*arguments), num_cpus=2)
        assert message in str(error.value)

    def test_a_switch_cannot_be_on_and_off(self) -> None:
        with pytest.raises(UsageError, match="--disable-mmap"):
            derive(parse("--use-mmap", "--disable-mmap"), num_cpus=2)

    def test_both_spellings_of_a_switch_reach_the_engine(self) -> None:
        def engine(*arguments: str, **environ: str) -> tuple[bool, bool, bool]:
            config = parse(*arguments, **environ)
            resolved = engine_config(config, derive(config, 2), "m.gguf", [])
            return resolved.use_mmap, resolved.offload_kqv, resolved.flash_attention

        assert engine() == (True, True, True)
        assert engine("--use-mmap", "--offload-kqv", "--flash-attention") == (True, True, True)
        assert engine("--disable-mmap", "--disable-offload-kqv", "--disable-flash-attention") == (
            False, False, False,
        )  # fmt: skip
        assert engine(USE_MMAP="false", FLASH_ATTENTION="false") == (False, True, False)

    def test_a_gpu_number_means_that_gpu_alone(self) -> None:
        config = parse("--split-mode=2")
        resolved = engine_config(config, derive(config, 2), "m.gguf", [7])
        assert (resolved.split_mode, resolved.main_gpu) == ("none", 2)
        assert (resolved.n_gpu_layers, resolved.extra_eog_ids) == (-1, [7])

    @pytest.mark.parametrize(
        ("layout", "budget", "is_unified"),
        [
            ("auto", 16384, False),
            ("auto", 16383, True),
            ("split", 16384, False),
            ("unified", 16384, True),
            ("unified", 16383, True),
        ],
    )
    def test_the_kv_layout_follows_the_budget_or_the_operator(
        self, layout: str, budget: int, is_unified: bool
    ) -> None:
        config = parse(f"--kv-layout={layout}", f"--max-batch-total-tokens={budget}")
        resolved = engine_config(config, derive(config, 2), "m.gguf", [])
        assert resolved.is_kv_unified(resolved.max_total_tokens) is is_unified

    def test_the_router_gets_what_the_engine_has_room_for(self) -> None:
        config = parse("--max-input-tokens=100")
        limits = router_config(config, derive(config, 2), "name", _ready(1500)).limits
        assert (limits.max_input_tokens, limits.max_total_tokens) == (100, 1500)
        assert (limits.max_best_of, limits.max_stop_sequences, limits.max_top_n_tokens) == (2, 4, 5)
        with pytest.raises(StartupError, match="lower --max-input-tokens"):
            router_config(config, derive(config, 2), "name", _ready(90))
        limits = router_config(parse(), derive(parse(), 2), "name", _ready(90)).limits
        assert (limits.max_input_tokens, limits.max_total_tokens) == (45, 90)

    def test_any_origin_may_be_spelled_as_a_star(self) -> None:
        config = parse("--cors-allow-origin", "*")
        assert router_config(config, derive(config, 2), "n", _ready(2048)).cors_allow_origin == []

    def test_no_more_candidates_are_allowed_than_may_run_at_once(self) -> None:
        config = parse("--max-concurrent-requests=1")
        assert router_config(config, derive(config, 2), "n", _ready(2048)).limits.max_best_of == 1


def _ready(max_sequence_tokens: int) -> Ready:
    return Ready(
        epoch=1, protocol_version=1, package_version=__version__, num_vocab=10, bos_id=None,
        eog_ids=[], pieces_hash="", num_slots=8, max_sequence_tokens=max_sequence_tokens,
        max_batch_total_tokens=16384, device="CPU", notes=[],
    )  # fmt: skip


class TestUsableMemory:
    def test_without_cgroups_it_is_the_machines(self, tmp_path: Path) -> None:
        num_bytes = usable_memory_bytes(tmp_path)
        assert num_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def test_a_limit_of_version_two_counts(self, tmp_path: Path) -> None:
        _write(tmp_path / "proc/self/cgroup", "0::/kube/pod\n")
        _write(tmp_path / "sys/fs/cgroup/kube/memory.max", "1000000")
        _write(tmp_path / "sys/fs/cgroup/kube/pod/memory.max", "max")
        assert usable_memory_bytes(tmp_path) == 1000000

    def test_a_limit_of_version_one_counts(self, tmp_path: Path) -> None:
        _write(tmp_path / "proc/self/cgroup", "4:memory:/docker/x\n")
        _write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000")
        assert usable_memory_bytes(tmp_path) == 2000000


class TestUsableCpus:
    def test_without_cgroups_it_is_the_affinity_mask(self, tmp_path: Path) -> None:
        assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))

    @pytest.mark.parametrize(("quota", "num_cpus"), [("100000 100000", 1), ("1000 100000", 1)])
    def test_a_quota_of_version_two_counts(self, tmp_path: Path, quota: str, num_cpus: int) -> None:
        _write(tmp_path / "proc/self/cgroup", "0::/kube/pod\n")
        _write(tmp_path / "sys/fs/cgroup/kube/cpu.max", quota)
        _write(tmp_path / "sys/fs/cgroup/kube/pod/cpu.max", "max 100000")
        assert usable_cpus(tmp_path) == num_cpus

    def test_a_quota_of_version_one_counts(self, tmp_path: Path) -> None:
        _write(tmp_path / "proc/self/cgroup", "3:cpuset:/\n1:cpu,cpuacct:/docker/x\n")
        _write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000")
        _write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
        assert usable_cpus(tmp_path) == 1

    def test_no_quota_is_no_limit(self, tmp_path: Path) -> None:
        _write(tmp_path / "proc/self/cgroup", "0::/\n1:cpu:/\n")
        _write(tmp_path / "sys/fs/cgroup/cpu.max", "max 100000")
        _write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
        _write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
        assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
