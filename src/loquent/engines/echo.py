"""Echo: the engine for tests, yours and ours, that answers with what it was asked and misbehaves when told to.

No model, no weights: the answer is the prompt, or the last user message, word by word. A word is a token. Orders in
square brackets, anywhere in it, are left out of the answer and say how to answer:

    [slow 0.05]  wait that many seconds before each word
    [words 100]  say that many words, beginning again at the end
    [json]       say it as JSON: {"echo": "…"}
    [look]       say what pictures the messages hold; a message of nothing but pictures is answered so by itself
    [think so …] reason first, in these words
    [cut 3]      fail after three words (EngineFailed)
    [fail]       fail at once (EngineFailed)
    [busy 2]     say: later, in two seconds (EngineBusy)
    [away]       be away (Unavailable)
    [hang]       never answer; after the row's ``timeout`` this is EngineTimeout, as with any engine
    [die 0.5]    end the whole process after so long, as kill -9 would, where LOQUENT_FAILPOINTS names ``die``

Where tools are offered:

    [call get_weather {"city": "Paris"}]   call it, with exactly these arguments, in place of a text

Several such orders are several calls. Where a call is required and none is ordered, it calls the tool that is named,
or the first, with the least that the tool's schema wants. What a tool gave back is answered with its words.

Texts are made into unit vectors, 64 wide or ``dimensions``, in which each word is a direction; the orders that make
it wait or fail work there, too. ``max_tokens``, ``stop``, ``response_format``, ``logprobs`` (each word is as likely as
not), ``reasoning_effort`` "none" and the row's ``context`` are kept to; the same request has the same answer;
``temperature``, ``top_p`` and ``seed`` change nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from loquent.domain import failpoints
from loquent.domain.errors import ContextOverflow, EngineBusy, EngineFailed, EngineTimeout, Invalid, Unavailable
from loquent.domain.models import Model
from loquent.domain.requests import Message, Parameters
from loquent.domain.usage import Usage
from loquent.engines import Options, echo_calls
from loquent.engines.echo_schema import UNREADABLE, instance
from loquent.engines.echo_vectors import vector
from loquent.ports.engine import Ask, Chunk

# Each begins where spaces begin, or a long run of them would be looked at again from each of its places.
DIRECTIVE = re.compile(r"(?<!\s)\s*\[(slow|words|json|look|cut|fail|busy|away|hang|die)(?: (\d{1,9}(?:\.\d{1,9})?))?\]")
THOUGHT = re.compile(r"(?<!\s)\s*\[think ([^\[\]]*)\]")
WORD = re.compile(r"(?<!\s)\s*\S+")  # with the space before it, so that words put together are the text
MOST_WORDS = 100_000
MOST_SAID = 20_000_000  # characters, or a long word said often would fill the memory


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
        late_at = asyncio.get_running_loop().time() + ask.model.timeouts.total
        if ask.texts:
            yield await self._vectors(ask, late_at)
            return
        asked = [message.content for message in ask.messages] if ask.prompt is None else [ask.prompt]
        prompt_tokens = self._counted(asked, "messages" if ask.prompt is None else "prompt")
        told = ask.prompt if ask.prompt is not None else asked_last(ask.messages)
        orders = {name: float(value or 0) for name, value in DIRECTIVE.findall(told)}
        said = Said(ask, told, orders)
        await self._obey(orders, late_at)
        count = 0
        parts: list[Chunk] = []
        for chunk in said.pieces():
            await self._pace(orders, count, late_at)
            count += 1
            if ask.streamed:
                yield chunk
            else:
                parts.append(chunk)
        thoughts = len(said.thoughts)
        end = joined(parts)
        end.finish_reason, end.usage = said.reason, Usage(prompt_tokens, count, reasoning_tokens=thoughts)
        yield end

    async def _vectors(self, ask: Ask, late_at: float) -> Chunk:
        prompt_tokens = sum(self._counted([text], "input") for text in ask.texts)
        orders = {name: float(value or 0) for text in ask.texts for name, value in DIRECTIVE.findall(text)}
        await self._obey(orders, late_at)
        vectors: list[Sequence[float]] = []
        for text in ask.texts:
            await self._pace(orders, len(vectors), late_at)
            vectors.append(vector(DIRECTIVE.sub("", text), ask.dimensions))
        return Chunk(usage=Usage(prompt_tokens, 0), vectors=tuple(vectors))

    def _counted(self, asked: Sequence[str], field: str) -> int:
        """The words. Raises ContextOverflow where there are too many."""
        words = sum(len(text.split()) for text in asked)
        if self._model.context is not None and words > self._model.context:
            raise ContextOverflow(
                f"model {self._model.name}: {words} words do not fit its context of {self._model.context}", field=field
            )
        return words

    async def _obey(self, orders: Mapping[str, float], late_at: float) -> None:
        """Raise what was ordered."""
        if "die" in orders and failpoints.is_armed("die"):
            await asyncio.sleep(orders["die"])
            failpoints.passing("die")
        if "fail" in orders:
            raise EngineFailed("echo: failed, as the prompt said")
        if "busy" in orders:
            raise EngineBusy("echo: busy, as the prompt said", retry_after=orders["busy"])
        if "away" in orders:
            raise Unavailable("echo: away, as the prompt said")
        if "hang" in orders:
            await self._wait(late_at, late_at)

    async def _pace(self, orders: Mapping[str, float], number: int, late_at: float) -> None:
        """Wait for the next token's time."""
        if "cut" in orders and number >= orders["cut"]:
            raise EngineFailed("echo: cut, as the prompt said")
        await self._wait(asyncio.get_running_loop().time() + orders.get("slow", 0), late_at)

    async def _wait(self, until: float, late_at: float) -> None:
        await asyncio.sleep(min(until, late_at) - asyncio.get_running_loop().time())  # 0: others have their turn
        if until >= late_at:
            raise EngineTimeout(f"model {self._model.name}: the engine did not answer in time")


