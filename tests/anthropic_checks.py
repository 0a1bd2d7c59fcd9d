"""What Anthropic's Messages API takes and refuses, by its public documentation: a body in, an ask or a refusal out.

It takes what is documented and refuses the rest, in the documented words and statuses: what an engine gets wrong here
it gets wrong there. Sources: https://platform.claude.com/docs/en/api/messages/create, …/api/errors;
…/agents-and-tools/tool-use/handle-tool-calls; …/build-with-claude/thinking, structured-outputs and effort.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from loquent.domain.models import Model
from loquent.domain.requests import AUTO, NONE, REQUIRED, Message, Parameters, Picture, Tool, ToolCall
from loquent.ports.engine import Ask

FIELDS = frozenset(
    (
        *("model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences", "stream"),
        *("output_config", "metadata", "thinking", "tools", "tool_choice", "service_tier", "cache_control"),
    )
)
MEDIA = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
TYPES = frozenset(("object", "array", "string", "integer", "number", "boolean", "null"))
BOUNDS = frozenset(("minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems", "uniqueItems"))
EFFORTS = ("low", "medium", "high", "xhigh", "max")
CHOICES = {"auto": AUTO, "any": REQUIRED, "tool": REQUIRED, "none": NONE}
TOOL = frozenset(("name", "description", "input_schema", "strict", "type", "cache_control", "eager_input_streaming"))
NAME, ID = re.compile(r"[a-zA-Z0-9_-]{1,64}"), re.compile(r"[a-zA-Z0-9_-]+")
OMITTED, SUMMARIZED = "omitted", "summarized"
STATUSES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Refused(Exception):
    """An answer in the form of an error."""

    def __init__(self, status: int, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.wait = status, message, wait

    def body(self) -> dict[str, Any]:
        fault = {"type": STATUSES[self.status], "message": self.message}
        return {"type": "error", "error": fault, "request_id": "req_1"}


def need(claim: bool, message: str) -> None:
    if not claim:
        raise Refused(400, message)


def asked(body: Mapping[str, Any], model: Model) -> Ask:
    """The request, checked. Raises Refused."""
    for name in body:
        need(name in FIELDS, f"{name}: Extra inputs are not permitted")
    for name in ("model", "messages", "max_tokens"):
        need(name in body, f"{name}: Field required")
    if body["model"] != model.id:
        raise Refused(404, f"model: {body['model']}")
    need(isinstance(body["max_tokens"], int) and body["max_tokens"] > 0, "max_tokens: must be greater than 0")
    for name in ("temperature", "top_p"):
        need(0 <= body.get(name, 1) <= 1, f"{name}: range: 0..1")
    need(
        "temperature" not in body or "top_p" not in body,
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
    )
    for stop in body.get("stop_sequences", ()):
        need(bool(stop.strip()), "stop_sequences: each stop sequence must contain non-whitespace")
    form = None
    effort = body.get("output_config", {}).get("effort", "high")
    need(effort in EFFORTS, f"output_config.effort: Input should be {', '.join(map(repr, EFFORTS))}")
    if wanted := body.get("output_config", {}).get("format"):
        need(wanted.get("type") == "json_schema", "output_config.format.type: Input should be 'json_schema'")
        check(wanted.get("schema"))
        form = {"type": "json_schema", "json_schema": {"schema": wanted["schema"]}}
    thinks = display(body) is not None
    parameters = Parameters(
        body["max_tokens"],
        stop=tuple(body.get("stop_sequences", ())),
        response_format=form,
        reasoning_effort=effort if thinks else "none",
    )
    tools = tools_of(body.get("tools", ()))
    choice, tool, parallel = choice_of(body, tools)
    system = [Message("system", text_of(body["system"]))] if body.get("system") else []
    return Ask(
        model,
        parameters,
        (*system, *turns(body["messages"], {tool.name for tool in tools})),
        streamed=body.get("stream", False),
        tools=tools,
        tool_choice=choice,
        tool=tool,
        parallel_calls=parallel,
    )


def display(body: Mapping[str, Any]) -> str | None:
    """How much of its thoughts is shown; None where the model does not think."""
    thinking = body.get("thinking", {"type": "adaptive"})
    kind = thinking.get("type")
    need(kind in ("adaptive", "enabled", "disabled", "between_tools"), "thinking.type: Input tag is not expected")
    if kind in ("disabled", "between_tools"):
        return None
    if kind == "enabled":
        budget = thinking.get("budget_tokens", 0)
        need(budget >= 1024, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        need(budget < body["max_tokens"], "`max_tokens` must be greater than `thinking.budget_tokens`")
        forces = body.get("tool_choice", {}).get("type") in ("any", "tool")
        need(not forces, "Thinking may not be enabled when tool_choice forces tool use.")
    if "thinking" in body:
        words = "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode"
        need(body.get("temperature", 1) == 1, words)
    shown = thinking.get("display", OMITTED)
    need(shown in (OMITTED, SUMMARIZED), "thinking.adaptive.display: Input should be 'summarized' or 'omitted'")
    return str(shown)


def tools_of(given: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools that are offered, checked."""
    made = []
    for number, tool in enumerate(given):
        where, schema = f"tools.{number}.custom", tool.get("input_schema", {})
        for name in tool:
            need(name in TOOL, f"{where}.{name}: Extra inputs are not permitted")
        need(bool(NAME.fullmatch(tool.get("name", ""))), f"{where}.name: String should match pattern")
        need("input_schema" in tool, f"{where}.input_schema: Field required")
        need(schema.get("type") == "object", f"{where}.input_schema.type: Input should be 'object'")
        if tool.get("strict"):
            check(schema, f"{where}.input_schema")
        made.append(Tool(tool["name"], tool.get("description", ""), schema, tool.get("strict")))
    need(len({tool.name for tool in made}) == len(made), "tools: Tool names must be unique.")
    return tuple(made)


