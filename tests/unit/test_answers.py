"""Kept answers: what is told again, to whom, what it costs, and how it is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis

from answering import SURE, Counted, answering, asked, before, is_hit, wanted
from built import ANN, ANN_ELSEWHERE, BOB
from loquent.caches.redis import PREFIX
from loquent.domain.clock import now
from loquent.domain.errors import Invalid, NotFound
from loquent.domain.principals import Principal
from loquent.domain.requests import Parameters
from loquent.domain.usage import UsageDay, usage_day
from loquent.services.kept import MOST_BYTES
from loquent.services.retention import Retention, Rules
from loquent.services.sessions import Manner
from loquent.wiring import Services
from redis_server import RedisServer, redis_server
from scripted import listening

pytestmark = pytest.mark.anyio
HEALS = 10.0  # seconds in which a server that is back must have been found
COLD, WARM = SURE, Parameters(temperature=0.7)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


async def test_the_same_at_temperature_0_is_asked_once_and_told_again_for_nothing(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        first, made = await asked(services)
        second, told = await asked(services)
        kept = (await services.store.get(UsageDay, usage_day(ANN.tenant, ANN.owner, "m", now()).id))[0]
    assert model.asked == 1
    assert (made.output, told.output) == ("answer 1", "answer 1")
    assert (is_hit(first), is_hit(second)) == (False, True)
    assert first.details is not None and second.details is not None
    assert first.details["cache"]["key"] == second.details["cache"]["key"]
    assert (first.cost > 0, second.cost) == (True, 0)
    assert kept.cost == first.cost
    assert kept.generations == 2
    same = ("status", "finish_reason", "prompt_tokens", "completion_tokens", "usage_estimated", "answered_by", "model")
    assert [getattr(second, name) for name in same] == [getattr(first, name) for name in same]
    assert (second.answered_by, second.prompt_tokens) == ("m", 3)


@pytest.mark.parametrize(
    ("default", "parameters", "wish", "is_kept"),
    [
        (None, COLD, None, True),
        (None, WARM, None, False),
        (None, Parameters(), None, False),
        (None, WARM, True, True),
        (None, Parameters(), True, True),
        (None, COLD, False, False),
        (0, Parameters(), None, True),
        (0.0, WARM, None, False),
        (0.0, Parameters(), False, False),
        (0.5, Parameters(), None, False),
        (0.5, COLD, None, True),
    ],
)
async def test_kept_is_what_would_come_out_the_same_or_what_its_caller_says_may_be(
    tmp_path: Path, default: float | None, parameters: Parameters, wish: bool | None, is_kept: bool
) -> None:
    row = "" if default is None else f"defaults = {{temperature = {default}}}"
    async with answering(tmp_path, row=row) as (services, model):
        outputs = [(await asked(services, parameters=parameters, cache=wish))[1].output for _ in range(2)]
        last, _ = await asked(services, parameters=parameters, cache=wish)
    assert model.asked == (1 if is_kept else 3)
    assert outputs == (["answer 1"] * 2 if is_kept else ["answer 1", "answer 2"])
    assert is_hit(last) is (True if is_kept else None)


async def test_two_tenants_with_equal_input_never_share_and_two_owners_of_one_do(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        outputs = [(await asked(services, who=who))[1].output for who in (ANN, ANN_ELSEWHERE, BOB, ANN_ELSEWHERE)]
    assert outputs == ["answer 1", "answer 2", "answer 1", "answer 2"]
    assert model.asked == 2


async def test_who_may_not_use_the_model_is_told_nothing_that_it_said(tmp_path: Path) -> None:
    async with answering(tmp_path, row='users = ["ann"]') as (services, model):
        await asked(services, who=ANN)
        told, _ = await asked(services, who=ANN)
        with pytest.raises(NotFound):
            await asked(services, who=BOB)
    assert (is_hit(told), model.asked) == (True, 1)


CHATS = {"messages": [{"role": "user", "content": "hello"}]}
OTHERS: dict[str, dict[str, Any]] = {
    "text": {"input": {"prompt": "Hello"}},
    "plain": {"input": {"prompt": "hello", "plain": True}},
    "messages": {"kind": "chat", "input": CHATS},
    "max_tokens": {"parameters": Parameters(temperature=0.0, max_tokens=5)},
    "top_p": {"parameters": Parameters(temperature=0.0, top_p=0.5)},
    "seed": {"parameters": Parameters(temperature=0.0, seed=1)},
    "stop": {"parameters": Parameters(temperature=0.0, stop=("x",))},
    "form": {"parameters": Parameters(temperature=0.0, response_format={"type": "json_object"})},
    "logprobs": {"parameters": Parameters(temperature=0.0, logprobs=2)},
    "tools": {"kind": "chat", "input": {**CHATS, "tools": [{"name": "f", "description": "", "parameters": None}]}},
    "model": {"model": "n"},
}


async def test_whatever_may_change_the_answer_makes_it_another(tmp_path: Path) -> None:
    more = '[[model]]\nname = "n"\nengine = "openai"\nurl = "{url}/v1"\nid = "upstream"\n'
    async with answering(tmp_path, more=more) as (services, model):
        await asked(services)
        for number, (name, other) in enumerate(OTHERS.items(), 2):
            _, content = await asked(services, **other)
            assert (content.output, model.asked) == (f"answer {number}", number), name
        for number, (name, other) in enumerate(OTHERS.items(), 2):
            _, content = await asked(services, **other)
            assert content.output == f"answer {number}", name
        _, content = await asked(services)
    assert (content.output, model.asked) == ("answer 1", len(OTHERS) + 1)


@pytest.mark.parametrize(
    ("row", "is_other"),
    [
        ("", False),
        ("timeouts = {total = 7}\nconcurrency = 3\nweight = 2\nusers = ['*']", False),
        ("context = 500", True),
        ("template = 'few-shot'", True),
        ("sha256 = '00'", True),
        ("defaults = {seed = 5}", True),
    ],
)
async def test_a_row_that_has_changed_never_serves_what_the_old_one_said(
    tmp_path: Path, server: RedisServer, row: str, is_other: bool
) -> None:
    model, store = Counted(), f"sqlite:///{tmp_path}/both.db"
    async with listening(model) as (url, _):
        for more in ("", row):
            async with before(tmp_path, url, row=more, LOQUENT_CACHE=server.url, LOQUENT_STORE=store) as services:
                _, content = await asked(services)
    assert content.output == ("answer 2" if is_other else "answer 1")


async def test_a_row_that_has_moved_or_another_secret_shares_nothing(tmp_path: Path, server: RedisServer) -> None:
    model, known = Counted(), {"LOQUENT_CACHE": server.url, "LOQUENT_STORE": f"sqlite:///{tmp_path}/both.db"}
    async with listening(model) as (here, _), listening(model) as (there, _):
        for url, secret in ((here, "a" * 32), (there, "a" * 32), (here, "b" * 32), (here, "a" * 32)):
            async with before(tmp_path, url, LOQUENT_SECRET=secret, **known) as services:
                _, content = await asked(services)
    assert (content.output, model.asked) == ("answer 1", 3)


async def test_of_equal_rows_all_have_to_be_at_temperature_0(tmp_path: Path) -> None:
    row = 'defaults = {temperature = 0}\n[[model]]\nname = "m"\nengine = "echo"\nid = "echo"\nweight = 0.001\n'
    row += 'abilities = ["text", "chat", "tools", "logprobs"]\n'
    async with answering(tmp_path, row=row) as (services, _):
        made, _ = await asked(services, parameters=Parameters())
        assert is_hit(made) is None
    async with answering(tmp_path, row=row + "defaults = {temperature = 0}\n") as (services, _):
        made, _ = await asked(services, parameters=Parameters())
        told, _ = await asked(services, parameters=Parameters())
        assert (is_hit(made), is_hit(told)) == (False, True)
        assert told.answered_by == made.answered_by


async def test_what_another_model_said_in_its_place_is_not_kept(tmp_path: Path) -> None:
    more = '[[model]]\nname = "n"\nengine = "echo"\nid = "echo"\nabilities = ["text", "chat", "tools", "logprobs"]\n'
    async with answering(tmp_path, row='fallback = ["n"]', more=more) as (services, model):
        model.faults = [500]
        first, said = await asked(services)
        second, better = await asked(services)
        third, _ = await asked(services)
    assert (first.answered_by, said.output) == ("n", "hello")
    assert (second.answered_by, better.output) == ("m", "answer 2")
    assert [is_hit(each) for each in (first, second, third)] == [False, False, True]


async def test_a_turn_of_a_session_is_never_a_kept_answer(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, _):
        for number in (1, 2):
            session, _ = await services.sessions.create(ANN, surface="api", model="m")
            begun = await services.sessions.send(ANN, session.id, "hello", Manner("api", parameters=SURE))
            await services.generations.collect(begun)
            generation, content = begun.now()
            assert (content.output, is_hit(generation)) == (f"answer {number}", None)


@pytest.mark.parametrize(
    "kinds", [(False, True), (True, False), (True, True)], ids=["whole first", "stream first", "streams"]
)
@pytest.mark.parametrize("input", [CHATS, {"prompt": "hello", "plain": True}], ids=["chat", "text"])
async def test_streams_and_whole_answers_share(tmp_path: Path, kinds: tuple[bool, bool], input: dict[str, Any]) -> None:
    kind = "chat" if "messages" in input else "text"
    texts = []
    async with answering(tmp_path) as (services, model):
        for streamed in kinds:
            begun = await services.generations.begin(ANN, wanted(kind=kind, input=input, streamed=streamed))
            async with aclosing(services.generations.stream(begun)) as chunks:
                texts.append("".join([chunk.text async for chunk in chunks]))
            assert begun.now()[0].finish_reason == "stop"
    assert (texts, model.asked) == (["answer 1"] * 2, 1)


async def test_a_job_is_told_a_kept_answer_too(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        await asked(services, parameters=WARM, cache=True)
        begun = await services.generations.submit(ANN, wanted(parameters=WARM, cache=True))
        events = [each async for each in services.generations.follow(ANN, begun.generation.id)]
    assert events[-1].generation is not None
    assert (is_hit(events[-1].generation), model.asked) == (True, 1)


async def test_calls_of_tools_thoughts_and_likelihoods_are_kept(tmp_path: Path) -> None:
    calls = [
        {"index": at, "id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": f'{{"x": {at}}}'}}
        for at in range(2)
    ]
    tools = [{"name": "f", "description": "", "parameters": None}]
    async with answering(tmp_path) as (services, model):
        model.message = {"content": "calling", "tool_calls": calls, "reasoning_content": "hm"}
        model.reason = "tool_calls"
        model.logprobs = [{"token": "calling", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
        wish = {
            "kind": "chat",
            "input": {**CHATS, "tools": tools},
            "parameters": Parameters(temperature=0.0, logprobs=0),
        }
        first, made = await asked(services, **wish)
        second, told = await asked(services, **wish)
    assert (is_hit(second), model.asked) == (True, 1)
    assert made.more is not None
    assert made.more["calls"] == [{"id": f"c{at}", "name": "f", "arguments": f'{{"x": {at}}}'} for at in range(2)]
    assert set(made.more) == {"calls", "reasoning", "logprobs"}
    assert (told.more, told.output, second.finish_reason) == (made.more, made.output, first.finish_reason)


@pytest.mark.parametrize(("reason", "is_kept"), [("stop", True), ("length", True), ("content_filter", False)])
async def test_an_answer_that_was_kept_back_is_not_kept(tmp_path: Path, reason: str, is_kept: bool) -> None:
    async with answering(tmp_path) as (services, model):
        model.reason = reason
        await asked(services)
        made, _ = await asked(services)
    assert (is_hit(made), made.finish_reason) == (is_kept, reason)


async def test_an_answer_that_failed_was_broken_off_or_is_huge_is_not_kept(tmp_path: Path) -> None:
    async with answering(tmp_path) as (services, model):
        model.faults = [400]
        with pytest.raises(Invalid):
            await asked(services)
        begun = await services.generations.begin(ANN, wanted(streamed=True))
        async with aclosing(services.generations.stream(begun)) as chunks:
            await anext(aiter(chunks))
        assert begun.now()[0].status == "cancelled"
        model.message = {"content": "x" * MOST_BYTES}
        for number in (3, 4):
            made, content = await asked(services)
            assert (is_hit(made), len(content.output), model.asked) == (False, MOST_BYTES, number)


async def test_a_value_that_is_none_of_ours_is_no_answer(tmp_path: Path, server: RedisServer) -> None:
    values = [b"", b"{}", b"\x01", b"\x01{}", b"\x01[1]", b"\x02{}", b"\x01" + b"[" * 5000, b"\xff\x01{}"]
    prompts = [f"hello {number}" for number in range(len(values))]
    async with answering(tmp_path, LOQUENT_CACHE=server.url) as (services, model):
        made = [(await asked(services, prompt))[0] for prompt in prompts]
        with redis.Redis(port=server.port) as client:
            for each, value in zip(made, values, strict=True):
                assert each.details is not None
                client.set(PREFIX + each.details["cache"]["key"], value)
        await asyncio.sleep(1.1)  # what this process remembers
        again = [(await asked(services, prompt))[0] for prompt in prompts]
        assert [is_hit(each) for each in again] == [False] * len(values)
        assert model.asked == 2 * len(values)


async def test_off_keeps_nothing(tmp_path: Path) -> None:
    async with answering(tmp_path, LOQUENT_CACHE="off") as (services, model):
        made = [await asked(services, cache=wish) for wish in (None, None, True, True)]
    assert model.asked == 4
    assert [is_hit(each) for each, _ in made] == [None] * 4


# How it is forgotten


def held(server: RedisServer) -> list[bytes]:
    """What the server holds now."""
    with redis.Redis(port=server.port) as client:
        return list(client.scan_iter(PREFIX + "*"))


async def forgotten(services: Services, who: Principal, generation: str, how: str) -> None:
    """Erase it, by its owner's word or because its time is over."""
    if how == "removed":
        await services.generations.remove(who, generation)
        return
    rules = Rules(generations=1e-9)
    await asyncio.sleep(0.01)
    await Retention(services.store, services.blobs, rules, answers=services.answers).sweep()


