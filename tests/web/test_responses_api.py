"""OpenAI's responses on the wire: the object, its typed events, chains, tools, the background, and refusals."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import JSON, Answer, ask, client_of, kept, serving, token_of
from built import ANN
from loquent.domain.errors import Unavailable
from loquent.domain.generations import FOREGROUND, Content, begin
from loquent.ports.engine import CallPiece, Chunk
from loquent.web import sse
from loquent.web.compat.responses_events import Events
from loquent.wiring import Services
from samples import pictures

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
ORDER = '[call weather {"city": "Oslo"}] how is it?'
VISION = '[[model]]\nname = "echo"\nengine = "echo"\nid = "echo"\nabilities = ["chat", "vision", "tools"]\n'
PICTURE = f"data:image/png;base64,{base64.b64encode(pictures.plain('PNG')).decode()}"
Ours = tuple[httpx2.AsyncClient, Services]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Ours]:
    async with serving(tmp_path) as (app, services), client_of(app, token_of(services, "ann")) as client:
        yield client, services


async def made(client: httpx2.AsyncClient, said: Any, **more: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"model": "echo", "input": said, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def events(client: httpx2.AsyncClient, said: Any, **more: Any) -> list[dict[str, Any]]:
    answer = await client.post(PATH, json={"model": "echo", "input": said, "stream": True, **more})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return read(answer.text)


def read(text: str) -> list[dict[str, Any]]:
    """The events of a stream; each says its name twice."""
    found = []
    for part in text.split("\n\n"):
        lines = [line for line in part.split("\n") if not line.startswith(":")]
        if lines != [""] and lines:
            name, data = lines
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


async def over(client: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    """A response, once it is over."""
    async with asyncio.timeout(10):
        while (found := (await client.get(f"{PATH}/{id}")).json())["status"] in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
    return dict(found)


async def runs(services: Services, number: int = 1) -> None:
    async with asyncio.timeout(10):
        while len(services.runner.lives) != number:
            await asyncio.sleep(0.005)


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def golden(text: str) -> str:
    """What differs from call to call, made the same."""
    text = re.sub(r"(resp|msg)_[0-9a-f]{32}", r"\1_ID", text)
    return re.sub(r'_at":\d{10}', '_at":0', text)


# The object and its events

HEAD = '{"id":"resp_ID","object":"response","created_at":0,"completed_at":'
REST = (
    '"tools":[],"tool_choice":"auto","parallel_tool_calls":true,"text":{"format":{"type":"text"},"verbosity":"medium"},'
    '"reasoning":{"effort":null,"summary":null},"metadata":{},"store":true,"service_tier":"default","top_logprobs":0,'
    '"truncation":"disabled","usage":'
)
END = (
    ',"instructions":null,"previous_response_id":null,"max_output_tokens":null,"max_tool_calls":null,'
    '"temperature":null,"top_p":null,"user":null,"safety_identifier":null,"prompt_cache_key":null,'
    '"prompt_cache_retention":null}'
)
FINE = '"background":false,"error":null,"incomplete_details":null,"model":"echo","output":['
BEGUN = f'null,"status":"in_progress",{FINE}],{REST}null{END}'
USED = (
    '{"input_tokens":3,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":3,'
    '"output_tokens_details":{"reasoning_tokens":0},"total_tokens":6}'
)
SAID = (
    '{"id":"msg_ID0000","type":"message","status":"completed","role":"assistant","content":'
    '[{"type":"output_text","text":"one two three","annotations":[],"logprobs":[]}]}'
)
DONE = f'0,"status":"completed",{FINE}{SAID}],{REST}{USED}{END}'


async def test_a_response_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(PATH, json={"model": "echo", "input": "one two three"})
    assert golden(answer.text) == HEAD + DONE
    again = await client.get(f"{PATH}/{answer.json()['id']}")
    assert (again.status_code, again.text) == (200, answer.text), "and is got again as it was"


async def test_a_stream_of_it_is_exactly_this(at: Ours) -> None:
    client, _ = at
    answer = await client.post(PATH, json={"model": "echo", "input": "one two three", "stream": True})
    item = '"item_id":"msg_ID0000","output_index":0'
    delta = f'{item},"content_index":0,"logprobs":[],"delta":'
    empty = '{"type":"output_text","text":"","annotations":[],"logprobs":[]}'
    full = '{"type":"output_text","text":"one two three","annotations":[],"logprobs":[]}'
    added = '{"id":"msg_ID0000","type":"message","status":"in_progress","role":"assistant","content":[]}'
    expected = (
        ("response.created", f'"response":{HEAD}{BEGUN}'),
        ("response.in_progress", f'"response":{HEAD}{BEGUN}'),
        ("response.output_item.added", f'"output_index":0,"item":{added}'),
        ("response.content_part.added", f'{item},"content_index":0,"part":{empty}'),
        ("response.output_text.delta", f'{delta}"one"'),
        ("response.output_text.delta", f'{delta}" two"'),
        ("response.output_text.delta", f'{delta}" three"'),
        ("response.output_text.done", f'{item},"content_index":0,"text":"one two three","logprobs":[]'),
        ("response.content_part.done", f'{item},"content_index":0,"part":{full}'),
        ("response.output_item.done", f'"output_index":0,"item":{SAID}'),
        ("response.completed", f'"response":{HEAD}{DONE}'),
    )
    told = [
        f'event: {name}\ndata: {{"type":"{name}","sequence_number":{number},{said}}}\n\n'
        for number, (name, said) in enumerate(expected)
    ]
    assert golden(answer.text) == "".join(told)


async def test_what_was_asked_is_shown_again(at: Ours) -> None:
    client, services = at
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 7}}, "required": ["age"]}
    form = {"type": "json_schema", "name": "person", "schema": schema, "strict": True}
    asked = {
        "instructions": "be brief",
        "metadata": {"order": "66"},
        "max_output_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [{**TOOL, "description": "how it is"}],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "text": {"format": form, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "user": "somebody",
        "truncation": "disabled",
    }
    response = await made(client, "one two", **asked)
    assert {name: response[name] for name in asked} == asked
    assert json.loads(text_of(response)) == {"age": 7}
    [listed] = (await client.get("/api/v1/generations")).json()["data"]
    assert (listed["kind"], listed["surface"]) == ("chat", "openai")
    assert listed["parameters"]["reasoning_effort"] == "low"
    assert (await kept(services))["generations"] == 1


async def test_what_is_cut_off_is_incomplete(at: Ours) -> None:
    client, _ = at
    response = await made(client, "one two three", max_output_tokens=2)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (response["output"][0]["status"], text_of(response)) == ("incomplete", "one two")
    *_, last = await events(client, "one two three", max_output_tokens=2)
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["output"][0]["status"] == "incomplete"


async def test_thoughts_come_before_the_answer_in_an_item_of_their_own(at: Ours) -> None:
    client, _ = at
    response = await made(client, "[think let me see] one two", reasoning={"effort": "high"})
    thought, said = response["output"]
    assert (thought["type"], thought["summary"]) == ("reasoning", [{"type": "summary_text", "text": "let me see"}])
    assert (said["type"], text_of(response)) == ("message", "one two")
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    told = await events(client, "[think let me see] one two")
    names = [each["type"].removeprefix("response.") for each in told]
    assert names == [
        *("created", "in_progress", "output_item.added", "reasoning_summary_part.added"),
        *["reasoning_summary_text.delta"] * 3,
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [each["sequence_number"] for each in told] == list(range(len(told)))
    stored = (await client.get(f"{PATH}/{told[-1]['response']['id']}")).json()
    assert told[-1]["response"] == stored, "what the last event says stands on the record"


async def test_logprobs_come_where_they_are_asked_for(at: Ours) -> None:
    client, _ = at
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    [said] = (await made(client, "one two", **include))["output"][0]["content"]
    assert [each["token"] for each in said["logprobs"]] == ["one", " two"]
    assert said["logprobs"][0]["bytes"] == list(b"one")
    assert said["logprobs"][0]["logprob"] <= 0
    assert len(said["logprobs"][0]["top_logprobs"]) == 2
    told = await events(client, "one two", **include)
    deltas = [each["logprobs"] for each in told if each["type"] == "response.output_text.delta"]
    [done] = [each["logprobs"] for each in told if each["type"] == "response.output_text.done"]
    assert [each[0]["token"] for each in deltas] == ["one", " two"]
    assert done == [each[0] for each in deltas] == said["logprobs"]
    assert (await made(client, "one two"))["output"][0]["content"][0]["logprobs"] == []


# Chains and items


async def test_a_chain_goes_on_from_what_was_said_but_not_from_its_instructions(at: Ours) -> None:
    client, services = at
    first = await made(client, "one", instructions="first rule")
    second = await made(client, "two", instructions="second rule", previous_response_id=first["id"])
    third = await made(client, "three", previous_response_id=second["id"])
    assert (third["previous_response_id"], third["instructions"]) == (second["id"], None)
    _, content = await services.generations.get(ANN, f"gen_{third['id'][5:]}")
    assert [(each["role"], each["content"]) for each in content.input["messages"]] == [
        *(("user", "one"), ("assistant", "one")),
        *(("user", "two"), ("assistant", "two")),
        ("user", "three"),
    ]
    _, content = await services.generations.get(ANN, f"gen_{second['id'][5:]}")
    assert content.input["messages"][0] == {"role": "system", "content": "second rule"}
    listed = (await client.get(f"{PATH}/{third['id']}/input_items", params={"order": "asc"})).json()
    assert [(each["role"], each["content"][0]["text"]) for each in listed["data"]] == [
        *(("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two"), ("user", "three"))
    ]


async def test_what_it_was_asked_is_listed_in_pages(at: Ours) -> None:
    client, _ = at
    response = await made(client, [{"role": "user", "content": str(number)} for number in range(5)], instructions="x")
    path = f"{PATH}/{response['id']}/input_items"
    whole = (await client.get(path)).json()
    assert [each["content"][0]["text"] for each in whole["data"]] == ["4", "3", "2", "1", "0"]
    assert (whole["object"], whole["has_more"]) == ("list", False)
    assert (whole["first_id"], whole["last_id"]) == (whole["data"][0]["id"], whole["data"][-1]["id"])
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(path, params={"limit": 2, "order": "asc", **after})).json()
        seen += [each["content"][0]["text"] for each in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert seen == ["0", "1", "2", "3", "4"]
    unknown = whole["last_id"][:-4] + "ffff"
    assert (await client.get(path, params={"after": unknown})).json()["error"]["param"] == "after"


async def test_an_answer_is_taken_back_as_it_was_given(at: Ours) -> None:
    client, services = at
    first = await made(
        client, f"[think hm] {ORDER} [call weather]", tools=[TOOL], include=["message.output_text.logprobs"]
    )
    assert [each["type"] for each in first["output"]] == ["reasoning", "function_call", "function_call"]
    results = [
        {"type": "function_call_output", "call_id": each["call_id"], "output": "sunny"}
        for each in first["output"]
        if each["type"] == "function_call"
    ]
    said = [{"role": "user", "content": "how is it?"}, *first["output"], *results]
    second = await made(client, said, tools=[TOOL])
    assert text_of(second) == "sunny\nsunny"
    third = await made(client, [*said, *second["output"], {"role": "developer", "content": "again"}])
    _, content = await services.generations.get(ANN, f"gen_{third['id'][5:]}")
    messages = content.input["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool", "tool", "assistant", "system"]
    assert [each["name"] for each in messages[1]["calls"]] == ["weather", "weather"]
    items = (await client.get(f"{PATH}/{third['id']}/input_items", params={"order": "asc"})).json()["data"]
    assert [each["type"] for each in items] == [
        *("message", "function_call", "function_call", "function_call_output", "function_call_output"),
        *("message", "message"),
    ]


@pytest.mark.parametrize("named", ["as the previous one", "in the path"])
async def test_who_has_no_such_response_is_told_so(at: Ours, named: str) -> None:
    client, services = at
    chat = await client.post(
        "/v1/chat/completions", json={"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    )
    hidden = await made(client, "x", store=False)
    assert (hidden["store"], hidden["status"]) == (False, "completed")
    for id in (f"resp_{chat.json()['id'].partition('-')[2]}", hidden["id"], "resp_" + "0" * 32, "resp_1", "x" * 90):
        if named == "as the previous one":
            answer = await client.post(PATH, json={"model": "echo", "input": "x", "previous_response_id": id})
        else:
            answer = await client.get(f"{PATH}/{id}")
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "there is no such response")
    assert (await kept(services))["generations"] == 2, "the history has both"


async def test_anothers_response_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, services):
        async with client_of(app, token_of(services, "ann")) as ann:
            first = await made(ann, "a secret")
        async with client_of(app, token_of(services, "bob")) as bob:
            answer = await bob.post(PATH, json={"model": "echo", "input": "x", "previous_response_id": first["id"]})
        assert (answer.status_code, "secret" in answer.text) == (404, False)


# Tools and pictures


async def test_a_call_and_its_result_go_round(at: Ours) -> None:
    client, _ = at
    first = await made(client, ORDER, tools=[TOOL], tool_choice={"type": "function", "name": "weather"})
    [call] = first["output"]
    assert (first["status"], call["type"], call["status"]) == ("completed", "function_call", "completed")
    assert (call["name"], call["arguments"]) == ("weather", '{"city": "Oslo"}')
    assert first["tools"] == [{"description": None, **TOOL}]
    assert first["tool_choice"] == {"type": "function", "name": "weather"}
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "it rains"}
    second = await made(client, [result], previous_response_id=first["id"], tools=[TOOL])
    assert text_of(second) == "it rains"
    parts = [{"type": "input_text", "text": "it "}, {"type": "input_text", "text": "snows"}]
    third = await made(client, [{**result, "output": parts}], previous_response_id=first["id"], tools=[TOOL])
    assert text_of(third) == "it snows"


async def test_a_stream_of_calls_tells_their_arguments(at: Ours) -> None:
    client, _ = at
    told = await events(client, f"{ORDER} [call other [1, 2]]", tools=[TOOL, {**TOOL, "name": "other"}])
    added = [each["item"] for each in told if each["type"] == "response.output_item.added"]
    assert [(each["name"], each["arguments"], each["status"]) for each in added] == [
        ("weather", "", "in_progress"),
        ("other", "", "in_progress"),
    ]
    done = [each for each in told if each["type"] == "response.function_call_arguments.done"]
    assert [each["arguments"] for each in done] == ['{"city": "Oslo"}', "[1, 2]"]
    for each in done:
        deltas = [
            other["delta"]
            for other in told
            if other["type"] == "response.function_call_arguments.delta" and other["item_id"] == each["item_id"]
        ]
        assert len(deltas) > 1
        assert "".join(deltas) == each["arguments"]
    stored = (await client.get(f"{PATH}/{told[-1]['response']['id']}")).json()
    assert told[-1]["response"] == stored


async def test_a_call_without_its_result_is_refused(at: Ours) -> None:
    client, _ = at
    first = await made(client, ORDER, tools=[TOOL])
    call_id = first["output"][0]["call_id"]
    result = {"type": "function_call_output", "call_id": call_id, "output": "x"}
    bad: list[tuple[Any, str]] = [
        ("go on", call_id),
        ([{**result, "call_id": "call_nobody"}], "call_nobody"),
        ([result, {**result, "output": "y"}], call_id),
    ]
    for said, names in bad:
        body = {"model": "echo", "input": said, "previous_response_id": first["id"]}
        answer = await client.post(PATH, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
        assert names in answer.json()["error"]["message"]


async def test_a_picture_is_seen_and_no_address_is_fetched(tmp_path: Path) -> None:
    rows = tmp_path / "vision.toml"
    rows.write_text(VISION)
    async with serving(tmp_path, LOQUENT_MODELS=str(rows)) as (app, services), client_of(app) as client:
        parts = [{"type": "input_text", "text": "[look]"}, {"type": "input_image", "image_url": PICTURE}]
        response = await made(client, [{"role": "user", "content": parts}])
        assert "1 picture: image/png" in text_of(response)
        [item] = (await client.get(f"{PATH}/{response['id']}/input_items")).json()["data"]
        assert item["content"][1] == {"type": "input_image", "detail": "auto", "image_url": PICTURE}
        bad = [
            ("user", "https://example.org/a.png"),
            ("user", "file:///etc/passwd"),
            ("user", "data:image/png;base64,@@"),
            ("system", PICTURE),
        ]
        for role, url in bad:
            parts = [{"type": "input_image", "image_url": url}]
            body = {"model": "echo", "input": [{"role": role, "content": parts}]}
            answer = await client.post(PATH, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input"), url
        assert (await kept(services))["generations"] == 1


# Later


async def test_one_in_the_background_is_looked_at_until_it_is_over(at: Ours) -> None:
    client, _ = at
    queued = await made(client, "[slow 0.02] one two three", background=True)
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    assert queued["usage"] is None
    done = await over(client, queued["id"])
    assert (done["status"], text_of(done), done["completed_at"] >= done["created_at"]) == (
        "completed",
        "one two three",
        True,
    )
    failed = await over(client, (await made(client, "[fail] x", background=True))["id"])
    assert (failed["status"], failed["error"]["code"], failed["completed_at"]) == ("failed", "server_error", None)
    assert failed["error"]["message"]
    long = await over(client, (await made(client, "word " * 2_000, background=True))["id"])
    assert (long["status"], long["error"]["code"]) == ("failed", "invalid_prompt")


async def test_one_in_the_background_is_cancelled_and_then_erased(at: Ours) -> None:
    client, services = at
    id = (await made(client, "[slow 0.01] [words 5000] word", background=True))["id"]
    await runs(services)
    assert (await client.delete(f"{PATH}/{id}")).status_code == 409
    answer = await client.post(PATH, json={"model": "echo", "input": "x", "previous_response_id": id})
    assert answer.status_code == 409, "it is not over"
    cancelled = await client.post(f"{PATH}/{id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (await client.post(f"{PATH}/{id}/cancel")).json() == cancelled.json(), "twice is as once"
    await runs(services, 0)
    gone = await client.delete(f"{PATH}/{id}")
    assert (gone.status_code, gone.json()) == (200, {"id": id, "object": "response", "deleted": True})
    assert (await client.get(f"{PATH}/{id}")).status_code == 404
    left = await kept(services)
    assert (left["generations"], left["contents"]) == (0, 0)


async def test_what_is_not_in_the_background_is_neither_cancelled_nor_followed(at: Ours) -> None:
    client, _ = at
    id = (await made(client, "one"))["id"]
    assert (await client.post(f"{PATH}/{id}/cancel")).status_code == 400
    answer = await client.get(f"{PATH}/{id}", params={"stream": "true"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")


@pytest.mark.parametrize(
    "said", ["[slow 0.01] one two three", f"[think hm] {ORDER}", "[slow 0.01] [cut 2] one two three"]
)
async def test_one_that_is_followed_again_goes_on_behind_any_event(at: Ours, said: str) -> None:
    client, services = at
    more = {"tools": [TOOL], "include": ["message.output_text.logprobs"]}
    whole = await events(client, said, background=True, **more)
    assert [each["type"] for each in whole[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [each["response"]["status"] for each in whole[:3]] == ["queued", "queued", "in_progress"]
    numbers = [each["sequence_number"] for each in whole]
    assert numbers == sorted(set(numbers))
    id = whole[-1]["response"]["id"]
    assert whole[-1]["response"]["status"] == ("failed" if "cut" in said else "completed")
    numbered = by_number(whole)
    for after in range(numbers[-1] + 1):
        answer = await client.get(f"{PATH}/{id}", params={"stream": "true", "starting_after": after})
        assert answer.status_code == 200
        behind = {number: said for number, said in numbered.items() if number > after}
        assert by_number(read(answer.text)) == behind, "nothing is told twice, and nothing is left out"
    assert (await kept(services))["generations"] == 1


def by_number(told: list[dict[str, Any]]) -> dict[int, Any]:
    """The events by their numbers; of a piece of text each character, for it may be cut in another way next time."""
    found: dict[int, Any] = {}
    for each in told:
        last, piece = each["sequence_number"], each.get("delta")
        if piece is None:
            found[last] = each
        else:
            first = last - len(piece) + 1
            found |= {first + place: (each["type"], each["item_id"], one) for place, one in enumerate(piece)}
    return found


async def test_a_follower_who_leaves_does_not_end_what_runs_in_the_background(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, _), client_of(app) as client:
        body = {"model": "echo", "input": "[slow 0.01] [words 100] one", "background": True, "stream": True}
        answer = await post(app, body, seen=lambda piece: b"output_text.delta" in piece)
        assert not answer.is_whole
        [listed] = (await client.get("/api/v1/generations")).json()["data"]
        assert text_of(await over(client, f"resp_{listed['id'][4:]}")) == " ".join(["one"] * 100)


async def post(app: Any, body: dict[str, Any], **more: Any) -> Answer:
    return await ask(app, "POST", PATH, headers=[JSON], body=json.dumps(body).encode(), **more)


# What goes wrong


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "status"), [("[fail] x", 502), ("[busy 2] x", 503), ("word " * 2_000, 400)])
async def test_a_fault_before_the_first_piece_is_a_status(at: Ours, said: str, status: int, stream: bool) -> None:
    client, _ = at
    answer = await client.post(PATH, json={"model": "echo", "input": said, "stream": stream})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert set(answer.json()) == {"error"}
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_a_fault_behind_it_is_the_last_event(at: Ours) -> None:
    client, _ = at
    told = await events(client, "[cut 2] one two three")
    response = told[-1]["response"]
    assert (told[-1]["type"], response["status"]) == ("response.failed", "failed")
    assert response["error"]["code"] == "server_error"
    assert "cut" in response["error"]["message"]
    assert (text_of(response), response["output"][0]["status"]) == ("one two", "incomplete")
    assert (await client.get(f"{PATH}/{response['id']}")).json() == response


async def test_a_fault_after_a_comment_is_an_event_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "QUIET", 0.02)
    async with serving(tmp_path) as (app, services):
        running = asyncio.create_task(post(app, {"model": "echo", "input": "[hang] x", "stream": True}))
        await runs(services)
        await asyncio.sleep(0.1)
        await services.runner.close()
        told = read((await running).body.decode())
    assert [each["type"] for each in told] == ["response.created", "response.in_progress", "response.failed"]
    assert told[-1]["response"]["error"]["message"]


async def test_a_stop_tells_who_follows(tmp_path: Path) -> None:
    async with serving(tmp_path) as (app, services):
        body = {"model": "echo", "input": "[slow 0.01] [words 5000] word", "background": True, "stream": True}
        running = asyncio.create_task(post(app, body))
        await runs(services)
        await services.worker.close()
        await services.runner.close()
        told = read((await running).body.decode())
    assert (told[-1]["type"], told[-1]["code"]) == ("error", "unavailable")
    assert told[-1]["sequence_number"] > told[-2]["sequence_number"]


@pytest.mark.parametrize("stream", [False, True])
async def test_hanging_up_frees_the_engine_and_keeps_what_there_is(tmp_path: Path, stream: bool) -> None:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        body = {"model": "echo", "input": "[slow 0.005] [words 5000] word", "stream": stream}
        if stream:
            await post(app, body, seen=lambda piece: b"output_text.delta" in piece)
        else:
            await post(app, body, leaves=True)
        await runs(services, 0)
        [listed] = (await client.get("/api/v1/generations")).json()["data"]
        found = (await client.get(f"{PATH}/resp_{listed['id'][4:]}")).json()
        assert (found["status"], found["error"]) == ("cancelled", None)


async def test_a_repeat_with_the_same_key_is_the_same_response(at: Ours) -> None:
    client, services = at
    for number, more in enumerate(({}, {"stream": True}, {"background": True}), 1):
        key = {"idempotency-key": f"order {number}"}
        body = {"model": "echo", "input": f"[think hm] {ORDER}", "tools": [TOOL], **more}
        first, again = [await client.post(PATH, json=body, headers=key) for _ in range(2)]
        assert again.headers["idempotent-replayed"] == "true"
        if "stream" in more:
            told, repeated = read(first.text), read(again.text)
            assert repeated[-1] == {**told[-1], "sequence_number": repeated[-1]["sequence_number"]}
            assert repeated[-1]["response"]["output"][1]["name"] == "weather"
        else:
            assert again.json()["id"] == first.json()["id"]
            assert again.json()["output"] == first.json()["output"] or "background" in more
        assert (await kept(services))["generations"] == number


@pytest.mark.parametrize(
    ("changed", "param", "names"),
    [
        ({"input": []}, "input", "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", "message"),
        ({"input": [{"role": "user"}]}, "input", "content"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input", "role"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", "function_call_output"),
        ({"input": [{"type": {}}]}, "input", "function_call_output"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input", "input_image"),
        ({"tools": [{"type": "web_search"}]}, "tools", "web_search"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools", "mcp"),
        ({"tools": [TOOL, TOOL]}, "tools", "twice"),
        ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools", "name"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": {"type": "function", "name": "f"}, "tools": [TOOL]}, "tool_choice", "'f'"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "tool_choice"),
        ({"truncation": "some"}, "truncation", "disabled"),
        ({"background": True, "store": False}, "store", "stored"),
        ({"text": {"format": {"type": "poem"}}}, "text", "json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text", "schema"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning", "effort"),
        ({"metadata": {"x": 7}}, "metadata", "string"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "16"),
        ({"max_output_tokens": 0}, "max_output_tokens", "1"),
        ({"temperature": 3}, "temperature", "2"),
        ({"top_logprobs": 21}, "top_logprobs", "20"),
        ({"conversation": "conv_1"}, "conversation", "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "prompt"),
        ({"frobnicate": 1}, "frobnicate", "frobnicate"),
        ({"model": "prompt-only"}, "model", "prompt-only"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]}]}, "model", "vision"),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each)[:40],
)
async def test_a_refusal_names_what_is_wrong(at: Ours, changed: dict[str, Any], param: str, names: str) -> None:
    client, services = at
    answer = await client.post(PATH, json={"model": "echo", "input": "one", **changed})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert names in error["message"]
    assert not any((await kept(services)).values())


# Pieces that come in an unusual order


def begun() -> Events:
    record = begin(
        ANN, kind="chat", surface="openai", mode=FOREGROUND, model="echo", parameters={}, text="", due_at=None
    )
    return Events(record, Content(record.id, 0, ANN.tenant, ANN.owner, {"messages": [], "response": {}}, ""))


def test_pieces_of_several_calls_may_come_among_each_other() -> None:
    made = begun()
    pieces = [
        CallPiece(0, "call_a", "f", ""),
        CallPiece(1, "call_b", "g", "[1"),
        CallPiece(0, arguments="{}"),
        CallPiece(1, arguments="]"),
    ]
    told = read(b"".join(made.take(Chunk(calls=(each,))) for each in pieces).decode())
    deltas = [(each["output_index"], each["delta"]) for each in told if each["type"].endswith(".delta")]
    assert deltas == [(1, "[1"), (0, "{}"), (1, "]")]


def test_a_text_behind_a_thought_behind_a_text_is_another_message() -> None:
    made = begun()
    chunks = [Chunk("one"), Chunk(reasoning="hm"), Chunk("two")]
    told = read(b"".join(map(made.take, chunks)).decode())
    assert [each["output_index"] for each in told if each["type"].endswith("item.added")] == [0, 1, 2]
    assert [each["output_index"] for each in told if each["type"].endswith("item.done")] == [0, 1]


def test_a_fault_of_who_tells_is_no_fault_of_the_response() -> None:
    [error] = read(begun().fault(Unavailable("gone")).decode())
    assert error == {"type": "error", "sequence_number": 0, "code": "unavailable", "message": "gone", "param": None}
