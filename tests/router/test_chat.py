"""Chat templates: rendered as transformers renders them, found where models keep them."""

from __future__ import annotations

import copy
import json
import logging
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from tests.llamacpp_source import llamacpp_source
from tests.router import gguf_writer as writer
from tests.router.tiny_vocabulary import sentencepiece
from tgi_llamacpp import demo
from tgi_llamacpp.errors import StartupError, TemplateError
from tgi_llamacpp.router.chat import ChatTemplate, load_chat_template
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.template_renderer import TemplateRenderer
from tgi_llamacpp.router.tokenizer import load_tokenizer

__all__ = ["llamacpp_source"]

DEMO = Path(demo.__path__[0])
METADATA = read_metadata(DEMO / "demo.gguf")
TOKENIZER = load_tokenizer(METADATA, folder=DEMO)
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MIN_TEMPLATES = 50

Message = dict[str, Any]


def user(content: object) -> Message:
    return {"role": "user", "content": content}


def assistant(content: object) -> Message:
    return {"role": "assistant", "content": content}


ARGUMENTS = '{"location": "Paris"}'
CALL: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "get_weather", "arguments": ARGUMENTS},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "22 C"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather <now> & here",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
        },
    }
]
CONVERSATIONS: dict[str, tuple[list[Message], list[dict[str, Any]] | None]] = {
    "plain": ([user("Hello <b> & 'you'")], None),
    "system": ([{"role": "system", "content": "Be brief."}, user("Hi")], None),
    "multi-turn": ([user("a"), assistant("b"), user("c"), assistant("d"), user("e")], None),
    "tool": ([user("Weather?"), CALL, RESULT, assistant("It is 22 C."), user("Thanks")], TOOLS),
}


def transformers_renders(
    template: str, messages: list[Message], tools: list[dict[str, Any]] | None
) -> str | Exception:
    try:
        prompts, _ = render_jinja_template(
            [messages],
            chat_template=template,
            tools=tools,
            add_generation_prompt=True,
            **SPECIAL_TOKENS,
        )
        return str(prompts[0])
    except Exception as error:
        return error


def spellings(messages: list[Message]) -> list[list[Message]]:
    """How one may write a call for transformers: content none or empty, arguments parsed or not."""
    ways = []
    for content, arguments in product((None, ""), (json.loads(ARGUMENTS), ARGUMENTS)):
        way = copy.deepcopy(messages)
        for message in way:
            for call in message.get("tool_calls", ()):
                message["content"] = content
                call["function"]["arguments"] = arguments
        ways.append(way)
    return ways


