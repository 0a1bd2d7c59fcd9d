"""What a caller asks a model for: messages or a prompt, and the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loquent.domain.errors import Invalid
from loquent.domain.fixed import fixed

ROLES = ("system", "user", "assistant")


@fixed
class Picture:
    """A picture in a message."""

    media_type: str  # image/png, image/jpeg, image/webp, image/gif
    data: bytes


@fixed
class Message:
    """One message of a chat."""

    role: str  # one of ROLES
    content: str
    pictures: tuple[Picture, ...] = ()  # only for models that have vision


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

    def asked(self) -> dict[str, Any]:
        """Those that were asked for, by name: the form that is stored."""
        return {name: value for name in NAMES if (value := getattr(self, name)) not in (None, ())}

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
