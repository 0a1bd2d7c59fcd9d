"""Recipes: what to ask of the engine for each kind of generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from loquent.domain.errors import EngineFailed
from loquent.domain.models import CHAT, SUMMARY
from loquent.domain.requests import Message, Parameters
from loquent.domain.summaries import brief, instruction, joining, piece_characters
from loquent.domain.texts import pieces
from loquent.domain.usage import Usage, estimate_tokens
from loquent.ports.engine import Ask, Chunk
from loquent.services.live import Live
from loquent.services.runner import Recipe

AT_ONCE = 4  # pieces of one text that are worked on at the same time


def answer(live: Live) -> AsyncIterator[Chunk]:
    """One call: messages are answered; a prompt is put as one message, or gone on from where that is wanted."""
    asked, model = live.content.input, live.offer.model
    messages = tuple(Message(each["role"], each["content"]) for each in asked.get("messages", ()))
    prompt = asked.get("prompt")
    if prompt is not None and CHAT in model.abilities and not asked.get("plain"):
        messages, prompt = (Message("user", prompt),), None
    ask = Ask(model, live.parameters.over(model.defaults), messages, prompt, streamed=live.streamed)
    return live.offer.engine.stream(ask)


async def summarize(live: Live) -> AsyncIterator[Chunk]:
    """A text made shorter: by a model that does it by itself, or piece by piece and then together."""
    model, asked = live.offer.model, live.content.input
    text, language, length = asked["text"], asked.get("language"), asked.get("length", "medium")
    parameters = live.parameters.over(Parameters(max_tokens=brief(length))).over(model.defaults)
    if SUMMARY in model.abilities:
        live.step(0, 1)
        ask = Ask(model, parameters, (Message("user", text),))
        async for chunk in live.offer.engine.stream(ask):
            yield chunk
        return
    limit = piece_characters(model.context)
    parts = _cut(text, limit)
    live.step(0, len(parts) + 1 if len(parts) > 1 else 1)
    is_whole = len(parts) == 1
    while len(parts) > 1:
        shortened = await _shorten(
            live, parts, language, replace(parameters, max_tokens=min(brief("short"), limit // 8))
        )
        parts = _cut(
            joining([short[: limit // 3] for short, _ in shortened]), limit
        )  # no model keeps this going for ever
        live.step(live.steps_done, live.steps_done + 1 + (len(parts) if len(parts) > 1 else 0))
    if not parts:
        raise EngineFailed("the model said nothing of any part of the text")
    messages = (Message("user", instruction(language, length, parts[0], whole=is_whole)),)
    async for chunk in live.offer.engine.stream(Ask(model, parameters, messages)):
        yield chunk


def _cut(text: str, limit: int) -> list[str]:
    return [text[start:end] for start, end in pieces(text, limit)]


async def _shorten(
    live: Live, parts: list[str], language: str | None, parameters: Parameters
) -> list[tuple[str, Usage]]:
    """Each part made short, several at the same time; the first fault ends them all."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def shorten(part: str) -> tuple[str, Usage]:
        async with slots:
            made = await _ask(live, instruction(language, "short", part), parameters)
        live.take(Chunk(usage=made[1]))  # at once: it is spent, whatever comes of the rest
        live.step(live.steps_done + 1, live.steps)
        return made

    tasks = [asyncio.create_task(shorten(part)) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(live: Live, prompt: str, parameters: Parameters) -> tuple[str, Usage]:
    model = live.offer.model
    ask = Ask(model, parameters, (Message("user", prompt),), streamed=False)
    texts: list[str] = []
    usage: Usage | None = None
    async for chunk in live.offer.engine.stream(ask):
        for part in chunk.parts():
            texts.append(part.text)
            usage = part.usage or usage
    text = "".join(texts)
    return text, usage or Usage(estimate_tokens(prompt), estimate_tokens(text), estimated=True)


RECIPES: Mapping[str, Recipe] = {"text": answer, "chat": answer, "summary": summarize}