@pytest.mark.parametrize("how", ["removed", "swept"])
@pytest.mark.parametrize("whose", [0, 1], ids=["who made it", "who was told it"])
@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_whoever_has_it_erased_erases_what_is_kept(
    tmp_path: Path, server: RedisServer, kind: str, whose: int, how: str
) -> None:
    url = server.url if kind == "redis" else "memory:"
    async with answering(tmp_path, LOQUENT_CACHE=url) as (services, model):
        made, _ = await asked(services, who=ANN)
        told, _ = await asked(services, who=BOB)
        assert (is_hit(told), len(held(server))) == (True, int(kind == "redis"))
        await forgotten(services, (ANN, BOB)[whose], (made.id, told.id)[whose], how)
        assert held(server) == []
        again, content = await asked(services, who=BOB)
    assert (is_hit(again), content.output, model.asked) == (False, "answer 2", 2)


async def test_what_is_erased_while_the_cache_is_away_is_told_no_more_though_it_comes_back_with_it(
    tmp_path: Path, server: RedisServer
) -> None:
    async with answering(tmp_path, LOQUENT_CACHE=server.url) as (services, _):
        await asked(services)
        told, _ = await asked(services, who=BOB)
        assert told.details is not None
        name = PREFIX + told.details["cache"]["key"]
        with redis.Redis(port=server.port) as client:
            value = client.get(name)
        server.kill()
        await services.generations.remove(BOB, told.id)
        server.start()
        with redis.Redis(port=server.port) as client:
            client.set(name, value)
        async with asyncio.timeout(HEALS):
            is_kept: bool | None = False
            while not is_kept:  # until it has been dropped and something new is kept in its place
                again, content = await asked(services)
                assert content.output != "answer 1"
                is_kept = is_hit(again)
                await asyncio.sleep(0.02)


