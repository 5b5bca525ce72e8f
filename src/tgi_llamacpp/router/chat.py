"""Chat templates: where a model's template is found, and messages rendered to a prompt.

transformers itself renders, sandboxed, so a prompt here is the prompt there; what the template
complains about becomes a TemplateError. A template that does not parse is no reason not to start:
chat requests answer with the complaint. Knows nothing of HTTP, tool choice or tokens. Templates are
found in the router and rendered in router/template_process.py, which bounds what they take.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jinja2

from tgi_llamacpp.errors import TemplateError
from tgi_llamacpp.router.chat_messages import ContentForm, Message, variants, with_known_roles
from tgi_llamacpp.router.gguf_metadata import GgufMetadata
from tgi_llamacpp.router.tokenizer import LoadedTokenizer
from tgi_llamacpp.router.tokenizer_files import TokenizerFiles

_DEFAULT = "default"
_TOOL_USE = "tool_use"
_RESERVED = frozenset(
    (
        "messages",
        "conversations",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "return_assistant_tokens_mask",
    )
)
_TESTS_FOR_NONE = re.compile(r"""content['"]?\]?\s*(is\s+(not\s+)?|[!=]=\s*)none""", re.IGNORECASE)
_MAX_COMPLAINT_CHARS = 1000
_PROBE = "\ue000probe\ue000"
_A_TOOL = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


class ChatTemplate:
    """A model's templates by name; `source` says for the log where they came from."""

    def __init__(
        self,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str],
        source: str | None = None,
    ) -> None:
        self._templates = dict(templates)
        self._special_tokens = dict(special_tokens)
        self._forms: dict[str, ContentForm] = {}  # by template, as they are tried
        self._refused: dict[str, str] = {}  # by name, why
        self.source = source

    @property
    def names(self) -> list[str]:
        return sorted(self._templates)

    def load_renderer(self) -> None:
        """Import it, as the first render would."""
        _renderer()

    def probe(self, name: str) -> None:
        """Render conversations as they come, so that a template that takes for ever shows.

        Raises:
            TemplateError: it does not parse, or has no memory.
        """
        template = self._templates[name]
        self._content_form(template)
        for chat in _conversations():
            try:
                self.render(chat, tools=_A_TOOL if name == _TOOL_USE else None)
            except TemplateError as error:
                if isinstance(error.__cause__, MemoryError):
                    raise

    def refuse(self, name: str, reason: str) -> None:
        """Never render the template of this name; say why instead."""
        self._refused[name] = reason

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        documents: list[dict[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        reasoning_effort: str | None = None,
    ) -> str:
        """The prompt of a conversation, to be encoded without special tokens.

        `messages` are as the client sent them: content is text, chunks or None, a tool call's
        arguments may be JSON text. `template_kwargs` are the template's own variables, and
        `reasoning_effort` is one where it knows it.

        Raises:
            TemplateError: there is no template, or it complains.
        """
        template = self._choose(tools)
        options = {
            "tools": tools or None,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
            "continue_final_message": continue_final_message,
            **self._variables(template_kwargs or {}),
            **_reasoning(template, reasoning_effort, template_kwargs or {}),
        }
        keeps_none = _TESTS_FOR_NONE.search(template) is not None
        chat = with_known_roles(messages, template)
        attempts = variants(chat, self._content_form(template), keeps_none=keeps_none)
        return _first_success(lambda chat: _render(template, chat, options), attempts)

    def _choose(self, tools: list[dict[str, Any]] | None) -> str:
        name = _TOOL_USE if tools and _TOOL_USE in self._templates else _DEFAULT
        if name in self._refused:
            raise TemplateError(f"the model's template is refused: {self._refused[name]}")
        template = self._templates.get(name)
        if template is None:
            if not self._templates:
                raise TemplateError("template not found")
            known = ", ".join(sorted(self._templates))
            raise TemplateError(f"the model has no default template, only {known}")
        return template

    def _variables(self, template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        reserved = sorted(_RESERVED.intersection(template_kwargs))
        if reserved:
            raise TemplateError(
                f"`chat_template_kwargs` must not name {reserved[0]}, which the server sets"
            )
        return {**self._special_tokens, **template_kwargs}

    def _content_form(self, template: str) -> ContentForm:
        """Whether the template takes content as text, as chunks, or as either."""
        if template not in self._forms:
            self._forms[template] = self._try_content_forms(template)
        return self._forms[template]

    def _try_content_forms(self, template: str) -> ContentForm:
        _compile(template)
        as_text = self._probe(template, _PROBE)
        as_chunks = self._probe(template, [{"type": "text", "text": _PROBE}])
        if as_text is None:
            return ContentForm.TEXT if as_chunks is None else ContentForm.CHUNKS
        return ContentForm.EITHER if as_chunks == as_text else ContentForm.TEXT

    def _probe(self, template: str, content: object) -> str | None:
        """What a one-message chat renders to, or None where its content is lost or refused."""
        try:
            prompt = _render(template, [{"role": "user", "content": content}], self._special_tokens)
        except MemoryError:
            raise
        except Exception:
            return None
        return prompt if _PROBE in prompt else None


def _reasoning(
    template: str, effort: str | None, template_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables by which a template is told of an effort. Raises TemplateError."""
    if effort is None:
        return {}
    if template_kwargs.get("reasoning_effort", effort) != effort:
        raise TemplateError(
            "`reasoning_effort` differs from that of `chat_template_kwargs`: send one of them"
        )
    if effort == "none" and template_kwargs.get("enable_thinking"):
        raise TemplateError(
            "`reasoning_effort` none differs from `enable_thinking` of `chat_template_kwargs`:"
            " send one of them"
        )
    if effort == "none":
        # To templates without such a switch no effort is what they know.
        return {"enable_thinking": False} if "enable_thinking" in template else {}
    if "reasoning_effort" in template:
        return {"reasoning_effort": effort}
    raise TemplateError(
        "`reasoning_effort` has no meaning for this model, whose chat template does not know it:"
        " leave it out"
    )


def _conversations() -> list[list[Message]]:
    """A short one, and a long one."""
    turns: list[Message] = [
        {"role": role, "content": f"{_PROBE} {number} " + "word " * 200}
        for number in range(50)
        for role in ("user", "assistant")
    ]
    return [turns[:1], [{"role": "system", "content": _PROBE}, *turns, turns[0]]]


def load_chat_template(
    metadata: GgufMetadata,
    tokenizer: LoadedTokenizer,
    *,
    folder: Path | None = None,
    tokenizer_config_path: Path | None = None,
) -> ChatTemplate:
    """The template of an explicit tokenizer config, else of the folder, else of the GGUF.

    Raises:
        StartupError: a JSON file that may hold it is broken.
    """
    files = TokenizerFiles(folder, tokenizer_config_path)
    sources: list[tuple[str, Callable[[], dict[str, str]]]] = [
        ("chat_template.jinja", files.chat_templates),
        ("chat_template.json", lambda: _named(files.read("chat_template.json"))),
        (files.config_name, lambda: _named(files.config)),
        (f"{metadata.path.name}'s metadata", lambda: metadata.chat_templates),
    ]
    if tokenizer_config_path is not None:
        sources.insert(0, sources.pop(2))
    for source, read in sources:
        # A converter keeps the byte order mark of a template that it takes over.
        templates = {name: text.removeprefix("\ufeff") for name, text in read().items()}
        if templates:
            return ChatTemplate(templates, tokenizer.special_tokens, source)
    return ChatTemplate({}, tokenizer.special_tokens)


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    """`chat_template` of a JSON file: one text, or a list of {name, template}."""
    value = config.get("chat_template")
    if isinstance(value, str):
        return {_DEFAULT: value}
    if not isinstance(value, list):
        return {}
    entries = [entry for entry in value if isinstance(entry, dict)]
    pairs = [(entry.get("name"), entry.get("template")) for entry in entries]
    return {n: t for n, t in pairs if isinstance(n, str) and isinstance(t, str)}


def _first_success(render: Callable[[list[Message]], str], attempts: list[list[Message]]) -> str:
    """The first of `attempts` that renders; where none does, the complaint about the first."""
    first_error: Exception | None = None
    for chat in attempts:
        try:
            return render(chat)
        except (TypeError, jinja2.UndefinedError) as error:  # it expected the data otherwise
            first_error = first_error or error
        except Exception as error:
            raise _complaint(first_error or error) from error
    assert first_error is not None
    raise _complaint(first_error) from first_error


def _complaint(error: Exception) -> TemplateError:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, KeyError | MemoryError | RecursionError):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, jinja2.TemplateSyntaxError):
        text = f"syntax error in line {error.lineno}: {error.message}"
    return TemplateError(text[:_MAX_COMPLAINT_CHARS])


def _compile(template: str) -> None:
    """Parses the template, so that a syntax error shows whatever the messages are."""
    try:
        _render(template, [], {})
    except jinja2.TemplateSyntaxError as error:
        raise _complaint(error) from error
    except MemoryError:
        raise
    except Exception:  # an empty chat is not what the template expects
        return


def _render(template: str, chat: list[Message], options: Mapping[str, Any]) -> str:
    prompts, _ = _renderer()([chat], chat_template=template, **options)
    return str(prompts[0])


@functools.cache
def _renderer() -> Callable[..., tuple[list[str], object]]:
    """transformers' renderer, imported when a chat needs it: that takes most of a second."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would miss PyTorch
    from transformers.utils.chat_template_utils import render_jinja_template

    # It gives (prompts, spans of the assistant's text), whatever its annotation says.
    return cast("Callable[..., tuple[list[str], object]]", render_jinja_template)
