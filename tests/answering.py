"""Services before a model that counts how often it is asked, and never says the same twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asking import UNLIMITED
from built import ANN, opened
from built import wanted as wish
from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.domain.requests import Parameters
from loquent.services.wanted import Wanted
from loquent.wiring import Services
from scripted import Caller, listening

SURE = Parameters(temperature=0.0)
ROW = """
[[model]]
name = "m"
engine = "openai"
url = "{url}/v1"
id = "upstream"
abilities = ["text", "chat", "tools", "logprobs"]
price = {{input = 100000, output = 100000}}
retries = 0
{more}
"""


class Counted:
    """Speaks OpenAI's wire: "answer 1", then "answer 2" and so on; unless it is told otherwise."""

    def __init__(self) -> None:
        self.asked = 0
        self.under_way = self.most = 0  # at once: now, and at most
        self.faults: list[int] = []  # statuses of the next answers
        self.seconds = 0.0  # that each answer takes
        self.reason = "stop"
        self.message: dict[str, Any] = {}  # what the answer has beside its text
        self.logprobs: list[dict[str, Any]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, caller: Caller) -> None:
        """See Script."""
        self.asked += 1
        said = {"role": "assistant", "content": f"answer {self.asked}", **self.message}
        status = self.faults.pop(0) if self.faults else 200
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.go.wait()
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        if status != 200:
            await caller.answer(b'{"error": {"message": "no"}}', status)
            return
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.reason}
        choice |= {"logprobs": {"content": self.logprobs}} if self.logprobs else {}
        head = {"id": "c", "created": 1, "model": "upstream"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        if not caller.body.get("stream"):
            kind = {"text": said["content"]} if "prompt" in caller.body else {"message": said}
            await caller.answer(json.dumps({**head, "choices": [{**choice, **kind}], "usage": usage}).encode())
            return
        kind = {"text": said["content"]} if "prompt" in caller.body else {"delta": said}
        head |= {"object": "chat.completion.chunk"}
        pieces = [{**head, "choices": [{**choice, **kind}]}, {**head, "choices": [], "usage": usage}]
        data = [b"data: %s\n\n" % json.dumps(each).encode() for each in pieces]
        await caller.events(*data, b"data: [DONE]\n\n")


@asynccontextmanager
async def answering(
    folder: Path, *, row: str = "", more: str = "", **environ: str
) -> AsyncIterator[tuple[Services, Counted]]:
    """Services, open, before such a model called "m"; ``row``: further fields of it, ``more``: further rows."""
    model = Counted()
    async with listening(model) as (url, _), before(folder, url, row=row, more=more, **environ) as services:
        yield services, model


@asynccontextmanager
async def before(folder: Path, url: str, *, row: str = "", more: str = "", **environ: str) -> AsyncIterator[Services]:
    """The same before one that listens there already."""
    rows = folder / "rows.toml"
    rows.write_text(ROW.format(url=url, more=row) + more.format(url=url))
    async with opened(folder, **{**UNLIMITED, "LOQUENT_MODELS": str(rows), **environ}) as services:
        yield services


def wanted(prompt: str = "hello", **more: Any) -> Wanted:
    """A prompt at temperature 0."""
    return wish(prompt, **{"parameters": SURE, **more})


async def asked(
    services: Services, prompt: str = "hello", who: Principal = ANN, **more: Any
) -> tuple[Generation, Content]:
    """What came of asking it."""
    begun = await services.generations.begin(who, wanted(prompt, **more))
    await services.generations.collect(begun)
    return begun.now()


def is_hit(generation: Generation) -> bool | None:
    """Whether it was a kept answer; None where it could be none."""
    said = (generation.details or {}).get("cache")
    return said and said["hit"]
