"""Several keys, from a file that may change, and who shares prefixes with whom."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import MakeServer
from tests.server_process import PATIENCE_S, ServerProcess
from tgi_llamacpp import flags
from tgi_llamacpp.errors import StartupError, UsageError
from tgi_llamacpp.messages import Submit
from tgi_llamacpp.router.api_keys import ApiKeys


def write_keys(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def numbers(keys: ApiKeys, *names: str) -> list[int | None]:
    return [keys.scope_of(f"Bearer {name}".encode()) for name in names]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_file_holds_a_key_a_line_beside_comments_and_empty_lines(tmp_path: Path) -> None:
    path = write_keys(tmp_path, "# of the web shop\nalpha\n\n  beta \r\nalpha\n#gamma\n")
    keys = ApiKeys("delta", path)
    assert keys.num_keys == 3
    assert None not in numbers(keys, "alpha", "beta", "delta")
    assert len(set(numbers(keys, "alpha", "beta", "delta"))) == 3
    assert numbers(keys, "gamma", "#gamma", "", " ", "alph", "alphaa", "ALPHA") == [None] * 7
    assert keys.scope_of(b"alpha") is None
    assert keys.scope_of(b"Basic alpha") is None
    assert keys.scope_of(b"") is None
    assert keys.scope_of("Bearer älpha".encode()) is None


@pytest.mark.parametrize("text", ["alpha\n", " alpha", "\talpha \r\n"])
def test_white_space_around_a_key_is_no_part_of_it_wherever_it_is_written(
    tmp_path: Path, text: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'api-key = """{text}"""')
    for arguments, environ in (
        (["--api-key", text], {}),
        ([], {"API_KEY": text}),
        ([f"--config={config}"], {}),
    ):
        settings = flags.parse(["--model-id", "m", *arguments], environ)
        assert None not in numbers(ApiKeys(settings.api_key), "alpha")
    assert None not in numbers(ApiKeys(None, write_keys(tmp_path, text)), "alpha")


@pytest.mark.parametrize(
    "text", ["", " \n", "al pha", "al\npha", "schlüssel", "\ufeffalpha", "a\x00"]
)
def test_a_key_that_no_client_can_send_is_refused_without_telling_it(text: str) -> None:
    for arguments, environ, source in (
        (["--api-key", text], {}, "--api-key"),
        ([], {"API_KEY": text}, "API_KEY"),
    ):
        if environ.get("API_KEY") == "":  # an empty variable is one that is unset
            continue
        with pytest.raises(UsageError, match=f"invalid value for {source}: a key ") as caught:
            flags.parse(["--model-id", "m", *arguments], environ)
        assert not text.strip() or text not in str(caught.value)


def test_a_file_of_keys_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert None not in numbers(ApiKeys(None, write_keys(tmp_path, "\ufeffalpha\r\nbeta")), "alpha")
    assert ApiKeys(None, write_keys(tmp_path, "\ufeff# of the shop\nbeta")).num_keys == 1


def test_a_client_may_send_spaces_before_its_key() -> None:
    keys = ApiKeys("alpha")
    assert keys.scope_of(b"Bearer  alpha") == keys.scope_of(b"Bearer alpha") is not None
    assert keys.scope_of(b"Bearer al pha") is None


def test_without_keys_none_are_needed() -> None:
    assert not ApiKeys().are_needed
    assert ApiKeys("a").are_needed


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no key"),
        ("# none\n\n", "holds no key"),
        ("a key\n", "line 1 is no key"),
        ("good\nschlüssel\n", "line 2 is no key"),
        (b"good\n\x00\xff\n", "line 2 is no key"),
        ("a" * 2_000_000, "longer than 1048576 bytes"),
        (None, "cannot be read: no such file"),
    ],
)
def test_a_file_that_would_leave_doubt_is_refused_without_telling_a_key(
    tmp_path: Path, content: str | bytes | None, told: str
) -> None:
    path = tmp_path / "keys" if content is None else write_keys(tmp_path, content)
    with pytest.raises(StartupError, match=told) as caught:
        ApiKeys(None, path)
    assert "good" not in str(caught.value)


def test_a_file_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ApiKeys(None, write_keys(tmp_path, "a", 0o600))
    assert not caplog.records
    ApiKeys(None, write_keys(tmp_path, "a", 0o644))
    assert "chmod 600" in caplog.text


def test_a_reload_takes_the_new_keys_and_their_numbers_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write_keys(tmp_path, "alpha\nbeta\n")
    keys = ApiKeys(None, path)
    (alpha, beta) = numbers(keys, "alpha", "beta")
    write_keys(tmp_path, "gamma\nbeta\n")
    keys.reload("delta", path)
    assert numbers(keys, "alpha", "beta") == [None, beta]
    assert len({alpha, beta, *numbers(keys, "gamma", "delta"), None}) == 5
    assert "3 API keys" in caplog.text
    write_keys(tmp_path, "alpha\nbeta\n")
    keys.reload(None, path)
    assert numbers(keys, "alpha", "beta", "gamma", "delta") == [alpha, beta, None, None]


@pytest.mark.parametrize("content", ["", "two words\n", None])
def test_a_broken_file_at_a_reload_leaves_the_keys_as_they_were(
    tmp_path: Path, content: str | None
) -> None:
    path = write_keys(tmp_path, "alpha\n")
    keys = ApiKeys(None, path)
    before = numbers(keys, "alpha", "two")
    path.unlink()
    if content is not None:
        write_keys(tmp_path, content)
    with pytest.raises(StartupError) as caught:
        keys.reload("beta", path)
    assert numbers(keys, "alpha", "two") == before
    assert numbers(keys, "beta") == [None]
    assert "two words" not in str(caught.value)


def test_a_reload_does_not_open_a_server_that_was_closed(tmp_path: Path) -> None:
    keys = ApiKeys("alpha")
    with pytest.raises(StartupError, match="start the server anew"):
        keys.reload(None, None)
    assert keys.are_needed
    assert None not in numbers(keys, "alpha")
    without = ApiKeys()
    without.reload(None, None)
    assert not without.are_needed


def test_the_time_of_a_refusal_does_not_tell_how_much_of_a_key_is_right() -> None:
    """Digests are compared, so that nothing depends on a common beginning; coarse on purpose."""
    keys = ApiKeys("k" * 4096)

    def best_s(key: str) -> float:
        header = f"Bearer {key}".encode()
        times = []
        for _ in range(200):
            start = time.perf_counter()
            assert keys.scope_of(header) is None
            times.append(time.perf_counter() - start)
        return min(times)

    assert best_s("k" * 4095 + "x") < 2 * best_s("x" * 4096) + 1e-5


def test_every_key_of_the_file_opens_the_server(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(api_key_file=str(write_keys(tmp_path, "alpha\nbeta\n")))
    for key, status in (("alpha", 200), ("beta", 200), ("gamma", 401)):
        response = httpx.post(f"{server.url}/generate", json={"inputs": "a"}, headers=bearer(key))
        assert response.status_code == status
    document = httpx.get(f"{server.url}/api-doc/openapi.json").json()
    assert "securitySchemes" in document["components"]


@pytest.mark.parametrize(("scope", "num_scopes"), [("key", 3), ("all", 1)])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_the_engine_gets_a_number_for_the_key_and_not_the_key(
    make_server: MakeServer, tmp_path: Path, scope: str, num_scopes: int, path: str
) -> None:
    server = make_server(
        api_key="gamma",
        api_key_file=str(write_keys(tmp_path, "alpha\nbeta\n")),
        prefix_cache_scope=scope,
    )
    body = {"inputs": "a", "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    for key in ("alpha", "beta", "gamma") * 2:
        assert httpx.post(server.url + path, json=body, headers=bearer(key)).status_code == 200
    scopes = [m.scope for m in server.engine.received if isinstance(m, Submit)]
    assert scopes[:3] == scopes[3:]
    assert len(set(scopes)) == num_scopes


@pytest.mark.parametrize(("flags", "is_shared"), [((), False), (("all",), True)])
def test_a_prompt_is_computed_once_for_each_key_unless_all_may_share(
    tmp_path: Path, flags: tuple[str, ...], is_shared: bool
) -> None:
    path = write_keys(tmp_path, "alpha\nbeta\n")
    arguments = [f"--api-key-file={path}", *(f"--prefix-cache-scope={flag}" for flag in flags)]
    prompt = " ".join(f"rule{i}" for i in range(60))

    def num_cached(server: ServerProcess, key: str) -> int:
        answer = httpx.post(
            f"{server.url}/v1/completions",
            json={"prompt": prompt, "max_tokens": 1},
            headers=bearer(key),
            timeout=PATIENCE_S,
        )
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    with ServerProcess("demo", *arguments) as server:
        assert num_cached(server, "alpha") == 0
        assert num_cached(server, "alpha") > 100
        assert (num_cached(server, "beta") > 100) is is_shared
        assert num_cached(server, "beta") > 100
        assert "alpha" not in server.text
        assert "2 API keys" in server.text


def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    path = write_keys(tmp_path, "alpha\n")

    def status(server: ServerProcess, key: str) -> int:
        url, body = f"{server.url}/tokenize", {"inputs": "a"}
        return httpx.post(url, json=body, headers=bearer(key), timeout=PATIENCE_S).status_code

    with ServerProcess("demo", f"--api-key-file={path}") as server:
        assert [status(server, key) for key in ("alpha", "beta")] == [200, 401]
        write_keys(tmp_path, "beta\ngamma\n")
        server.signal(signal.SIGHUP)
        server.wait_for("2 API keys")
        assert [status(server, key) for key in ("alpha", "beta")] == [401, 200]
        write_keys(tmp_path, "two words\n")
        server.signal(signal.SIGHUP)
        server.wait_for("not all is reloaded: .* line 1 is no key")
        assert [status(server, key) for key in ("alpha", "beta")] == [401, 200]
