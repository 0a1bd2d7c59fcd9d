"""What Anthropic's Messages API is asked: turns, pictures, tools and the form of the answer, in its own words.

Source: https://platform.claude.com/docs/en/api/messages/create; build-with-claude/structured-outputs, effort and
thinking, and agents-and-tools/tool-use/handle-tool-calls beside it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loquent.domain.errors import Invalid
from loquent.domain.requests import AUTO, NONE, REQUIRED, Message, Picture, Tool, ToolCall
from loquent.ports.engine import Ask

DEEPEST = 64  # levels of a schema
NOT_OF_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")  # a call that another engine asked for may have a name with more

encode = msgspec.json.Encoder().encode

Turn = dict[str, Any]


class Body(msgspec.Struct, omit_defaults=True):
    """What is asked, under Anthropic's names; only what is said is sent, since unknown fields are refused there."""

    model: str
    messages: Sequence[Turn]
    max_tokens: int
    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: tuple[str, ...] = ()
    output_config: Mapping[str, Any] | None = None
    thinking: Mapping[str, str] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Mapping[str, Any] | None = None
    stream: bool = False


def turns_of(messages: Sequence[Message]) -> tuple[str, list[Turn]]:
    """What all system messages say, and the turns: of user and assistant by turns, none of them empty.

    The results of calls stand first in the user's turn, as the API demands. Blank messages are left out, because it
    refuses them: a chat with one empty answer in it would end there.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for message in messages:
        if message.role == "system":
            if message.pictures:
                raise Invalid("a system message takes no pictures here", field="messages")
            system += [message.content] if message.content.strip() else []
            continue
        is_result = message.role == "tool"
        role, blocks = ("user", [_result(message)]) if is_result else (message.role, _blocks(message))
        if not turns or turns[-1]["role"] != role:
            if blocks:
                turns.append({"role": role, "content": blocks})
            continue
        said = turns[-1]["content"]
        results = sum(block["type"] == "tool_result" for block in said) if is_result else len(said)
        said[results:results] = blocks
    return "\n\n".join(system), turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    """Pictures first: that is where they are understood best (build-with-claude/vision). Calls last."""
    said = [{"type": "text", "text": message.content}] if message.content.strip() else []
    return [*map(_image, message.pictures), *said, *map(_call, message.calls)]


def _image(picture: Picture) -> dict[str, Any]:
    data = base64.b64encode(picture.data).decode("ascii")
    return {"type": "image", "source": {"type": "base64", "media_type": picture.media_type, "data": data}}


def _call(call: ToolCall) -> dict[str, Any]:
    """A call that was asked for. What it takes is an object on this wire: arguments that are none go into one."""
    try:
        taken = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        taken = None
    if not isinstance(taken, dict):
        taken = {"INVALID_JSON": call.arguments}  # the form that tool-use/fine-grained-tool-streaming names
    return {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": taken}


def _result(message: Message) -> dict[str, Any]:
    content = _blocks(Message("tool", message.content, message.pictures))
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(message.call_id)}
    return {**result, "content": content} if content else result


def _id(name: str) -> str:
    return NOT_OF_AN_ID.sub("_", name)


def tools_of(ask: Ask) -> tuple[Mapping[str, Any], ...]:
    """What may be called. Raises Invalid where a schema is too deep.

    The API wants the calls that messages tell of to be of known tools: where none is offered, those are named.
    """
    called = {call.name: Tool(call.name) for message in ask.messages for call in message.calls}
    return tuple(map(_tool, ask.tools or called.values()))


def _tool(tool: Tool) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = {"type": "object", **(tool.parameters or {})}
    made: dict[str, Any] = {"name": tool.name}
    if tool.description:
        made["description"] = tool.description
    if tool.strict:
        made["strict"] = True
        schema = closed(schema, field="tools")
    return {**made, "input_schema": schema}


def choice_of(ask: Ask) -> Mapping[str, Any] | None:
    """Which of the tools has to be called; None where the API does by itself what is asked."""
    if not ask.tools or (ask.tool_choice == NONE and not ask.tool):
        return {"type": "none"}
    kind = {"type": "tool", "name": ask.tool} if ask.tool else {"type": CHOICES[ask.tool_choice]}
    if ask.parallel_calls is False:
        return {**kind, "disable_parallel_tool_use": True}
    return kind if ask.tool or ask.tool_choice != AUTO else None


CHOICES: Mapping[str, str] = {AUTO: "auto", REQUIRED: "any"}
EFFORTS: Mapping[str, str] = {"minimal": "low", **{each: each for each in ("low", "medium", "high", "xhigh", "max")}}


def thinking_of(effort: str | None) -> tuple[Mapping[str, str], Mapping[str, str] | None]:
    """What ``reasoning_effort`` comes to: a part of output_config, and thinking. Raises Invalid.

    Where it is asked for, the model thinks as it sees fit (adaptive) and tells it in short; which models do so, and
    at which efforts, only the API knows. Where nothing is asked, the model does what it does by itself.
    """
    if effort is None:
        return {}, None
    if effort == "none":
        return {}, {"type": "disabled"}
    if effort not in EFFORTS:
        raise Invalid(f"reasoning_effort takes none, {', '.join(EFFORTS)} of this model", field="reasoning_effort")
    return {"effort": EFFORTS[effort]}, {"type": "adaptive", "display": "summarized"}


def output_of(response_format: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The form of the answer, a part of output_config; empty for plain text. Raises Invalid."""
    kind = response_format.get("type") if response_format is not None else "text"
    if response_format is None or kind == "text":
        return {}
    given = response_format.get("json_schema")
    schema = given.get("schema") if isinstance(given, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise Invalid(
            "response_format takes text, or json_schema with a schema, of this model", field="response_format"
        )
    return {"format": {"type": "json_schema", "schema": closed(schema)}}


def closed(schema: Any, depth: int = 0, *, field: str = "response_format") -> Any:
    """The same schema with its objects closed, as the API demands; what fits that fits the open one as well."""
    if not isinstance(schema, Mapping):
        return schema
    if depth > DEEPEST:
        raise Invalid(f"{field}: the schema is deeper than {DEEPEST} levels", field=field)
    made = dict(schema)
    for name in ("properties", "$defs", "definitions"):
        if isinstance(parts := made.get(name), Mapping):
            made[name] = {key: closed(part, depth + 1, field=field) for key, part in parts.items()}
    if isinstance(options := made.get("anyOf"), list):
        made["anyOf"] = [closed(option, depth + 1, field=field) for option in options]
    if "items" in made:
        made["items"] = closed(made["items"], depth + 1, field=field)
    kind = made.get("type")
    is_object = kind == "object" or (isinstance(kind, list) and "object" in kind)
    if is_object and made.get("additionalProperties", True) is True:
        made["additionalProperties"] = False
    return made