async def test_what_was_erased_by_another_process_is_not_told_whatever_this_one_remembers(tmp_path: Path) -> None:
    model = Counted()
    (tmp_path / "other").mkdir()
    known = {"LOQUENT_CACHE": "memory:", "LOQUENT_SECRET": "a" * 32, "LOQUENT_STORE": f"sqlite:///{tmp_path}/both.db"}
    async with (
        listening(model) as (url, _),
        before(tmp_path, url, **known) as one,
        before(tmp_path / "other", url, **known) as other,
    ):
        made, _ = await asked(other)
        told, _ = await asked(other)
        await one.generations.remove(ANN, made.id)
        again, content = await asked(other)
    assert (is_hit(told), is_hit(again), content.output) == (True, False, "answer 2")


# What a server that is away, slow or empty does


@pytest.mark.parametrize("fault", ["killed", "frozen", "emptied"])
async def test_a_server_with_a_fault_makes_misses_only_and_heals(
    tmp_path: Path, server: RedisServer, fault: str
) -> None:
    async with answering(tmp_path, LOQUENT_CACHE=server.url) as (services, _):
        await asked(services)
        server.freeze() if fault == "frozen" else server.kill()
        if fault == "emptied":
            server.start()
        await asyncio.sleep(1.1)  # what this process remembers
        made = await asyncio.gather(*(asked(services, f"hello {number % 5}") for number in range(20)))
        made.append(await asked(services))
        assert {each.status for each, _ in made} == {"completed"}
        assert is_hit(made[-1][0]) is False
        if fault != "emptied":
            assert {each.name: each.healthy for each in await services.health.checks()}["cache"] is False
            assert await services.health.ready()
        server.thaw() if fault == "frozen" else None
        if fault == "killed":
            server.start()
        async with asyncio.timeout(HEALS):
            while not is_hit((await asked(services))[0]):
                await asyncio.sleep(0.05)
        assert {each.name: each.healthy for each in await services.health.checks()}["cache"]


async def test_what_one_process_keeps_another_tells(tmp_path: Path, server: RedisServer) -> None:
    model = Counted()
    (tmp_path / "other").mkdir()
    known = {"LOQUENT_CACHE": server.url, "LOQUENT_SECRET": "a" * 32, "LOQUENT_STORE": f"sqlite:///{tmp_path}/both.db"}
    async with (
        listening(model) as (url, _),
        before(tmp_path, url, **known) as one,
        before(tmp_path / "other", url, **known) as other,
    ):
        made, _ = await asked(one)
        told, content = await asked(other)
        assert (is_hit(told), content.output) == (True, "answer 1")
        await one.generations.remove(ANN, made.id)
        await asyncio.sleep(1.1)
        again, content = await asked(other)
    assert (is_hit(again), content.output) == (False, "answer 2")
