"""The calls of tools that the echo engine makes: those that the prompt orders, or one that has to be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from loquent.domain.errors import Invalid
from loquent.domain.requests import NONE, REQUIRED, Tool, ToolCall
from loquent.engines.echo_schema import UNREADABLE, instance
from loquent.ports.engine import Ask, CallPiece

ORDER = re.compile(r"(?<!\s)\s*\[call ([A-Za-z0-9_-]{1,64}) *")
PIECE = re.compile(r"\w+|\W+")  # of arguments; a token each, as a word is of a text
MOST_CALLS = 16  # orders that are followed; more of them stay text
READ = json.JSONDecoder().raw_decode


def ordered(told: str) -> tuple[str, list[tuple[str, str]]]:
    """The text without the orders to call, and the name and arguments of each.

    Arguments that are no JSON go as they are, up to the next bracket: a model may write such, too.
    """
    rest: list[str] = []
    orders: list[tuple[str, str]] = []
    at = 0
    while len(orders) < MOST_CALLS and (found := ORDER.search(told, at)):
        begin = found.end()
        try:
            _, end = READ(told, begin)
        except (ValueError, RecursionError):
            end = begin
        end = told.find("]", end)
        if end < 0:
            break
        rest.append(told[at : found.start()])
        orders.append((found[1], told[begin:end].rstrip() or "{}"))
        at = end + 1
    return "".join((*rest, told[at:])), orders


def calls(ask: Ask, orders: Sequence[tuple[str, str]]) -> list[ToolCall]:
    """The calls that answer this ask; none where text does. Raises Invalid."""
    if not ask.tools or (ask.tool_choice == NONE and not ask.tool):
        return []
    wanted = [order for order in orders if ask.tool in ("", order[0])]
    if not wanted and (ask.tool or ask.tool_choice == REQUIRED):
        wanted = [_made(ask.tools, ask.tool)]
    if ask.parallel_calls is False:
        wanted = wanted[:1]
    before = sum(len(message.calls) for message in ask.messages)
    return [ToolCall(f"call_{number}", *order) for number, order in enumerate(wanted, before + 1)]


def _made(tools: Sequence[Tool], name: str) -> tuple[str, str]:
    """A call of that tool, or of the first, with the least that its schema wants."""
    tool = next((tool for tool in tools if name in ("", tool.name)), None)
    if tool is None:
        raise Invalid(f"tool_choice names {name!r}, which is not one of the tools", field="tool_choice")
    try:
        return tool.name, json.dumps(instance(tool.parameters), ensure_ascii=False)
    except UNREADABLE as broken:
        raise Invalid(f"the parameters of the tool {tool.name!r} are no schema", field="tools") from broken


def pieces(calls: Sequence[ToolCall]) -> Iterator[CallPiece]:
    """What a stream says of them: first who is called, then the arguments bit by bit."""
    for index, call in enumerate(calls):
        yield CallPiece(index, call.id, call.name)
        for found in PIECE.finditer(call.arguments):
            yield CallPiece(index, arguments=found[0])
