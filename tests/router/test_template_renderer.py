"""Hostile chat templates: an error, bounded in time and memory, and the next chat is rendered."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.server_process import PATIENCE_S, ServerProcess, copy_of_demo_model
from tgi_llamacpp.errors import TemplateError
from tgi_llamacpp.router.chat import ChatTemplate
from tgi_llamacpp.router.template_process import RenderLimits
from tgi_llamacpp.router.template_renderer import TemplateRenderer

LIMITS = RenderLimits(max_cpu_s=0.3, max_memory_bytes=128 << 20, max_prompt_bytes=100_000)
ECHO = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
HI = [{"role": "user", "content": "hi"}]
ON_BOMB = "{% if messages[0].content == 'bomb' %}BOMB{% endif %}" + ECHO
# `n` is 9, and not known when the template is compiled.
LOOPS = {
    "loops": "{% for a in range(n**5) %}{% for b in range(n**5) %}{% endfor %}{% endfor %}",
    "loops without a call": (
        "{% set r = range(n**5) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}"
    ),
    "a power": "{{ n ** (n ** n) }}",
    "filters": "{{ range(n**5) | list | map('string') | join | length * n ** 4 }}"
    "{% for i in range(n**5) %}{{ (range(n**5) | sum) and '' }}{% endfor %}",
}
GREEDS = {
    "a product": "{{ 'a' * n ** 10 }}",
    "a product of lists": "{{ ([0] * n ** 10) | length }}",
    "a width": "{{ '%1000000000d' % n }}",
    "a format": "{{ '{:1000000000}'.format(n) }}",
    "centering": "{{ 'a'.center(n ** 9) }}",
    "a filter": "{{ 'a' | center(n ** 9) }}",
    "indent": "{{ messages | tojson(indent=n ** 9) }}",
    "doubling": (
        "{% set m = namespace(s='aaaaaaaa') %}{% for i in range(n * 7) %}"
        "{% set m.s = m.s + m.s %}{% endfor %}{{ m.s }}"
    ),
    "replacing": "{{ ('a' * n ** 5).replace('a', 'b' * n ** 5) }}",
    "joining": "{{ ('b' * n ** 5).join(['c'] * n ** 6) }}",
}
N = "{% set n = (messages | length) + 8 %}"


@pytest.fixture(scope="module")
def bombs() -> Iterator[TemplateRenderer]:
    """Each is well behaved but for a chat that says its name."""
    parts = "".join(
        f"{{% if messages[0].content == '{name}' %}}{bomb}{{% endif %}}"
        for name, bomb in {**LOOPS, **GREEDS}.items()
    )
    renderer = TemplateRenderer(ChatTemplate({"default": N + parts + ECHO}, {}), LIMITS)
    renderer.prepare()
    yield renderer
    renderer.close()


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_what_is_rendered_is_what_the_template_renders(bombs: TemplateRenderer) -> None:
    assert bombs.render(HI) == "[user]hi"
    odd = chat("ä\ue000𝄞\x00\n" + "x" * 1000)
    assert bombs.render(odd) == ChatTemplate({"default": ECHO}, {}).render(odd)


@pytest.mark.parametrize("name", [*LOOPS, *GREEDS])
def test_a_chat_that_sets_a_bomb_off_fails_alone(bombs: TemplateRenderer, name: str) -> None:
    assert bombs.render(HI) == "[user]hi"
    start_s = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        bombs.render(chat(name))
    assert time.monotonic() - start_s < 15
    assert len(str(caught.value)) < 2000
    if name in LOOPS:
        assert "0.3 s of CPU time" in str(caught.value)
    assert bombs.render(HI) == "[user]hi"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages | attr('__class__') }}",
        "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{% for k in messages.append.__self__ %}{{ k.__class__.__mro__ }}{% endfor %}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{% set _ = messages.append(1) %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ strftime_now.__globals__ }}",
    ],
)
def test_what_reaches_for_attributes_gets_nothing(template: str) -> None:
    renderer = TemplateRenderer(ChatTemplate({"default": template}, {}), LIMITS)
    try:
        text = renderer.render(HI)
    except TemplateError as error:
        text = str(error)
    finally:
        renderer.close()
    assert "root:" not in text
    assert "uid=" not in text
    assert "<function" not in text
    assert "<class 'os" not in text


@pytest.mark.parametrize(
    "bomb",
    [N + LOOPS["loops"], N + GREEDS["a product"], "{{ 9 ** (9 ** 9) }}", "{{ 'a' * 10**10 }}"],
)
def test_a_template_that_fails_at_once_is_refused_from_the_start(
    bomb: str, caplog: pytest.LogCaptureFixture
) -> None:
    renderer = TemplateRenderer(ChatTemplate({"default": bomb, "tool_use": ECHO}, {}), LIMITS)
    try:
        renderer.prepare()
        assert "chat template 'default' is refused: " in caplog.text
        start_s = time.monotonic()
        for _ in range(3):
            with pytest.raises(TemplateError, match="the model's template is refused: it takes"):
                renderer.render(HI)
        assert time.monotonic() - start_s < 10  # nothing is tried again
        assert renderer.render(HI, tools=[{"type": "function"}]) == "[user]hi"
    finally:
        renderer.close()


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
        "{% if true %}" * 5000 + "{% endif %}" * 5000,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "-" * 100_000 + "1 }}",
    ],
    ids=["brackets", "blocks", "recursion", "signs"],
)
def test_a_template_that_is_too_deep_is_an_error(template: str) -> None:
    renderer = TemplateRenderer(ChatTemplate({"default": template}, {}), LIMITS)
    try:
        renderer.prepare()
        with pytest.raises(TemplateError):
            renderer.render(HI)
    finally:
        renderer.close()


def test_a_prompt_that_is_longer_than_any_may_be_is_refused() -> None:
    template = "{% for i in range(2000) %}{{ 'a' * 1000 }}{% endfor %}"
    renderer = TemplateRenderer(ChatTemplate({"default": template}, {}), LIMITS)
    try:
        with pytest.raises(TemplateError, match="has 2000000 bytes, and 100000 is the limit"):
            renderer.render(HI)
    finally:
        renderer.close()


def test_what_a_client_sends_cannot_make_a_good_template_explode(bombs: TemplateRenderer) -> None:
    hostile: list[tuple[list[dict[str, object]], dict[str, object]]] = [
        (chat("{{ 9 ** 9 ** 9 }}"), {}),
        ([{"role": {"a": 1}, "content": [["x"] * 1000] * 100}], {}),
        (chat("a"), {"template_kwargs": {"messages": 1}}),
        (chat("a"), {"template_kwargs": {"range": 10**30, "namespace": None}}),
        (chat("a"), {"documents": [{}] * 1000}),
    ]
    for messages, options in hostile:
        with contextlib.suppress(TemplateError):
            assert len(bombs.render(messages, **options)) < 10_000_000
    assert bombs.render(HI) == "[user]hi"


def test_chats_that_come_together_are_rendered_one_after_another_by_one_process() -> None:
    renderer = TemplateRenderer(ChatTemplate({"default": ECHO}, {}), LIMITS)
    try:
        renderer.prepare()
        pids = {renderer._idle.queue[-1]._process.pid}
        together = threading.Barrier(8)

        def render(number: int) -> str:
            together.wait(PATIENCE_S)
            return renderer.render(chat(str(number) * 1000))

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(render, range(8))) == [f"[user]{str(i) * 1000}" for i in range(8)]
        assert {child._process.pid for child in renderer._idle.queue} == pids
    finally:
        renderer.close()


def test_a_chat_does_not_wait_for_one_that_takes_longer_than_another_process_to_start() -> None:
    limits = replace(LIMITS, max_cpu_s=30.0, max_wall_s=60.0)
    slow = "{% if messages[0].content == 'slow' %}" + LOOPS["loops"] + "{% endif %}"
    renderer = TemplateRenderer(ChatTemplate({"default": N + slow + ECHO}, {}), limits)
    with ThreadPoolExecutor(1) as pool:
        try:
            renderer.prepare()
            busy = renderer._idle.queue[-1]
            waiting = pool.submit(renderer.render, chat("slow"))
            while renderer._num_asking == 0:
                time.sleep(0)
            assert renderer.render(HI) == "[user]hi"
            assert not waiting.done()
            busy._process.kill()
            with pytest.raises(TemplateError):
                waiting.result()
        finally:
            renderer.close()


def test_a_process_that_was_killed_is_replaced(bombs: TemplateRenderer) -> None:
    bombs.render(HI)
    child = bombs._idle.queue[-1]
    os.kill(child._process.pid, signal.SIGKILL)
    child._process.wait(10)
    assert bombs.render(HI) == "[user]hi"


def test_the_process_has_no_key_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "xylophone")
    renderer = TemplateRenderer(ChatTemplate({"default": ECHO}, {}), LIMITS)
    try:
        renderer.prepare()
        pid = renderer._idle.queue[-1]._process.pid
        assert b"xylophone" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        renderer.close()


@pytest.fixture
def server_with(tmp_path: Path) -> Callable[[str], ServerProcess]:
    def start(template: str) -> ServerProcess:
        path = copy_of_demo_model(tmp_path)
        (tmp_path / "chat_template.jinja").write_text(template)
        return ServerProcess("serve", f"--model-id={path.parent}")

    return start


def ask(server: ServerProcess, path: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=PATIENCE_S)


def test_a_server_with_a_hostile_template_serves_everything_but_chats(
    server_with: Callable[[str], ServerProcess],
) -> None:
    with server_with(N + LOOPS["loops"]) as server:
        answer = ask(server, "/v1/chat/completions", {"messages": HI})
        assert answer.status_code == 422
        assert "is refused: it takes more than 2 s of CPU time" in answer.json()["error"]["message"]
        body = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
        assert ask(server, "/generate", body).status_code == 200
        assert server.stop() == 0
        assert "chat template 'default' is refused" in server.text


def test_a_bomb_in_a_chat_leaves_other_routes_alone(
    server_with: Callable[[str], ServerProcess],
) -> None:
    bomb = N + ON_BOMB.replace("BOMB", LOOPS["loops"])
    with server_with(bomb) as server:
        url = server.url
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            for _ in range(2):
                answer = client.post("/v1/chat/completions", json={"messages": chat("bomb")})
                assert answer.status_code == 422
                assert "more than 2 s of CPU time" in answer.json()["error"]["message"]
            good = client.post(
                "/v1/chat/completions", json={"messages": chat("hello"), "max_tokens": 2}
            )
            assert good.status_code == 200
        assert server.stop() == 0
