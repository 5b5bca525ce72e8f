"""`/v1/chat/completions` and `/chat_tokenize`: messages in, one message a choice out.

Owns the chat route's own checks and its chunks. Rendering the template is router/chat.py's, the
rest of the order router/openai.py's.
"""

from __future__ import annotations

from functools import partial

from tgi_llamacpp.errors import ToolError, ValidationError
from tgi_llamacpp.router import render_openai, render_tgi
from tgi_llamacpp.router.aliases import wanted_length
from tgi_llamacpp.router.content_guard import GuardedPrompt
from tgi_llamacpp.router.exchange import Exchange
from tgi_llamacpp.router.fields_refused import REFUSED_IN_CHAT
from tgi_llamacpp.router.generation import Generation, TokenEvent
from tgi_llamacpp.router.json_format import quote
from tgi_llamacpp.router.message_checks import check_messages
from tgi_llamacpp.router.openai import (
    check_supported,
    collect,
    model_name,
    plan_choices,
    stream_chunks,
    to_parameters,
    to_rules,
)
from tgi_llamacpp.router.schemas_openai import CHAT, ChatRequest
from tgi_llamacpp.router.services import Services
from tgi_llamacpp.router.sse import event as sse_event
from tgi_llamacpp.router.validation import ValidRequest, validate

MAX_TOP_LOGPROBS = 20


async def chat_completions(exchange: Exchange) -> None:
    """POST /v1/chat/completions"""
    await answer_chat(exchange, await exchange.read(CHAT))


async def answer_chat(exchange: Exchange, request: ChatRequest) -> None:
    """Render, generate, and answer whole or in chunks."""
    services = exchange.services
    services.metrics.count_request()
    num_choices = check_chat(request, services)
    await exchange.while_connected(_run(exchange, request, num_choices))


async def _run(exchange: Exchange, request: ChatRequest, num_choices: int) -> None:
    services = exchange.services
    with services.permits.hold(num_choices):
        prompt = await render_prompt(request, services)
        valid = await _validate(request, prompt, services)
        plans = plan_choices(valid, num_choices)
        headers = render_tgi.compute_headers(services.config.compute_type, len(prompt.text))
        with exchange.generate(plans, keep_stop=False) as generation:
            if request.stream:
                fold = _ChatFold(services, request, generation)
                await stream_chunks(exchange, generation, fold, headers)
                return
            events = await collect(generation)
    await _respond(exchange, request, generation, events, headers)


async def chat_text(exchange: Exchange, request: ChatRequest) -> str:
    """The first choice's content alone, for routes that wrap a chat."""
    services = exchange.services
    services.metrics.count_request()
    num_choices = check_chat(request, services)
    if num_choices > 1:
        raise ValidationError(f"`n` must be 1 where the answer is one text. Given: {num_choices}")
    with services.permits.hold(1):
        prompt = await render_prompt(request, services)
        valid = await _validate(request, prompt, services)
        with exchange.generate(plan_choices(valid, 1), keep_stop=False) as generation:
            events = await collect(generation)
    exchange.report_success(generation.sequences)
    return "".join(event.visible for event in events[0])


async def _validate(
    request: ChatRequest, prompt: GuardedPrompt, services: Services
) -> ValidRequest:
    num_top = (request.top_logprobs or 0) if request.logprobs else 0
    length_field, max_tokens = wanted_length(request)
    parameters = to_parameters(request, max_tokens, num_top)
    rules = await to_rules(
        request,
        services,
        max_top_tokens=MAX_TOP_LOGPROBS,
        add_special_tokens=False,
        prompt_field="messages",
        length_field=length_field,
    )
    return await validate(
        services, prompt.text if prompt.ids is None else prompt.ids, parameters, rules
    )


async def render_prompt(
    request: ChatRequest, services: Services, *, with_spans: bool = False
) -> GuardedPrompt:
    """The messages as the model's template writes them. A last assistant message is continued.

    Raises:
        TemplateError: there is no template, or it complained.
        ValidationError: the operator wants no control tokens where there are some.
    """
    is_continued = request.continue_final_message
    if is_continued is None:
        is_continued = request.add_generation_prompt is None and _ends_in_assistant(request)
    adds_prompt = request.add_generation_prompt is not False and not is_continued
    render = partial(
        services.text.chat_template.render,
        reasoning_effort=request.reasoning_effort,
        add_generation_prompt=adds_prompt,
        continue_final_message=is_continued,
        documents=request.documents,
        template_kwargs=request.chat_template_kwargs,
    )
    guard, pool = services.text.content_guard, services.text.for_chats
    if guard is None:
        return GuardedPrompt(await pool.run(render, request.messages))
    others = {
        "documents": request.documents,
        "chat_template_kwargs": request.chat_template_kwargs,
        "reasoning_effort": request.reasoning_effort,
    }
    return await pool.run(guard.render, render, request.messages, others, with_spans=with_spans)


