"""What our wire asks of a model: a prompt or messages, and how the answer is to be."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from loquent.domain.clock import Moment, from_iso
from loquent.domain.errors import Invalid
from loquent.domain.generations import Json
from loquent.domain.requests import Parameters
from loquent.web.api.messages import ChatMessage, ToolName, stored_messages
from loquent.web.body import Wire
from loquent.web.messages import LONGEST, MOST_TOOLS, Function, stored_tools
from loquent.web.quick import quickly


class Asked(Wire):
    """What goes with everything that a model is asked: which one, and how it is to answer."""

    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    response_format: dict[str, Any] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None  # of each token, and so many others in its place
    reasoning_effort: Annotated[str, Field(pattern="^[a-z]{1,20}$")] | None = None
    stream: bool = False

    def parameters(self) -> Parameters:
        """Those that were asked for."""
        return Parameters(
            self.max_tokens,
            self.temperature,
            self.top_p,
            self.seed,
            (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            self.response_format,
            self.logprobs,
            self.reasoning_effort,
        )


class AskedNowOrLater(Asked):
    """The same where it may be a job."""

    background: bool = False

    @model_validator(mode="after")
    def _is_now_or_later(self) -> Self:
        if self.stream and self.background:
            raise ValueError("a job is not streamed by its POST; follow its events instead")
        return self


@quickly
class NewGeneration(AskedNowOrLater):
    """What a model is asked: a prompt that it goes on from, or messages that it answers."""

    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST)] | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2_000)] | None = None
    tools: Annotated[list[Function], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolName | None = None
    parallel_calls: bool | None = None
    cache: bool | None = None  # whether a kept answer will do; left out: where it would come out the same

    @model_validator(mode="after")
    def _is_one_of_each(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either a prompt or messages")
        return self

    def stored(self) -> Json:
        """The input of the generation. Raises Invalid or TooLarge."""
        asked: Json = {"prompt": self.prompt} if self.messages is None else {"messages": stored_messages(self.messages)}
        return {**asked, **self._tools()} if self.tools or self.tool_choice else asked

    def _tools(self) -> Json:
        choice = self.tool_choice
        name, said = (choice.name, None) if isinstance(choice, ToolName) else ("", choice)
        tools = [each.model_dump() for each in self.tools or ()]
        return stored_tools(tools, choice=said, tool=name, parallel=self.parallel_calls)


def moment(name: str, text: str | None) -> Moment | None:
    """A time in a query, at or after the beginning of time. Raises Invalid."""
    try:
        return max(Moment(0), from_iso(text)) if text else None
    except (ValueError, OverflowError):
        raise Invalid(f"{name}: a time in ISO 8601, like 2026-01-31T12:00:00Z", field=name) from None
