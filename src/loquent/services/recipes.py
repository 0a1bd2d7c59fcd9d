"""Recipes: what to ask of the engine for each kind of generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from loquent.domain.documents import DocumentText, asking, noting
from loquent.domain.errors import EngineFailed, NotFound
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation, Json
from loquent.domain.models import CHAT, SUMMARY
from loquent.domain.requests import Message, Parameters, Tool, message_of
from loquent.domain.summaries import brief, instruction, joining, piece_characters
from loquent.domain.texts import pieces
from loquent.domain.usage import Usage, estimate_tokens
from loquent.ports.engine import Ask, Chunk
from loquent.ports.store import Store
from loquent.services.live import Live
from loquent.services.runner import Recipe

AT_ONCE = 4  # pieces of one text that are worked on at the same time


def answer(live: Live) -> AsyncIterator[Chunk]:
    """One call: messages are answered; a prompt is put as one message, or gone on from where that is wanted."""
    asked, model = live.content.input, live.offer.model
    messages = tuple(map(message_of, asked.get("messages", ())))
    prompt = asked.get("prompt")
    if prompt is not None and CHAT in model.abilities and not asked.get("plain"):
        messages, prompt = (Message("user", prompt),), None
    ask = Ask(model, live.parameters, messages, prompt, live.streamed, **_tools(asked))
    return live.stream(ask)


def _tools(asked: Json) -> dict[str, Any]:
    """What the input says of tools, as an Ask has it."""
    if "tools" not in asked:
        return {}
    chosen = {name: asked[name] for name in ("tool_choice", "tool", "parallel_calls") if name in asked}
    return {"tools": tuple(Tool(**each) for each in asked["tools"]), **chosen}


async def embed(live: Live) -> AsyncIterator[Chunk]:
    """Vectors of texts. Raises EngineFailed where they are not one for each text, all as long as each other."""
    asked = live.content.input
    texts = tuple(asked["texts"])
    lengths: list[int] = []
    live.asked_tokens = sum(map(estimate_tokens, texts))
    ask = Ask(live.offer.model, live.parameters, texts=texts, dimensions=asked.get("dimensions"), streamed=False)
    async with aclosing(live.stream(ask)) as chunks:
        async for chunk in chunks:
            lengths += map(len, chunk.vectors)
            yield chunk
    if len(lengths) != len(texts) or len(set(lengths)) != 1 or 0 in lengths:
        raise EngineFailed(f"the engine made {len(lengths)} vectors of {len(texts)} texts, or not all of one length")


async def summarize(live: Live) -> AsyncIterator[Chunk]:
    """A text made shorter: by a model that does it by itself, or piece by piece and then together."""
    asked = live.content.input
    ask = await _summing_up(live, asked["text"], asked.get("language"), asked.get("length", "medium"))
    async with aclosing(live.stream(ask)) as chunks:
        async for chunk in chunks:
            yield chunk


def about_documents(store: Store) -> Recipe:
    """What is asked about an uploaded document; its text lies in the store, not in the generation."""

    async def answer_about(live: Live) -> AsyncIterator[Chunk]:
        text = await _text_of(store, live.generation)
        live.asked_tokens = estimate_tokens(text)
        ask = await _asking(live, text, live.content.input["instruction"])
        async with aclosing(live.stream(ask)) as chunks:
            async for chunk in chunks:
                yield chunk

    return answer_about


async def _text_of(store: Store, generation: Generation) -> str:
    found = await store.get(DocumentText, generation.upload or "")
    if not found or (found[0].tenant, found[0].owner) != (generation.tenant, generation.owner):
        raise NotFound("the document has been removed")
    return found[0].text


async def _summing_up(live: Live, text: str, language: str | None, length: str) -> Ask:
    model = live.offer.model
    parameters = live.parameters.over(Parameters(max_tokens=brief(length)))
    if SUMMARY in model.abilities:
        live.step(0, 1)
        return Ask(model, parameters, (Message("user", text),))
    prompt = await _fitted(
        live,
        text,
        parameters,
        limit=piece_characters(model.context),
        note=lambda part: instruction(language, "short", part),
        put=lambda rest, whole: instruction(language, length, rest, whole=whole),
    )
    return Ask(model, parameters, (Message("user", prompt),))


async def _asking(live: Live, text: str, wish: str) -> Ask:
    """No wish: what the document says, in short. A model that only goes on from a prompt gets the text as it is."""
    model = live.offer.model
    if not wish and model.abilities & {CHAT, SUMMARY}:
        return await _summing_up(live, text, None, "medium")
    parameters = live.parameters
    if CHAT not in model.abilities:
        return Ask(model, parameters, prompt=f"{wish}\n\n{text}" if wish else text, streamed=live.streamed)
    prompt = await _fitted(
        live,
        text,
        parameters,
        limit=piece_characters(model.context, beside=len(wish)),
        note=lambda part: noting(wish, part),
        put=lambda rest, whole: asking(wish, rest, whole=whole),
    )
    return Ask(model, parameters, (Message("user", prompt),), streamed=live.streamed)


async def _fitted(
    live: Live,
    text: str,
    parameters: Parameters,
    *,
    limit: int,
    note: Callable[[str], str],
    put: Callable[[str, bool], str],
) -> str:
    """What to ask of the whole: ``put`` of the text, or of notes on its parts where it has more than ``limit``.

    ``note`` is what is asked of a part. Notes that are too long together are noted again.
    """
    parts = await asyncio.to_thread(_cut, text, limit)
    live.step(0, len(parts) + 1 if len(parts) > 1 else 1)
    is_whole = len(parts) == 1
    short = evolve(parameters, max_tokens=min(brief("short"), limit // 8))
    while len(parts) > 1:
        notes = await _noted(live, [note(part) for part in parts], short)
        joined = joining([each[: limit // 3] for each, _ in notes])  # cut off: no model keeps this going for ever
        parts = await asyncio.to_thread(_cut, joined, limit)
        live.step(live.steps_done, live.steps_done + 1 + (len(parts) if len(parts) > 1 else 0))
    if not parts:
        raise EngineFailed("the model said nothing of any part of the text")
    return put(parts[0], is_whole)


def _cut(text: str, limit: int) -> list[str]:
    """Of a long text this takes seconds: never on the loop."""
    return [text[start:end] for start, end in pieces(text, limit)]


async def _noted(live: Live, prompts: list[str], parameters: Parameters) -> list[tuple[str, Usage]]:
    """What is said to each, several at the same time; the first fault ends them all."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def noted(prompt: str) -> tuple[str, Usage]:
        async with slots:
            made = await _ask(live, prompt, parameters)
        live.take(Chunk(usage=made[1]))  # at once: it is spent, whatever comes of the rest
        live.step(live.steps_done + 1, live.steps)
        return made

    tasks = [asyncio.create_task(noted(prompt)) for prompt in prompts]
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
    async for chunk in live.stream(ask, is_part=True):
        for part in chunk.parts():
            texts.append(part.text)
            usage = part.usage or usage
    text = "".join(texts)
    return text, usage or Usage(estimate_tokens(prompt), estimate_tokens(text), estimated=True)


RECIPES: Mapping[str, Recipe] = {"text": answer, "chat": answer, "summary": summarize, "embedding": embed}
