"""What an engine may say that no record can hold: the caller is told, the record ends, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from built import ANN, opened
from loquent.domain.errors import EngineFailed
from loquent.domain.generations import FAILED
from loquent.services.history import Filters
from loquent.services.wanted import Wanted
from scripted import Caller, listening

pytestmark = pytest.mark.anyio

ROW = """
[[model]]
name = "odd"
engine = "openai"
id = "odd"
url = "{url}/v1"
retries = 0
price = {{ input = 10, output = 10 }}
"""


def told(**more: Any) -> bytes:
    message = {"role": "assistant", "content": "well", **more.pop("message", {})}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **more}).encode()


def wanted() -> Wanted:
    return Wanted(
        kind="chat", surface="api", input={"messages": [{"role": "user", "content": "hi"}]}, text="hi", model="odd"
    )


@pytest.mark.parametrize("tokens", [2**63 - 1, 2**62, 2**53])
async def test_counts_that_cannot_be_are_counted_by_us(tmp_path: Path, tokens: int) -> None:
    async def answer(caller: Caller) -> None:
        used = {"prompt_tokens": tokens, "completion_tokens": 1}
        if not caller.body.get("stream"):
            await caller.answer(told(usage=used))
            return
        said = {"choices": [{"index": 0, "delta": {"content": "well"}, "finish_reason": "stop"}]}
        events = [json.dumps(each).encode() for each in (said, {"choices": [], "usage": used})]
        await caller.events(*(b"data: %s\n\n" % each for each in (*events, b"[DONE]")))

    async with listening(answer) as (url, _), opened(tmp_path, **rows(tmp_path, url)) as services:
        begun = await services.generations.collect(await services.generations.begin(ANN, wanted()))
        generation, content = begun.now()
        assert (content.output, generation.status, generation.usage_estimated) == ("well", "completed", True)
        assert generation.prompt_tokens is not None
        assert generation.prompt_tokens < 100
        job = await services.generations.submit(ANN, wanted())
        async with asyncio.timeout(20):
            async for event in services.generations.follow(ANN, job.generation.id):
                ended = event.generation
        assert ended is not None
        assert (ended.status, ended.attempts) == ("completed", 1)


async def test_nul_in_a_call_is_left_out(tmp_path: Path) -> None:
    call = {"id": "a\0", "type": "function", "function": {"name": "f\0", "arguments": "{}\0"}}

    async def answer(caller: Caller) -> None:
        await caller.answer(told(message={"tool_calls": [call]}))

    async with listening(answer) as (url, _), opened(tmp_path, **rows(tmp_path, url)) as services:
        begun = await services.generations.collect(await services.generations.begin(ANN, wanted()))
        _, content = begun.now()
        assert content.more == {"calls": [{"id": "a", "name": "f", "arguments": "{}"}]}


async def test_an_answer_that_no_store_can_keep_is_a_fault_to_the_caller_too(tmp_path: Path) -> None:
    odd = {"content": [{"token": "a\0", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}

    async def answer(caller: Caller) -> None:
        choice = {"index": 0, "message": {"content": "well"}, "logprobs": odd, "finish_reason": "stop"}
        await caller.answer(json.dumps({"choices": [choice]}).encode())

    async with listening(answer) as (url, _), opened(tmp_path, **rows(tmp_path, url)) as services:
        with pytest.raises(EngineFailed, match="cannot be kept"):
            await services.generations.collect(await services.generations.begin(ANN, wanted()))
        [kept] = (await services.generations.page(ANN, Filters(), limit=10)).items
        assert (kept.status, kept.error_code, kept.prompt_tokens) == (FAILED, "engine_failed", 0)


def rows(folder: Path, url: str) -> dict[str, str]:
    file = folder / "odd.toml"
    file.write_text(ROW.format(url=url))
    return {"LOQUENT_MODELS": str(file)}