def asked_last(messages: Sequence[Message]) -> str:
    """What is to be answered: the results of tools where they come last, or the last user message."""
    results = list(itertools.takewhile(lambda message: message.role == "tool", reversed(messages)))
    if results:
        return "\n".join(message.content for message in reversed(results))
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


class Said:
    """What is said to what was told, a token after the other: thoughts, then calls of tools or words."""

    def __init__(self, ask: Ask, told: str, orders: Mapping[str, float]) -> None:
        """Raises Invalid where the ask cannot be kept to."""
        wanted = ask.parameters
        called: list[tuple[str, str]] = []
        if ask.tools and ask.messages and ask.messages[-1].role != "tool":
            told, called = echo_calls.ordered(told)
        thoughts = " ".join(THOUGHT.findall(told)) if wanted.reasoning_effort != "none" else ""
        text = DIRECTIVE.sub("", THOUGHT.sub("", told)).strip()
        if "look" in orders or not text:
            text = f"{text} {seen(ask.messages)}".strip()
        self.thoughts = WORD.findall(thoughts)[: wanted.max_tokens]
        limit = None if wanted.max_tokens is None else wanted.max_tokens - len(self.thoughts)
        self._logprobs = wanted.logprobs
        self._words: list[str] = []
        if calls := echo_calls.calls(ask, called):
            pieces = list(echo_calls.pieces(calls))
            self._calls = pieces[:limit]
            self.reason = "tool_calls" if len(self._calls) == len(pieces) else "length"
        else:
            self._calls = []
            self._words, self.reason = answer(text, orders, wanted, limit)

    def pieces(self) -> Iterator[Chunk]:
        """The tokens."""
        for word in self.thoughts:
            yield Chunk(reasoning=word)
        for piece in self._calls:
            yield Chunk(calls=(piece,))
        for word in self._words:
            yield Chunk(word) if self._logprobs is None else Chunk(word, logprobs=(likely(word, self._logprobs),))


def joined(parts: Sequence[Chunk]) -> Chunk:
    """The pieces as one."""
    return Chunk(
        "".join(part.text for part in parts),
        calls=tuple(itertools.chain.from_iterable(part.calls for part in parts)),
        reasoning="".join(part.reasoning for part in parts),
        logprobs=tuple(itertools.chain.from_iterable(part.logprobs for part in parts)),
    )


def seen(messages: Sequence[Message]) -> str:
    """The pictures in words; empty where there are none."""
    pictures = [picture for message in messages for picture in message.pictures]
    if not pictures:
        return ""
    told = ", ".join(f"{picture.media_type} of {len(picture.data)} bytes" for picture in pictures)
    return f"{len(pictures)} picture{'s' * (len(pictures) > 1)}: {told}"


def likely(word: str, others: int) -> dict[str, Any]:
    """How likely a word was, as OpenAI says it: one half, and each of the made-up others half of the one before."""
    tokens = [word, *(f" {number}" for number in range(2, others + 1))]
    told = [
        {"token": token, "logprob": number * math.log(0.5), "bytes": list(token.encode("utf-8", "replace"))}
        for number, token in enumerate(tokens, 1)
    ]
    return {**told[0], "top_logprobs": told[:others]}


def answer(told: str, orders: Mapping[str, float], parameters: Parameters, limit: int | None) -> tuple[list[str], str]:
    """The words to say, each with the space before it, and why they end there."""
    text = json.dumps({"echo": told}, ensure_ascii=False) if "json" in orders else told
    if parameters.response_format is not None:
        text = as_asked(parameters.response_format, text)
    words = WORD.findall(text)
    if "words" in orders:
        plain = [word.strip() for word in words] or ["echo"]
        most = min(int(orders["words"]), MOST_WORDS, MOST_SAID // max(map(len, plain)))
        words = [" " * (n > 0) + word for n, word in enumerate(itertools.islice(itertools.cycle(plain), most))]
    limit = len(words) if limit is None else limit
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
    except UNREADABLE as broken:
        raise Invalid("response_format holds a schema that cannot be read", field="response_format") from broken
