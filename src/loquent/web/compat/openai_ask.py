"""What a chat completion and a completion ask for: the models of their bodies, and what of them a generation keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from loquent.domain.errors import Invalid
from loquent.domain.requests import Parameters
from loquent.web.body import Wire
from loquent.web.messages import (
    MOST_CALLS,
    MOST_TOOLS,
    CallId,
    Function,
    Name,
    Said,
    Text,
    check_results,
    only_functions,
    stored_said,
    stored_tools,
    with_calls,
)
from loquent.web.quick import quickly

ROLES = {"developer": "system"}  # a later word for it


class Called(Wire):
    """What a model wants called."""

    name: Name
    arguments: Text


class Call(Wire):
    """A call that an assistant asked for."""

    id: CallId
    type: Literal["function"]
    function: Called
    index: int | None = None  # as a stream told it


class OpenAIMessage(Wire):
    """One message. What an answer carries beside it may come back with it, and is left."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Said | None = None
    name: str | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[Call], Field(max_length=MOST_CALLS)] | None = None
    tool_call_id: CallId | None = None
    reasoning_content: Text | None = None
    annotations: list[dict[str, Any]] | None = None
    provider_specific_fields: dict[str, Any] | None = None  # LiteLLM's own, beside an answer
    audio: None = None
    function_call: None = None


class StreamOptions(Wire):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class FunctionTool(Wire):
    """A tool on offer."""

    type: Literal["function"]
    function: Function


class FunctionName(Wire):
    """A function, by its name."""

    name: Name


class NamedTool(Wire):
    """The one tool that has to be called."""

    type: Literal["function"]
    function: FunctionName


class Common(Wire):
    """What both calls take. What changes nothing here is taken and left; what would is refused."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def parameters(self) -> Parameters:
        """Those that were asked for."""
        return Parameters(self.max_tokens, self.temperature, self.top_p, self._seed(), self._stop())

    def _seed(self) -> int | None:
        return self.seed and self.seed % 2**31

    def _stop(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


@quickly
class ChatCompletion(Common):
    """The body of a chat completion."""

    messages: Annotated[list[OpenAIMessage], Field(min_length=1, max_length=2_000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS), BeforeValidator(only_functions)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Annotated[str, Field(pattern="^[a-z]{1,20}$")] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    safety_identifier: str | None = None
    verbosity: str | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    functions: None = None
    function_call: None = None

    @field_validator("functions", "function_call", mode="before")
    @classmethod
    def _is_of_old(cls, given: Any) -> Any:
        if given is not None:
            raise ValueError("functions and function_call are deprecated and not taken; send tools and tool_choice")
        return given

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _is_a_choice(cls, choice: Any) -> Any:
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            raise ValueError("allowed_tools is not taken; send only those tools that may be called")
        return choice

    @field_validator("top_logprobs")
    @classmethod
    def _is_of_logprobs(cls, most: int | None, info: ValidationInfo) -> int | None:
        if most is not None and not info.data.get("logprobs"):
            raise ValueError("it goes with logprobs: true")
        return most

    def parameters(self) -> Parameters:
        """Those that were asked for."""
        return Parameters(
            self.max_completion_tokens or self.max_tokens,
            self.temperature,
            self.top_p,
            self._seed(),
            self._stop(),
            self.response_format,
            (self.top_logprobs or 0) if self.logprobs else None,
            self.reasoning_effort,
        )

    def stored(self) -> dict[str, Any]:
        """The input of the generation. Raises Invalid or TooLarge."""
        asked: dict[str, Any] = {"messages": _messages(self.messages)}
        return {**asked, **self._tools()} if self.tools or self.tool_choice else asked

    def _tools(self) -> dict[str, Any]:
        choice = self.tool_choice
        name, said = (choice.function.name, None) if isinstance(choice, NamedTool) else ("", choice)
        functions = [each.function.model_dump() for each in self.tools or ()]
        return stored_tools(functions, choice=said, tool=name, parallel=self.parallel_tool_calls)


@quickly
class TextCompletion(Common):
    """The body of a completion."""

    prompt: Text | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _are_elsewhere(cls, given: Any) -> Any:
        if given is not None:
            raise ValueError("completions give no logprobs; chat completions do, with logprobs: true")
        return given

    def stored(self) -> dict[str, Any]:
        """The input of the generation."""
        return {"prompt": self.prompt if isinstance(self.prompt, str) else self.prompt[0], "plain": True}


def _messages(messages: Sequence[OpenAIMessage]) -> list[dict[str, Any]]:
    """The messages as they are stored. Raises Invalid or TooLarge."""
    plain = [
        {"role": ROLES.get(each.role, each.role), "content": each.content}
        for each in messages
        if type(each.content) is str and each.role != "tool" and not each.tool_calls and each.tool_call_id is None
    ]
    if len(plain) == len(messages):
        return plain
    said = [_message(each, f"messages.{number}") for number, each in enumerate(messages)]
    check_results(said)
    return said


def _message(each: OpenAIMessage, field: str) -> dict[str, Any]:
    said = each.content if each.content is not None else each.refusal
    if said is None and not (each.tool_calls and each.role == "assistant"):
        raise Invalid(f"{field}.content: it is missing", field=f"{field}.content")
    stored = stored_said(ROLES.get(each.role, each.role), said or "", f"{field}.content")
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in each.tool_calls or ()
    ]
    return with_calls(stored, calls, each.tool_call_id, field)
