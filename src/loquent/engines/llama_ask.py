"""What llama.cpp is asked, in its own words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loquent.domain.errors import Invalid
from loquent.domain.requests import NONE, Message
from loquent.engines import llama_tools
from loquent.engines.llama_pictures import data_url
from loquent.engines.llama_schema import grammar
from loquent.ports.engine import Ask

FEW_SHOT = "few-shot"
SEEDS = 2**32 - 1  # the last one means "any" to llama.cpp
UNREPEATED = {"repeat_penalty": 1.1, "repeat_last_n": 256}  # small models go round in circles

INTRODUCTION = "A conversation between a user and a helpful assistant. The assistant's answers are short and true."
EXAMPLES = (
    Message("user", "What is the capital of France?"),
    Message("assistant", "The capital of France is Paris."),
    Message("user", "Write one sentence about the sea."),
    Message("assistant", "The sea lay calm that morning, and the light moved on it like silver."),
)
SPEAKERS = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Request:
    """One call of llama.cpp."""

    chat: bool
    body: dict[str, Any]
    constrained: bool  # a grammar holds for the whole answer
    few_shot: bool
    said: tuple[str, ...]  # what is to be read, as far as it matters to who sits where
    calls: str = ""  # an answer that begins so is a call of a tool
    logprobs: int | None = None  # so many others for each token

    def wire(self, scales: list[dict[str, Any]]) -> bytes:
        """The body as JSON, with what it takes of each adapter in memory. Raises Invalid."""
        try:
            return json.dumps({**self.body, "lora": scales} if scales else self.body, ensure_ascii=False).encode()
        except UnicodeEncodeError as lone:
            raise Invalid("the text holds half a character (a lone surrogate)") from lone


def seated(body: bytes, seat: int) -> bytes:
    """The same body, for that slot."""
    return b'{"id_slot": %d, %s' % (seat, body.removeprefix(b"{"))


def request(ask: Ask, *, knows_tools: bool = False) -> Request:
    """The call for this ask; ``knows_tools``: the model was taught to call them. Raises Invalid."""
    wanted = ask.parameters
    few_shot = bool(ask.messages) and ask.model.template == FEW_SHOT
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # a word between the pieces of a long prompt, so that it can be given up there
        "cache_prompt": True,
        "max_tokens": wanted.max_tokens or -1,  # -1: as the context has room
        "stop": [*wanted.stop, *(f"\n{speaker}:" for speaker in SPEAKERS.values() if few_shot)],
    }
    if wanted.temperature is not None:
        body["temperature"] = wanted.temperature
    if wanted.top_p is not None:
        body["top_p"] = wanted.top_p
    if wanted.seed is not None:
        body["seed"] = wanted.seed % SEEDS
    held = grammar(wanted.response_format) if wanted.response_format is not None else None
    if held is not None:
        body["grammar"] = held
    elif wanted.response_format is None and not ask.tools:
        body |= UNREPEATED
    chat = bool(ask.messages) and not few_shot
    if wanted.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": wanted.logprobs or 1} if chat else {"logprobs": wanted.logprobs or 1}
    if wanted.reasoning_effort is not None and chat:
        effort = wanted.reasoning_effort
        body["chat_template_kwargs"] = {"enable_thinking": effort != "none", "reasoning_effort": effort}
    calls = ""
    if chat:
        calls = _chat(ask, body, knows_tools=knows_tools)
    else:
        if ask.tools and ask.tool_choice != NONE:
            raise Invalid("tools are for chats with a model that has a chat template", field="tools")
        body["prompt"] = conversation(ask.messages) if few_shot else ask.prompt or ""
    constrained = held is not None or (bool(calls) and llama_tools.is_forced(ask))
    said = tuple(each.content for each in ask.messages) or (ask.prompt or "",)
    return Request(chat, body, constrained, few_shot, said, calls, wanted.logprobs)


def _chat(ask: Ask, body: dict[str, Any], *, knows_tools: bool) -> str:
    """Put the messages and tools into the body; how calls begin where they come as JSON that a grammar holds."""
    messages: Sequence[Message] = ask.messages
    has_calls = any(each.calls or each.call_id for each in messages)
    if has_calls and not knows_tools:
        messages = llama_tools.retold(messages)
    begins = ""
    if ask.tools and ask.tool_choice != NONE:
        form = body.get("grammar")
        if llama_tools.is_forced(ask) or not knows_tools or form:
            begins = llama_tools.OR_FORM if form and not llama_tools.is_forced(ask) else llama_tools.START
            messages = llama_tools.explained(messages, ask.tools, begins)
            body["grammar"] = llama_tools.call_grammar(ask, form)
        else:
            body["tools"] = llama_tools.offered(ask)
            if ask.parallel_calls is not None:
                body["parallel_tool_calls"] = ask.parallel_calls
    body["messages"] = [_message(each, ask) for each in messages]
    return begins


def _message(message: Message, ask: Ask) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.pictures:
        if ask.model.projector is None:
            raise Invalid(f"the model {ask.model.name!r} sees no pictures: it has no projector", field="messages")
        shown = [{"type": "image_url", "image_url": {"url": data_url(each)}} for each in message.pictures]
        said["content"] = [*shown, *([{"type": "text", "text": message.content}] if message.content else [])]
    if message.calls:
        said["tool_calls"] = list(map(llama_tools.wire_call, message.calls))
    if message.call_id:
        said["tool_call_id"] = message.call_id
    return said


def conversation(messages: Sequence[Message]) -> str:
    """Messages as a text that a base model, which knows no chat, goes on from as the assistant. Raises Invalid."""
    if any(each.pictures for each in messages):
        raise Invalid("a base model sees no pictures", field="messages")
    messages = llama_tools.retold(messages)
    said = [each.content for each in messages if each.role == "system"] or [INTRODUCTION]
    turns = [*EXAMPLES, *(each for each in messages if each.role != "system")]
    lines = [f"{SPEAKERS[each.role]}: {each.content}" for each in turns]
    return "\n\n".join([*said, *lines, f"{SPEAKERS['assistant']}:"])