def _ends_in_assistant(request: ChatRequest) -> bool:
    last = request.messages[-1] if request.messages else {}
    return last.get("role") == "assistant" and bool(last.get("content"))


def check_chat(request: ChatRequest, services: Services) -> int:
    """What this route refuses before it renders; returns the number of choices.

    Raises:
        ValidationError, ToolError: the first field that cannot be honoured.
    """
    _check_tools(request)
    _check_logprobs(request)
    num_choices = check_supported(request, services, REFUSED_IN_CHAT)
    check_messages(request.messages)
    wanted_length(request)
    return num_choices


def _check_tools(request: ChatRequest) -> None:
    if request.tools and request.tool_choice != "none":
        raise ToolError("`tools` are not supported yet")
    if request.functions and request.function_call != "none":
        raise ToolError("`functions` are not supported yet")
    for name, choice, its_tools, tools in (
        ("tool_choice", request.tool_choice, "tools", request.tools),
        ("function_call", request.function_call, "functions", request.functions),
    ):
        if choice and choice not in ("none", "auto") and not tools:
            raise ToolError(f"`{name}` asks for a call, and there are no `{its_tools}`")


def _check_logprobs(request: ChatRequest) -> None:
    num_top = request.top_logprobs or 0
    if request.n_probs and not (request.logprobs and num_top == request.n_probs):
        raise ValidationError(
            "`n_probs` asks for what `logprobs` and `top_logprobs` do, and must not differ from"
            " them: leave it out, or them"
        )
    if num_top > MAX_TOP_LOGPROBS:
        name = "n_probs" if request.n_probs else "top_logprobs"
        raise ValidationError(f"`{name}` must be >= 0 and <= {MAX_TOP_LOGPROBS}. Given: {num_top}")


async def _respond(
    exchange: Exchange,
    request: ChatRequest,
    generation: Generation,
    events: list[list[TokenEvent]],
    headers: list[render_tgi.Header],
) -> None:
    times = exchange.report_success(generation.sequences)
    head = render_openai.Head(
        "chat.completion", "chatcmpl-", model_name(request, exchange.services)
    )
    choices = (
        render_openai.chat_choice(
            index,
            "".join(event.visible for event in of_choice),
            _logprobs(request, of_choice, exchange.services),
            of_choice[-1].finish,
        )
        for index, of_choice in enumerate(events)
    )
    body = head.whole(choices, render_openai.usage(generation))
    await exchange.respond(
        body.encode(),
        headers=[
            *headers,
            *render_tgi.time_headers(
                times, generation.num_prompt_tokens, generation.num_generated_tokens
            ),
        ],
    )


def _logprobs(request: ChatRequest, events: list[TokenEvent], services: Services) -> str:
    if not request.logprobs:
        return "null"
    detokenizer = services.text.detokenizer
    return render_openai.chat_logprobs(events, detokenizer, request.top_logprobs or 0)


class _ChatFold:
    """The chunks of a chat: the role first, then content, then why it ended, then usage."""

    def __init__(self, services: Services, request: ChatRequest, generation: Generation) -> None:
        self._services = services
        self._request = request
        self._generation = generation
        self._head = render_openai.Head(
            "chat.completion.chunk", "chatcmpl-", model_name(request, services)
        )

    @property
    def is_slow(self) -> bool:
        return False

    def first(self) -> str:
        delta = '{"role":"assistant","content":""}'
        return "".join(
            self._head.chunk(render_openai.chat_delta(index, delta))
            for index in range(len(self._generation.sequences))
        )

    def render(self, event: TokenEvent) -> str:
        chunk = ""
        if event.visible or (self._request.logprobs and event.is_token):
            logprobs = _logprobs(self._request, [event], self._services)
            delta = f'{{"content":{quote(event.visible)}}}'
            chunk = self._head.chunk(render_openai.chat_delta(event.choice, delta, logprobs))
        if event.finish is not None:
            end = render_openai.chat_delta(event.choice, '{"content":""}', finish=event.finish)
            chunk += self._head.chunk(end)
        return chunk

    def last(self) -> str:
        if not self._request.include_usage:
            return ""
        return sse_event(self._head.whole((), render_openai.usage(self._generation)))


async def chat_tokenize(exchange: Exchange) -> None:
    """POST /chat_tokenize"""
    request = await exchange.read(CHAT)
    check_chat(request, exchange.services)
    prompt = await render_prompt(request, exchange.services, with_spans=True)
    pool = exchange.services.text.pool
    spans = prompt.spans
    if spans is None:
        spans = await pool.encode_with_offsets(prompt.text, add_special_tokens=False)
    tokens = await pool.run(render_tgi.token_spans, spans)
    answer = f'{{"tokenize_response":{tokens},"templated_text":{quote(prompt.text)}}}'
    await exchange.respond(answer.encode())