def verdict(template: str, messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
    """What is wrong with our rendering of this conversation; "" if nothing is."""
    theirs = [transformers_renders(template, way, tools) for way in spellings(messages)]
    given = copy.deepcopy(messages)
    try:
        ours = ChatTemplate({"default": template}, SPECIAL_TOKENS).render(messages, tools=tools)
    except TemplateError as error:
        if any(isinstance(prompt, str) for prompt in theirs):
            return f"transformers renders it, here: {error.reason}"
        return "" if any(error.reason in str(their) for their in theirs) else error.reason
    assert messages == given  # a client's messages are left as they are
    return "" if ours in theirs else "differs"


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_every_template_renders_as_in_transformers_or_names_its_complaint(
    llamacpp_source: Path, kind: str
) -> None:
    paths = sorted((llamacpp_source / "models/templates").glob("*.jinja"))
    assert len(paths) >= MIN_TEMPLATES
    messages, tools = CONVERSATIONS[kind]
    verdicts = {path.stem: verdict(path.read_text("utf-8"), messages, tools) for path in paths}
    assert {name: text for name, text in verdicts.items() if text} == {}


def test_tool_calls_are_not_lost_and_no_none_is_printed(llamacpp_source: Path) -> None:
    """Templates disagree on what a call without text looks like; these are one of each kind."""
    messages, tools = CONVERSATIONS["tool"]
    for name in (
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",  # tests for none, wants JSON text
        "GLM-4.6",  # would print None
        "LFM2.5-8B-A1B",  # iterates over it
        "Qwen-Qwen3-0.6B",  # fails on none
        "meetkai-functionary-medium-v3.2",  # wants JSON text
    ):
        path = llamacpp_source / f"models/templates/{name}.jinja"
        prompt = rendered(path.read_text("utf-8"), messages, tools=tools)
        assert "Paris" in prompt, name
        assert "None" not in prompt, name
        assert "null" not in prompt, name


def rendered(template: str, messages: list[Message], **options: Any) -> str:
    return ChatTemplate({"default": template}, SPECIAL_TOKENS).render(messages, **options)


def complaint(template: str, messages: list[Message], **options: Any) -> str:
    with pytest.raises(TemplateError) as caught:
        rendered(template, messages, **options)
    assert str(caught.value) == f"Template error: {caught.value.reason}"
    return caught.value.reason


ECHO = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_the_demo_template_renders_as_its_tokenizer_does() -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(str(DEMO))
    ours = load_chat_template(METADATA, TOKENIZER, folder=DEMO)
    for messages, tools in CONVERSATIONS.values():
        expected = theirs.apply_chat_template(
            spellings(messages)[0], tools=tools, add_generation_prompt=True, tokenize=False
        )
        assert ours.render(messages, tools=tools) == expected


def test_a_rendered_chat_has_one_bos(tmp_path: Path) -> None:
    loaded = load_tokenizer(sentencepiece(tmp_path))
    template = ChatTemplate({"default": ECHO}, loaded.special_tokens)
    ids = loaded.tokenizer.encode(template.render([user("ab")]), add_special_tokens=False).ids
    assert loaded.adds_bos
    assert ids[0] == loaded.bos_id
    assert ids.count(ids[0]) == 1


def test_generation_prompt_kwargs_and_documents_reach_the_template() -> None:
    assert rendered(ECHO, [user("a")]) == "<s>[user]a[assistant]"
    assert rendered(ECHO, [user("a")], add_generation_prompt=False) == "<s>[user]a"
    thinking = "{{ enable_thinking }} {{ documents[0].title }}"
    options = {"template_kwargs": {"enable_thinking": False}, "documents": [{"title": "T"}]}
    assert rendered(thinking, [user("a")], **options) == "False T"


def test_the_final_message_is_continued() -> None:
    messages = [user("a"), assistant("The answer is ")]
    ended = ECHO.replace("{% endfor %}", "</s>{% endfor %}")
    prompt = rendered(ended, messages, continue_final_message=True)
    assert prompt == "<s>[user]a</s>[assistant]The answer is "


def test_a_message_that_cannot_be_continued_is_a_complaint() -> None:
    silent = "{% for m in messages %}{{ m.role }}{% endfor %}{# content #}"
    text = complaint(silent, [assistant("x" * 9000)], continue_final_message=True)
    assert "final message does not appear" in text
    assert len(text) <= 1000


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ raise_exception('only two roles') }}", "only two roles"),
        ("{% for m in messages %}\n{{ m.content", "syntax error in line 2: "),
        ("{% nonsense %}", "unknown tag 'nonsense'"),
        ("{{ messages[0].missing.deeper }}", "has no attribute 'missing'"),
        ("{{ messages | no_such_filter }}", "No filter named 'no_such_filter'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_what_a_template_complains_of_is_named(template: str, found: str) -> None:
    assert found in complaint(template, [user("a")])


def test_a_model_without_template_says_so() -> None:
    with pytest.raises(TemplateError, match=r"^Template error: template not found$"):
        ChatTemplate({}, {}).render([user("a")])
    with pytest.raises(TemplateError, match="no default template, only rag"):
        ChatTemplate({"rag": "x"}, {}).render([user("a")])


def test_variables_of_the_server_cannot_be_overridden() -> None:
    options = {"template_kwargs": {"messages": []}}
    assert "must not name messages" in complaint(ECHO, [user("a")], **options)


def test_requests_with_tools_take_the_tool_template() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools | length }}"}, {})
    assert template.render([user("a")], tools=TOOLS) == "1"
    assert template.render([user("a")]) == template.render([user("a")], tools=[]) == "plain"


