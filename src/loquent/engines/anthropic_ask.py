"""What Anthropic's Messages API is asked: turns, pictures and the form of the answer, in its own words.

Source: https://platform.claude.com/docs/en/api/messages/create, and build-with-claude/structured-outputs beside it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loquent.domain.errors import Invalid
from loquent.domain.requests import Message

DEEPEST = 64  # levels of a schema

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
    stream: bool = False


def turns_of(messages: Sequence[Message]) -> tuple[str, list[Turn]]:
    """What all system messages say, and the turns: of user and assistant by turns, none of them empty.

    Blank messages are left out, because the API refuses them: a chat with one empty answer in it would end there.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for message in messages:
        if message.role == "system":
            if message.pictures:
                raise Invalid("a system message takes no pictures here", field="messages")
            system += [message.content] if message.content.strip() else []
            continue
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == message.role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": message.role, "content": blocks})
    return "\n\n".join(system), turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    """Pictures first: that is where they are understood best (build-with-claude/vision)."""
    blocks: list[dict[str, Any]] = []
    for picture in message.pictures:
        data = base64.b64encode(picture.data).decode("ascii")
        source = {"type": "base64", "media_type": picture.media_type, "data": data}
        blocks.append({"type": "image", "source": source})
    if message.content.strip():
        blocks.append({"type": "text", "text": message.content})
    return blocks


def output_of(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The form of the answer; None for plain text. Raises Invalid."""
    kind = response_format.get("type") if response_format is not None else "text"
    if response_format is None or kind == "text":
        return None
    given = response_format.get("json_schema")
    schema = given.get("schema") if isinstance(given, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise Invalid(
            "response_format takes text, or json_schema with a schema, of this model", field="response_format"
        )
    return {"format": {"type": "json_schema", "schema": closed(schema)}}


def closed(schema: Any, depth: int = 0) -> Any:
    """The same schema with its objects closed, as the API demands; what fits that fits the open one as well."""
    if not isinstance(schema, Mapping):
        return schema
    if depth > DEEPEST:
        raise Invalid(f"response_format: the schema is deeper than {DEEPEST} levels", field="response_format")
    made = dict(schema)
    for name in ("properties", "$defs", "definitions"):
        if isinstance(parts := made.get(name), Mapping):
            made[name] = {key: closed(part, depth + 1) for key, part in parts.items()}
    if isinstance(options := made.get("anyOf"), list):
        made["anyOf"] = [closed(option, depth + 1) for option in options]
    if "items" in made:
        made["items"] = closed(made["items"], depth + 1)
    kind = made.get("type")
    is_object = kind == "object" or (isinstance(kind, list) and "object" in kind)
    if is_object and made.get("additionalProperties", True) is True:
        made["additionalProperties"] = False
    return made
