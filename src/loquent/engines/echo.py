"""Echo: the engine for tests, yours and ours, that answers with what it was asked and misbehaves when told to.

No model, no weights: the answer is the prompt, or the last user message, word by word. A word is a token. Orders in
square brackets, anywhere in it, are left out of the answer and say how to answer:

    [slow 0.05]  wait that many seconds before each word
    [words 100]  say that many words, beginning again at the end
    [json]       say it as JSON: {"echo": "…"}
    [cut 3]      fail after three words (EngineFailed)
    [fail]       fail at once (EngineFailed)
    [busy 2]     say: later, in two seconds (EngineBusy)
    [away]       be away (Unavailable)
    [hang]       never answer; after the row's ``timeout`` this is EngineTimeout, as with any engine

``max_tokens``, ``stop``, ``response_format`` and the row's ``context`` are kept to; the same request has the same
answer; ``temperature``, ``top_p`` and ``seed`` change nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from loquent.domain.errors import ContextOverflow, EngineBusy, EngineFailed, EngineTimeout, Invalid, Unavailable
from loquent.domain.models import Model
from loquent.domain.requests import Parameters
from loquent.domain.usage import Usage
from loquent.engines import Options
from loquent.ports.engine import Ask, Chunk

DIRECTIVE = re.compile(r"\s*\[(slow|words|json|cut|fail|busy|away|hang)(?: (\d{1,9}(?:\.\d{1,9})?))?\]")
WORD = re.compile(r"\s*\S+")  # with the space before it, so that words put together are the text
MOST_WORDS = 100_000
MOST_SAID = 20_000_000  # characters, or a long word said often would fill the memory
DEEPEST = 32  # levels of a schema that an instance is made for
MOST_ITEMS = 8  # of its outermost arrays; arrays inside those get one, so that no schema makes a flood
MOST_CHARACTERS = 100


class Echo:
    """The shipped fake, as well behaved as any engine where the prompt does not say otherwise."""

    def __init__(self, model: Model, options: Options) -> None:
        self._model = model

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""

    async def ready(self) -> None:
        """See the port."""

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port."""
        asked = [message.content for message in ask.messages] if ask.prompt is None else [ask.prompt]
        prompt_tokens = sum(len(text.split()) for text in asked)
        if self._model.context is not None and prompt_tokens > self._model.context:
            raise ContextOverflow(
                f"model {self._model.name}: {prompt_tokens} words do not fit its context of {self._model.context}",
                field="messages" if ask.prompt is None else "prompt",
            )
        users = [message.content for message in ask.messages if message.role == "user"]
        told = ask.prompt if ask.prompt is not None else users[-1] if users else ""
        orders = {name: float(value or 0) for name, value in DIRECTIVE.findall(told)}
        words, reason = answer(DIRECTIVE.sub("", told).strip(), orders, ask.parameters)
        collected, loop = "", asyncio.get_running_loop()
        late_at = loop.time() + ask.model.timeouts.total
        refuse(orders)
        if "hang" in orders:
            await self._wait(late_at, late_at)
        for number, word in enumerate(words):
            if "cut" in orders and number >= orders["cut"]:
                raise EngineFailed("echo: cut, as the prompt said")
            await self._wait(loop.time() + orders.get("slow", 0), late_at)
            if ask.streamed:
                yield Chunk(word)
            else:
                collected += word
        yield Chunk(collected, reason, Usage(prompt_tokens, len(words)))

    async def _wait(self, until: float, late_at: float) -> None:
        await asyncio.sleep(min(until, late_at) - asyncio.get_running_loop().time())  # 0: others have their turn
        if until >= late_at:
            raise EngineTimeout(f"model {self._model.name}: the engine did not answer in time")


def refuse(orders: Mapping[str, float]) -> None:
    """Raise what the prompt ordered."""
    if "fail" in orders:
        raise EngineFailed("echo: failed, as the prompt said")
    if "busy" in orders:
        raise EngineBusy("echo: busy, as the prompt said", retry_after=orders["busy"])
    if "away" in orders:
        raise Unavailable("echo: away, as the prompt said")


def answer(told: str, orders: Mapping[str, float], parameters: Parameters) -> tuple[list[str], str]:
    """The words to say, each with the space before it, and why they end there."""
    text = json.dumps({"echo": told}, ensure_ascii=False) if "json" in orders else told
    if parameters.response_format is not None:
        text = as_asked(parameters.response_format, text)
    words = WORD.findall(text)
    if "words" in orders:
        plain = [word.strip() for word in words] or ["echo"]
        most = min(int(orders["words"]), MOST_WORDS, MOST_SAID // max(map(len, plain)))
        words = [" " * (n > 0) + word for n, word in enumerate(itertools.islice(itertools.cycle(plain), most))]
    limit = len(words) if parameters.max_tokens is None else parameters.max_tokens
    said = "".join(words[:limit])
    ends = [end for stop in parameters.stop if stop and (end := said.find(stop)) >= 0]
    if ends:
        return WORD.findall(said[: min(ends)]), "stop"
    return words[:limit], "length" if limit < len(words) else "stop"


def as_asked(response_format: Mapping[str, Any], text: str) -> str:
    """The text itself, an empty object, or the smallest instance of a schema. Raises Invalid where there is none."""
    kind = response_format.get("type")
    if kind == "text":
        return text
    if kind == "json_object":
        return text if text.startswith('{"echo": ') else "{}"
    wanted = response_format.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise Invalid("response_format takes text, json_object, or json_schema with a schema", field="response_format")
    try:
        return json.dumps(instance(schema), ensure_ascii=False)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as broken:
        raise Invalid("response_format holds a schema that cannot be read", field="response_format") from broken


def instance(schema: Any, depth: int = 0, most: int = MOST_ITEMS) -> Any:
    """The smallest value that a simple schema allows; references, patterns and large minima are not followed."""
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return {}
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return instance(options[0], depth + 1, most)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        parts = schema.get("properties", {})
        return {name: instance(parts.get(name, {}), depth + 1, most) for name in schema.get("required", [])}
    if kind == "array":
        return [instance(schema.get("items", {}), depth + 1, 1)] * min(int(schema.get("minItems", 0)), most)
    if kind == "string":
        return "x" * min(int(schema.get("minLength", 0)), MOST_CHARACTERS)
    return schema.get("minimum", SMALLEST[kind])


SMALLEST: Mapping[str, Any] = {"integer": 0, "number": 0, "boolean": False, "null": None}