def choice_of(body: Mapping[str, Any], tools: Sequence[Tool]) -> tuple[str, str, bool | None]:
    """Whether tools have to be called, which, and whether several at once."""
    choice = body.get("tool_choice")
    if choice is None:
        return AUTO, "", None
    kind = choice.get("type")
    need(bool(tools), "tool_choice: may only be specified while providing tools.")
    need(kind in CHOICES, f"tool_choice: Input tag '{kind}' found using 'type' does not match any of the expected tags")
    allowed = {"type"} | ({"name"} if kind == "tool" else set())
    allowed |= {"disable_parallel_tool_use"} if kind != "none" else set()
    for name in choice.keys() - allowed:
        need(False, f"tool_choice.{kind}.{name}: Extra inputs are not permitted")
    named = choice.get("name", "") if kind == "tool" else ""
    need(kind != "tool" or named in {tool.name for tool in tools}, f"Tool '{named}' not found in provided tools")
    return CHOICES[kind], named, False if choice.get("disable_parallel_tool_use") else None


def turns(messages: Any, tools: set[str]) -> list[Message]:
    """The turns, checked: ``user`` first, one after the other, none empty. The API itself is more lenient there."""
    need(isinstance(messages, list) and bool(messages), "messages: at least one message is required")
    made: list[Message] = []
    open_calls: list[str] = []  # that the message before asked for
    for number, message in enumerate(messages):
        where, role = f"messages.{number}", message["role"]
        need(role == ("user", "assistant")[number % 2], "messages: roles must alternate, user first")
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        need(bool(blocks), f"{where}: content must be non-empty")
        results = [block for block in blocks if block["type"] == "tool_result"]
        answered = [block["tool_use_id"] for block in results]
        left = [name for name in open_calls if name not in answered]
        words = "ids were found without `tool_result` blocks immediately after"
        need(not left and blocks[: len(results)] == results, f"{where}: `tool_use` {words}: {', '.join(left)}.")
        for name in answered:
            need(name in open_calls, f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {name}.")
        made += [Message("tool", *said(each.get("content", [])), call_id=each["tool_use_id"]) for each in results]
        calls = [call_of(block) for block in blocks if block["type"] == "tool_use"]
        need(not calls or role == "assistant", f"{where}: `tool_use` blocks can only be in `assistant` messages")
        known = "Requests which include `tool_use` or `tool_result` blocks must define tools"
        need(all(call.name in tools for call in calls), known)
        rest = [block for block in blocks if block["type"] not in ("tool_result", "tool_use")]
        if rest or calls:
            made.append(Message(role, *said(rest), calls=tuple(calls)))
        open_calls = [call.id for call in calls]
    need(not open_calls, f"messages: `tool_use` ids were found without `tool_result` blocks: {open_calls}")
    return made


def call_of(block: Mapping[str, Any]) -> ToolCall:
    need(bool(ID.fullmatch(block["id"])), "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    need(isinstance(block["input"], dict), "tool_use.input: Input should be a valid dictionary")
    return ToolCall(block["id"], block["name"], json.dumps(block["input"]))


def text_of(content: Any) -> str:
    return said(content)[0]


def said(content: Any) -> tuple[str, tuple[Picture, ...]]:
    """What blocks say and show."""
    texts, pictures = [], []
    blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for block in blocks:
        if block["type"] == "text":
            need(bool(block["text"].strip()), "messages: text content blocks must contain non-whitespace text")
            texts.append(block["text"])
            continue
        if block["type"] == "thinking":
            need(bool(block["signature"]), "messages: thinking.signature: Invalid `signature` in `thinking` block")
            continue
        need(block["type"] == "image", f"messages: Input tag '{block['type']}' found using 'type' is not expected")
        source = block["source"]
        need(source["type"] == "base64" and source["media_type"] in MEDIA, "messages: source.media_type is not one of")
        try:
            pictures.append(Picture(source["media_type"], base64.b64decode(source["data"], validate=True)))
        except binascii.Error:
            raise Refused(400, "messages: source.base64: invalid base64 data") from None
    return "\n".join(texts), tuple(pictures)


def check(schema: Any, where: str = "output_config.format.schema") -> None:
    """A schema of the documented kind: objects closed, no bounds on numbers and lengths."""
    need(isinstance(schema, dict), f"{where}: Input should be a valid dictionary")
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    need(all(kind in TYPES for kind in kinds), f"{where}: {kinds} is not a type")
    need(bool(kinds) or bool(schema.keys() & {"enum", "const", "anyOf", "$ref"}), f"{where}: a type is required")
    if "object" in kinds:
        closed = schema.get("additionalProperties") is False
        need(closed, f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    for name in BOUNDS & schema.keys():
        need(False, f"{where}: property '{name}' is not supported")
    parts = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    for part in [*parts, *([schema["items"]] if "items" in schema else [])]:
        check(part, where)