CHUNKS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
FOR_CHUNKS = "{% for c in messages[0].content %}<{{ c.text }}>{% endfor %}"
FOR_EITHER = (
    "{% if messages[0].content is string %}{{ messages[0].content }}{% else %}"
    "{% for c in messages[0].content %}{{ c.text }}{{ ';' if not loop.last }}{% endfor %}"
    "{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "content", "prompt"),
    [
        ("{{ messages[0].content }}", CHUNKS, "ab"),
        ("{{ messages[0].content }}", "ab", "ab"),
        (FOR_CHUNKS, CHUNKS, "<a><b>"),
        (FOR_CHUNKS, "ab", "<ab>"),
        (FOR_EITHER, CHUNKS, "a;b"),
        (FOR_EITHER, "ab", "ab"),
        ("{{ messages[0].content }}", None, ""),
    ],
)
def test_content_reaches_a_template_in_the_form_it_takes(
    template: str, content: object, prompt: str
) -> None:
    assert rendered(template, [user(content)]) == prompt


def developer(content: str) -> Message:
    return {"role": "developer", "content": content}


ROLES = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"


@pytest.mark.parametrize(
    ("test", "role"),
    [
        ("", "system"),
        ("{% if messages[0].role == 'system' %}{% endif %}", "system"),
        ("{# for a developer #}", "system"),
        ("{% if messages[0].role == 'developer' %}{% endif %}", "developer"),
        ('{% if messages[0]["role"] in ("system", "developer") %}{% endif %}', "developer"),
    ],
)
def test_a_developers_message_is_the_systems_unless_the_template_knows_the_role(
    test: str, role: str
) -> None:
    messages = [developer("Be brief."), user("Hi")]
    assert rendered(test + ROLES, messages) == f"{role}=Be brief.;user=Hi;"
    assert messages[0]["role"] == "developer"  # the client's stay as they are


OLD_CALLS: list[Message] = [
    user("Weather?"),
    {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "get_weather", "arguments": ARGUMENTS},
    },
    {"role": "function", "name": "get_weather", "content": "22 C"},
]


def test_old_calls_of_functions_are_those_of_tools() -> None:
    template = (
        "{% for m in messages %}{{ m.role }} {{ m.name }} {{ m.tool_call_id }}"
        "{% for c in m.tool_calls %}{{ c.id }} {{ c.function.name }}"
        " {{ c.function.arguments.location }}{% endfor %};{% endfor %}"
    )
    wanted = "user  ;assistant  call00001 get_weather Paris;tool get_weather call00001;"
    assert rendered(template, OLD_CALLS) == wanted


def test_old_calls_stay_where_the_template_knows_them() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'function' %}{{ m.content }}{% endif %}"
        "{% if m.function_call %}{{ m.function_call.name }} {% endif %}{% endfor %}"
    )
    assert rendered(template, OLD_CALLS) == "get_weather 22 C"


@pytest.mark.parametrize(
    ("template", "effort", "prompt"),
    [
        ("{{ reasoning_effort | default('medium') }}", None, "medium"),
        ("{{ reasoning_effort | default('medium') }}", "high", "high"),
        ("{{ enable_thinking is defined and not enable_thinking }}", "none", "True"),
        ("{{ enable_thinking is defined and not enable_thinking }}", None, "False"),
        ("x", "none", "x"),
    ],
)
def test_a_template_that_knows_efforts_is_told_of_it(
    template: str, effort: str | None, prompt: str
) -> None:
    assert rendered(template, [user("a")], reasoning_effort=effort) == prompt


