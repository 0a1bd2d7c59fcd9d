"""Tools for llama.cpp's models: as a model was taught to call them, or as a form that it is held to.

llama.cpp writes the tools as the model's own chat template does, and reads the calls from the answer. But it does not
hold a model to a call (one that must call may talk first, and never come to it), and a template that knows no tools
drops them without a word. So a call that must be, and any call of such a model, is JSON that a grammar keeps to.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from loquent.domain.errors import EngineFailed, Invalid
from loquent.domain.requests import AUTO, NONE, Message, Tool, ToolCall
from loquent.engines.llama_schema import grammar
from loquent.ports.engine import Ask, CallPiece

START, OR_FORM = "{", "call "
"""How a call begins: as the JSON that it is, or, where another JSON may stand in its place, with a word before it."""
NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}
EXPLAINED = (
    'You may call these functions. To call one, answer with nothing but JSON of this form: {"name": …, "arguments": '
    "{…}}"
)
SAY_SO = f"Put the word {OR_FORM.strip()!r} before it. Any other answer is JSON, too."
OR_TEXT = "\ntext: /[^{](.|\\n)*/"


def offered(ask: Ask) -> list[dict[str, Any]]:
    """The tools as OpenAI's wire has them, and llama.cpp's templates."""
    return [{"type": "function", "function": _function(tool)} for tool in ask.tools]


def is_forced(ask: Ask) -> bool:
    """Whether the answer has to be a call."""
    return bool(ask.tools) and bool(ask.tool or ask.tool_choice not in (AUTO, NONE))


def call_grammar(ask: Ask, form: str | None = None) -> str:
    """What keeps the answer to a call of one of the tools, or, where it need not be one, to that or a text.

    ``form``: the grammar of what that text is to be. Raises Invalid.
    """
    tools = [tool for tool in ask.tools if not ask.tool or tool.name == ask.tool]
    if not tools:
        raise Invalid(f"there is no tool {ask.tool[:64]!r}", field="tool_choice")
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.parameters or NOTHING},
            "required": ["name", "arguments"],
        }
        for tool in tools
    ]
    try:
        held = grammar({"type": "json_schema", "json_schema": {"schema": {"anyOf": calls}}}) or ""
    except Invalid as refused:
        raise Invalid(refused.message.replace("response_format", "tools", 1), field="tools") from refused
    if is_forced(ask):
        return held
    if form is None:
        return held.replace("start:", "start: call | text\ncall:", 1) + OR_TEXT
    called = held.replace("start:", f'start: call | form\ncall: "{OR_FORM}"', 1)
    return f"{called}\nform: {form.partition('start: ')[2]}"


def explained(messages: Sequence[Message], tools: Sequence[Tool], begins: str) -> list[Message]:
    """The messages, the first of which says what may be called and how: with what a call begins."""
    how = f"{EXPLAINED}. {SAY_SO}" if begins == OR_FORM else EXPLAINED
    about = "\n".join([how, *(json.dumps(_function(tool), ensure_ascii=False) for tool in tools)])
    if messages and messages[0].role == "system":
        first, rest = messages[0], messages[1:]
        return [Message("system", f"{first.content}\n\n{about}", first.pictures), *rest]
    return [Message("system", about), *messages]


def retold(messages: Sequence[Message]) -> list[Message]:
    """Calls and their results as texts, for a chat template that knows neither."""
    names = {call.id: call.name for message in messages for call in message.calls}
    told = []
    for message in messages:
        if message.calls:
            calls = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in message.calls]
            message = Message(message.role, "\n".join(filter(None, (message.content, *calls))), message.pictures)
        elif message.role == "tool":
            said = f"{names.get(message.call_id, 'The function')} returned: {message.content}"
            message = Message("user", said, message.pictures)
        told.append(message)
    return told


def wire_call(call: ToolCall) -> dict[str, Any]:
    """A call of an earlier answer."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def made(text: str) -> CallPiece:
    """The call that an answer is. Raises EngineFailed."""
    try:
        call = json.loads(text.removeprefix(OR_FORM))
        return CallPiece(0, f"call_{secrets.token_hex(12)}", call["name"], json.dumps(call["arguments"]))
    except (ValueError, TypeError, KeyError, RecursionError) as broken:
        raise EngineFailed("the model's answer broke off inside a call") from broken


def pieces(said: Sequence[Mapping[str, Any]]) -> tuple[CallPiece, ...]:
    """The pieces of calls that llama.cpp found in an answer."""
    return tuple(
        CallPiece(each["index"], each.get("id") or "", function.get("name") or "", function.get("arguments") or "")
        for each in said
        for function in (each.get("function") or {},)
    )


def _function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters or NOTHING}
