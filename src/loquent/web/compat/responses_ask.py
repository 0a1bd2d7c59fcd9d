"""What a request for a response says: the models of its body, and what of it is asked of a model and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from loquent.domain.errors import Invalid
from loquent.domain.generations import COMPLETED, Content, Generation, Json
from loquent.domain.requests import Parameters
from loquent.services.wanted import Key, Wanted
from loquent.web.body import Wire
from loquent.web.compat.responses_items import Id, Items, Stored, beside_calls, messages_of
from loquent.web.messages import MOST_TOOLS, Function, Name, Text, check_results, only_functions, stored_tools

LOGPROBS = "message.output_text.logprobs"
Short = Annotated[str, Field(max_length=512)]


class ResponseTool(Function):
    """A tool that the caller runs."""

    type: Literal["function"]


class ToolByName(Wire):
    """The one tool that has to be called."""

    type: Literal["function"]
    name: Name


class PlainForm(Wire):
    """An answer in plain text, or as any JSON object."""

    type: Literal["text", "json_object"]


class SchemaForm(Wire):
    """An answer that keeps to a JSON schema."""

    type: Literal["json_schema"]
    name: Name
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    description: Text | None = None
    strict: bool | None = None


class TextForm(Wire):
    """How the text is to be."""

    format: Annotated[PlainForm | SchemaForm, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningForm(Wire):
    """How long a model that reasons may do so; there is a summary wherever the engine tells what was thought."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseStreamOptions(Wire):
    """What a stream carries beside the answer."""

    include_obfuscation: bool | None = None


class NewResponse(Wire):
    """The body of a request for a response. What changes nothing here is taken and left; what would is refused."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Items
    instructions: Text | None = None
    previous_response_id: Id | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MOST_TOOLS), BeforeValidator(only_functions)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolByName | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    text: TextForm | None = None
    reasoning: ReasoningForm | None = None
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], Short], Field(max_length=16)] | None = None
    include: Annotated[list[Short], Field(max_length=20)] | None = None
    truncation: Literal["disabled", "auto"] | None = None  # nothing is left out in silence: what is too long is refused
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    background: bool | None = None
    user: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    prompt_cache_retention: Short | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: Short | None = None
    client_metadata: dict[str, Any] | None = None  # of Codex, for its own use
    conversation: None = None
    prompt: None = None


KEPT = {
    *("input", "model", "stream", "stream_options", "background", "tools", "include", "truncation"),
    *("prompt_cache_options", "client_metadata"),
}
"""What of a request is not kept as it came: it is kept elsewhere, or says nothing of the response."""


def wanted(body: NewResponse, before: Sequence[Stored], key: Key | None) -> Wanted:
    """What the body asks for, behind what was said ``before``. Raises Invalid."""
    if body.background and body.store is False:
        raise Invalid("store: what runs in the background is looked at later, so it has to be stored", field="store")
    said = beside_calls([*before, *messages_of(body.input)])
    check_results(said, "input")
    told = [{"role": "system", "content": body.instructions}] if body.instructions is not None else []
    named = body.tool_choice.name if isinstance(body.tool_choice, ToolByName) else ""
    tools = stored_tools(
        [each.model_dump(exclude={"type"}) for each in body.tools or ()],
        choice=None if isinstance(body.tool_choice, ToolByName) else body.tool_choice,
        tool=named,
        parallel=body.parallel_tool_calls,
    )
    kept = body.model_dump(exclude=KEPT, exclude_none=True, by_alias=True)
    return Wanted(
        kind="chat",
        surface="openai",
        input={"messages": [*told, *said], **tools, "response": kept},
        text=said[-1]["content"],
        model=body.model,
        parameters=_parameters(body),
        streamed=bool(body.stream),
        key=key,
    )


def earlier(generation: Generation, content: Content) -> list[Stored]:
    """What goes before the next response of a chain: what this one was asked, without its instructions, and its answer.

    Calls that it did not come to the end of are left out: nobody can have their results.
    """
    said = given(content.input)
    calls = (content.more or {}).get("calls", ()) if generation.status == COMPLETED else ()
    if content.output or calls:
        answer: Stored = {"role": "assistant", "content": content.output}
        said.append({**answer, "calls": list(calls)} if calls else answer)
    return said


def given(asked: Json) -> list[Stored]:
    """The messages of an input, without the instructions."""
    return list(asked["messages"][1 if "instructions" in asked["response"] else 0 :])


def _parameters(body: NewResponse) -> Parameters:
    wants_logprobs = body.top_logprobs or LOGPROBS in (body.include or ())
    return Parameters(
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        response_format=_format(body.text.format) if body.text and body.text.format else None,
        logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
    )


def _format(asked: PlainForm | SchemaForm) -> Json | None:
    """The form in which a chat completion asks for it, which engines know."""
    if isinstance(asked, SchemaForm):
        schema = asked.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
        return {"type": "json_schema", "json_schema": schema}
    return {"type": asked.type} if asked.type != "text" else None
