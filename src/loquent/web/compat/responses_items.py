"""The items of a response's input: messages, calls and their results, as they come, and as messages that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag

from loquent.domain.errors import Invalid
from loquent.web.body import Wire
from loquent.web.messages import CallId, Name, Text
from loquent.web.pictures import stored_picture

Id = Annotated[str, Field(max_length=200)]
Left = list[dict[str, Any]]  # what an answer had beside its text: taken back with it, and left
Stored = dict[str, Any]  # a message, as the input of a generation keeps it


class Piece(Wire):
    """What every piece of an input may carry: where a cache of prompts may end, the engine's own choice here."""

    prompt_cache_breakpoint: dict[str, Any] | None = None


class InputText(Piece):
    """A text that somebody says."""

    type: Literal["input_text"]
    text: Text


class OutputText(Wire):
    """A text that a model said."""

    type: Literal["output_text"]
    text: Text
    annotations: Left | None = None
    logprobs: Left | None = None


class Refusal(Wire):
    """What a model said in place of an answer."""

    type: Literal["refusal"]
    refusal: Text


class InputImage(Piece):
    """A picture, as a data URL."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["low", "high", "auto", "original"] | None = None
    file_id: None = None


Part = Annotated[InputText | OutputText | Refusal | InputImage, Field(discriminator="type")]


def _either(text: str, parts: str) -> Callable[[Any], str]:
    """Tells a text from a list, so that a fault names the place and not every form that would do."""

    def tell(said: Any) -> str:
        return text if isinstance(said, str) else parts

    return tell


Parts = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Part], Field(min_length=1, max_length=1_000), Tag("parts")],
    Discriminator(_either("text", "parts")),
]


class Item(Wire):
    """What every item may carry: those of an earlier answer come back with it."""

    id: Id | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(Item):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Parts
    phase: Id | None = None


class OfCall(Item):
    """What a call and its result may carry; what the SDK's own forms have beside it is taken where it is null."""

    call_id: CallId
    caller: None = None
    namespace: None = None


class CallItem(OfCall):
    """A call that the model asked for."""

    type: Literal["function_call"]
    name: Name
    arguments: Text
    is_async: Annotated[None, Field(validation_alias=AliasChoices("async", "async_"))] = None


class ResultItem(OfCall):
    """What came of it."""

    type: Literal["function_call_output"]
    name: Name | None = None
    output: Parts


class ReasoningItem(Item):
    """What a model thought before it answered: taken, and left out."""

    type: Literal["reasoning"]
    summary: Left
    content: Left | None = None
    encrypted_content: str | None = None


KINDS = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": ResultItem,
    "reasoning": ReasoningItem,
}


def _kind(said: Any) -> str | None:
    kind = said.get("type", "message") if isinstance(said, dict) else getattr(said, "type", None)
    return kind if isinstance(kind, str) and kind in KINDS else None


AnyItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind, custom_error_type="item", custom_error_message=f"an item is one of {', '.join(KINDS)}"),
]
Items = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[AnyItem], Field(min_length=1, max_length=2_000), Tag("items")],
    Discriminator(_either("text", "items")),
]


def messages_of(said: str | Iterable[Item]) -> list[Stored]:
    """The input as messages: what an assistant said and the calls beside it are one. Raises Invalid."""
    if isinstance(said, str):
        return [{"role": "user", "content": said}]
    messages: list[Stored] = []
    for number, item in enumerate(said):
        field = f"input.{number}"
        last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
        if isinstance(item, CallItem):
            if last is None:
                messages.append(last := {"role": "assistant", "content": ""})
            last.setdefault("calls", []).append({"id": item.call_id, "name": item.name, "arguments": item.arguments})
        elif isinstance(item, ResultItem):
            messages.append({"role": "tool", **_read(item.output, field), "call_id": item.call_id})
        elif isinstance(item, MessageItem):
            read = _read(item.content, field)
            if "pictures" in read and item.role != "user":
                raise Invalid(f"{field}: only a user's message and a call's result show pictures", field=field)
            if item.role == "assistant" and last is not None and "calls" in last:
                last["content"] += read["content"]
            else:
                messages.append({"role": "system" if item.role == "developer" else item.role, **read})
    if not messages:
        raise Invalid("input: there is no message in it", field="input")
    return messages


def beside_calls(messages: Iterable[Stored]) -> list[Stored]:
    """The messages, each call right before its results, where those stand; a result that is told again is left out.

    Engines want them together. Semantic Kernel says what it asked again between the two, and all results every time.
    """
    groups: dict[int, list[Stored]] = {}
    waiting: dict[str, int] = {}
    told = set()
    for number, each in enumerate(messages):
        if each["role"] == "tool":
            place = waiting.pop(each["call_id"], None)
            if place is not None:
                groups[place] = [*groups.pop(place), each]  # behind what stands between
            elif (each["call_id"], each["content"]) not in told:
                groups[number] = [each]
            told.add((each["call_id"], each["content"]))
        else:
            groups[number] = [each]
            waiting |= {call["id"]: number for call in each.get("calls", ())}
    return list(chain.from_iterable(groups.values()))


def _read(said: str | Sequence[InputText | OutputText | Refusal | InputImage], field: str) -> Stored:
    """The text and the pictures of a content."""
    if isinstance(said, str):
        return {"content": said}
    texts = [each.refusal if each.type == "refusal" else each.text for each in said if each.type != "input_image"]
    pictures = [stored_picture(each.image_url, field) for each in said if each.type == "input_image"]
    return {"content": "".join(texts), **({"pictures": pictures} if pictures else {})}
