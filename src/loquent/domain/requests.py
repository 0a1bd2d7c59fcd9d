"""What a caller asks a model for: messages or a prompt, and the parameters."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from loquent.domain.errors import Invalid
from loquent.domain.fixed import fixed, values

ROLES = ("system", "user", "assistant", "tool")
NONE, AUTO, REQUIRED = "none", "auto", "required"
"""Which tools a model may call: none, any or none as it thinks fit, at least one."""


@fixed
class Picture:
    """A picture in a message."""

    media_type: str  # image/png, image/jpeg, image/webp, image/gif
    data: bytes


@fixed
class Tool:
    """Something that a model may ask the caller to do: a function, by its name and the JSON schema of what it takes."""

    name: str  # of letters, digits, _ and -; at most 64
    description: str = ""
    parameters: Mapping[str, Any] | None = None  # a JSON schema of an object; None: it takes nothing
    strict: bool | None = None  # whether what the model says must keep to the schema


@fixed
class ToolCall:
    """One call that a model asks for."""

    id: str  # the engine's own name for it, by which its result is given back
    name: str
    arguments: str  # JSON, as the model wrote it: it may be broken


@fixed
class Message:
    """One message of a chat."""

    role: str  # one of ROLES
    content: str
    pictures: tuple[Picture, ...] = ()  # only for models that have vision
    calls: tuple[ToolCall, ...] = ()  # of an assistant, that wants tools called
    call_id: str = ""  # of role tool: the call whose result this is


def stored_message(message: Message) -> dict[str, Any]:
    """The form in which a message stands in the input of a generation."""
    stored: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.pictures:
        stored["pictures"] = [
            {"media_type": each.media_type, "data": base64.b64encode(each.data).decode("ascii")}
            for each in message.pictures
        ]
    if message.calls:
        stored["calls"] = list(map(stored_call, message.calls))
    if message.call_id:
        stored["call_id"] = message.call_id
    return stored


def stored_call(call: ToolCall) -> dict[str, str]:
    """The form in which a call is kept."""
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def message_of(stored: Mapping[str, Any]) -> Message:
    """The message that ``stored_message`` gave."""
    if len(stored) == 2:  # as nearly always
        return Message(stored["role"], stored["content"])
    pictures = tuple(Picture(each["media_type"], base64.b64decode(each["data"])) for each in stored.get("pictures", ()))
    calls = tuple(ToolCall(**each) for each in stored.get("calls", ()))
    return Message(stored["role"], stored["content"], pictures, calls, stored.get("call_id", ""))


def picture_of(messages: Sequence[Message]) -> Picture:
    """The picture that was shown last, for models that look at one and at nothing else. Raises Invalid without any."""
    for message in reversed(messages):
        if message.pictures:
            return message.pictures[-1]
    raise Invalid("this model looks at a picture, and there is none", field="messages")


@fixed
class Parameters:
    """How the model is to answer; None leaves it to the model's row, then to the engine."""

    max_tokens: int | None = None  # tokens of the answer, 1 or more
    temperature: float | None = None  # 0 to 2
    top_p: float | None = None  # 0 to 1
    seed: int | None = None  # the same seed, input and parameters: the same answer, where the engine can
    stop: tuple[str, ...] = ()  # at most 4 strings; the answer ends before the first that comes
    response_format: Mapping[str, Any] | None = None  # {"type": "json_object"} | {"type": "json_schema", …}
    logprobs: int | None = None  # how likely each token was, and so many others in its place: 0 to 20
    reasoning_effort: str | None = None  # how long a model that reasons may do so: none, minimal, low, medium, high, …

    def asked(self) -> dict[str, Any]:
        """Those that were asked for, by name: the form that is stored."""
        return {name: value for name, value in zip(NAMES, values(self), strict=True) if value not in (None, ())}

    def over(self, defaults: Parameters) -> Parameters:
        """These, and the defaults where these say nothing."""
        if defaults is NOTHING:
            return self
        return Parameters(**{**defaults.asked(), **self.asked()})


NAMES = Parameters.__match_args__
NOTHING = Parameters()


def from_stored(stored: Mapping[str, Any]) -> Parameters:
    """The parameters that ``asked`` gave; names that are not ours are left out."""
    kept = {name: stored[name] for name in NAMES if name in stored}
    if "stop" in kept:
        kept["stop"] = tuple(kept["stop"])
    return Parameters(**kept)
