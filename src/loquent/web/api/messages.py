"""Messages and tools as our own API takes them: calls have the form in which an answer shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from loquent.domain.errors import Invalid
from loquent.web.body import Wire
from loquent.web.messages import MOST_CALLS, CallId, Name, Said, Text, check_results, stored_said, with_calls


class Call(Wire):
    """A call that an assistant asked for."""

    id: CallId
    name: Name
    arguments: Text


class ChatMessage(Wire):
    """One message of a chat; pictures come as parts, as data URLs."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Said | None = None
    calls: Annotated[list[Call], Field(max_length=MOST_CALLS)] | None = None
    call_id: CallId | None = None


class ToolName(Wire):
    """The one tool that has to be called."""

    name: Name


def stored_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as they are stored. Raises Invalid or TooLarge."""
    plain = [
        {"role": each.role, "content": each.content}
        for each in messages
        if type(each.content) is str and each.role != "tool" and not each.calls and each.call_id is None
    ]
    if len(plain) == len(messages):
        return plain
    stored = []
    for number, each in enumerate(messages):
        field = f"messages.{number}"
        if each.content is None and not each.calls:
            raise Invalid(f"{field}.content: it is missing", field=f"{field}.content")
        said = stored_said(each.role, each.content or "", f"{field}.content")
        stored.append(with_calls(said, [call.model_dump() for call in each.calls or ()], each.call_id, field))
    check_results(stored)
    return stored
