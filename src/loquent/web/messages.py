"""Messages and tools as bodies bring them, in the form in which the input of a generation keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from loquent.domain.errors import Invalid
from loquent.domain.requests import AUTO, REQUIRED
from loquent.web.body import Wire
from loquent.web.pictures import stored_picture

LONGEST = 1_000_000  # characters of one text; the body's bound is usually the nearer one
MOST_TOOLS = MOST_CALLS = 128
Name = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=1_000)]
Text = Annotated[str, Field(max_length=LONGEST)]


class Piece(Wire):
    """What every piece may carry: where a cache of prompts may end, the engine's own choice here."""

    cache_control: dict[str, Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class TextPart(Piece):
    """A piece of a message's content: text."""

    type: Literal["text"]
    text: Text


class ImageAddress(Wire):
    """A picture, as a data URL. How closely it is looked at is the engine's own choice."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Piece):
    """A piece of a message's content: a picture."""

    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Said = Text | Annotated[list[Part], Field(min_length=1, max_length=1_000)]
"""What a message says: a text, or pieces."""


class Function(Wire):
    """A function that a model may ask its caller to call."""

    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


def only_functions(tools: Any) -> Any:
    """Tools as they came. Raises ValueError where one is of a type that is run by who offers the model."""
    for each in tools if isinstance(tools, list) else ():
        if isinstance(each, dict) and isinstance(kind := each.get("type"), str) and kind != "function":
            raise ValueError(f"{kind[:100]!r} is no tool of this server: it takes tools of type 'function'")
    return tools


def stored_said(role: str, said: str | Sequence[TextPart | ImagePart], field: str) -> dict[str, Any]:
    """A message of that role. Raises Invalid or TooLarge naming the field, where a picture cannot be taken."""
    if isinstance(said, str):
        return {"role": role, "content": said}
    stored: dict[str, Any] = {"role": role, "content": "".join(each.text for each in said if each.type == "text")}
    if pictures := [stored_picture(each.image_url.url, field) for each in said if each.type == "image_url"]:
        if role != "user":
            raise Invalid(f"{field}: only a user's message shows pictures", field=field)
        stored["pictures"] = pictures
    return stored


def with_calls(
    stored: dict[str, Any], calls: Sequence[Mapping[str, str]], call_id: str | None, field: str
) -> dict[str, Any]:
    """The message with the calls that it asks for, or with the one whose result it is. Raises Invalid."""
    role = stored["role"]
    if calls and role != "assistant":
        raise Invalid(f"{field}: only an assistant's message asks for calls", field=field)
    if (call_id is None) is (role == "tool"):
        wrong = "a tool's message names the call whose result it is" if role == "tool" else "only a tool's names a call"
        raise Invalid(f"{field}: {wrong}", field=field)
    if calls:
        stored["calls"] = list(calls)
    if call_id is not None:
        stored["call_id"] = call_id
    return stored


def check_results(messages: Sequence[Mapping[str, Any]], field: str = "messages") -> None:
    """Raise Invalid where a call has no result right behind it, or a result no call before it: no engine takes that."""
    waiting: list[str] = []
    for number, each in enumerate(messages):
        if each["role"] == "tool":
            if each["call_id"] not in waiting:
                raise Invalid(
                    f"{field}.{number}: there is a result of {each['call_id'][:100]!r}, but no such call before it",
                    field=f"{field}.{number}",
                )
            waiting.remove(each["call_id"])
            continue
        if waiting:
            break
        waiting = [call["id"] for call in each.get("calls", ())]
    if waiting:
        raise Invalid(f"{field}: the call {waiting[0][:100]!r} has no result behind it", field=field)


def stored_tools(
    tools: Sequence[Mapping[str, Any]], *, choice: str | None, tool: str, parallel: bool | None
) -> dict[str, Any]:
    """What an input says of tools; nothing where none are offered. ``tool``: the one that has to be called.

    Raises Invalid where a name stands twice, or one is wanted that is not offered.
    """
    names = [each["name"] for each in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"tools: {twice!r} stands twice", field="tools")
    if tool and tool not in names:
        raise Invalid(f"tool_choice: there is no tool {tool!r} among the tools", field="tool_choice")
    if choice == REQUIRED and not names:
        raise Invalid("tool_choice: a call is required, and there are no tools", field="tool_choice")
    if not names:
        return {}
    return {
        "tools": [{name: value for name, value in each.items() if value is not None} for each in tools],
        **({"tool_choice": choice} if choice not in (None, AUTO) else {}),
        **({"tool": tool} if tool else {}),
        **({"parallel_calls": parallel} if parallel is not None else {}),
    }