def test_an_effort_that_the_template_does_not_know_is_refused() -> None:
    told = complaint(ECHO, [user("a")], reasoning_effort="low")
    assert told.startswith("`reasoning_effort` has no meaning for this model")
    knows = "{{ reasoning_effort }}"
    options = {"reasoning_effort": "low", "template_kwargs": {"reasoning_effort": "high"}}
    assert "differs from that of `chat_template_kwargs`" in complaint(knows, [user("a")], **options)
    options = {"reasoning_effort": "none", "template_kwargs": {"enable_thinking": True}}
    assert "differs from `enable_thinking`" in complaint(knows, [user("a")], **options)


def test_content_that_is_no_text_is_refused() -> None:
    chunk = {"type": "input_audio", "input_audio": {}}
    assert "content of type 'input_audio'" in complaint(ECHO, [user([chunk])])


def test_arguments_that_are_no_object_stay_as_they_came() -> None:
    template = "{{ messages[0].tool_calls[0].function.arguments }}"
    for arguments in ("not json", "[1]", ""):
        call = {"function": {"name": "f", "arguments": arguments}}
        messages = [{"role": "assistant", "tool_calls": [call]}]
        assert rendered(template, messages) == arguments


def test_a_broken_template_is_logged_and_does_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    template = ChatTemplate({"default": "{% if"}, {}, "a file")
    renderer = TemplateRenderer(template)
    with caplog.at_level(logging.WARNING):
        renderer.prepare()
    renderer.close()
    (record,) = caplog.records
    assert "chat template 'default': syntax error in line 1" in record.getMessage()


def metadata_with(folder: Path, **templates: str) -> Any:
    values: dict[str, writer.Value] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a"],
    }
    values |= {key.replace("__", "."): text for key, text in templates.items()}
    return read_metadata(writer.write(folder, writer.model(values)))


def test_the_first_place_that_has_a_template_wins(tmp_path: Path) -> None:
    metadata = metadata_with(tmp_path, tokenizer__chat_template="of the GGUF")
    own_config = tmp_path / "mine.json"
    own_config.write_text('{"chat_template": "of my config"}')

    def source(config: Path | None = None) -> tuple[str | None, str]:
        template = load_chat_template(
            metadata, TOKENIZER, folder=tmp_path, tokenizer_config_path=config
        )
        return template.source, template.render([user("a")])

    assert source() == ("model.gguf's metadata", "of the GGUF")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "of the config"}')
    assert source() == ("tokenizer_config.json", "of the config")
    (tmp_path / "chat_template.json").write_text('{"chat_template": "of the JSON"}')
    assert source() == ("chat_template.json", "of the JSON")
    (tmp_path / "chat_template.jinja").write_text("of the file")
    assert source() == ("chat_template.jinja", "of the file")
    assert source(own_config) == (str(own_config), "of my config")
    own_config.write_text("{}")
    assert source(own_config) == ("chat_template.jinja", "of the file")


def test_named_templates_are_found_in_all_their_places(tmp_path: Path) -> None:
    metadata = metadata_with(
        tmp_path, tokenizer__chat_template="plain", tokenizer__chat_template__tool_use="gguf tools"
    )

    def with_tools() -> str:
        template = load_chat_template(metadata, TOKENIZER, folder=tmp_path)
        return template.render([user("a")], tools=TOOLS)

    assert with_tools() == "gguf tools"
    names = {"default": "plain", "tool_use": "config tools"}
    entries = [{"name": name, "template": text} for name, text in names.items()]
    config = json.dumps({"chat_template": entries})
    (tmp_path / "tokenizer_config.json").write_text(config)
    assert with_tools() == "config tools"
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "chat_templates").mkdir()
    (tmp_path / "chat_templates/tool_use.jinja").write_text("file tools")
    assert with_tools() == "file tools"


def test_a_model_without_any_template_has_no_source(tmp_path: Path) -> None:
    template = load_chat_template(metadata_with(tmp_path), TOKENIZER, folder=tmp_path)
    assert template.source is None


def test_a_broken_json_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(StartupError, match=r"chat_template\.json is not JSON"):
        load_chat_template(metadata_with(tmp_path), TOKENIZER, folder=tmp_path)
