"""Nobody but the operator says where a key goes: no field, header or address that a caller sends changes who is called.

Generated over every route that takes a body: each is asked well, and then with all those fields beside what is good.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asking import JSON, Answer, Headers, ask, serving, token_of
from leaky import leaky
from making import filled
from scripted import Caller, Upstream, listening
from surfaces import FORMS, SAMPLES

pytestmark = pytest.mark.anyio

KEY, VARIABLE = "sk-the-operators-own", "A_KEY_OF_THIS_TEST"
PLACES = (
    *("base_url", "api_base", "apiBase", "url", "endpoint", "host", "upstream", "proxy", "proxies", "azure_endpoint"),
    *("api_url", "server", "engine_url", "target", "callback_url", "organization"),
)
NAMES = ("key_env", "key_file", "api_key", "apiKey", "key", "authorization", "token", "access_key")
MAPS = ("headers", "extra_headers", "default_headers", "extra_query", "extra_body", "provider", "client", "options")
SENT = frozenset(("host", "content-type", "accept-encoding", "user-agent", "authorization", "content-length"))
OPERATORS = frozenset(("/api/v1/models",))
"""Routes whose whole work is to say where a model is; they are an administrator's, who is no caller."""

ROWS = """
[[model]]
name = "echo"
engine = "openai"
id = "theirs"
url = "{url}/good"
key_env = "A_KEY_OF_THIS_TEST"
abilities = ["chat", "text", "vision", "summary", "json_schema", "tools", "embeddings", "logprobs"]

[[model]]
name = "seer"
engine = "openai"
id = "theirs"
url = "{url}/good"
key_env = "A_KEY_OF_THIS_TEST"
abilities = ["vision"]
"""


async def trap(caller: Caller) -> None:
    await caller.answer(b"{}")


@asynccontextmanager
async def trapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, dict[str, Any], str, Any]]:
    """The application over one provider; how Ann asks; the address of a trap; and who was called: provider, trap."""
    monkeypatch.setenv(VARIABLE, KEY)
    async with listening(leaky) as (url, provider), listening(trap) as (elsewhere, other):
        (folder / "rows.toml").write_text(ROWS.format(url=url))
        environ = {"LOQUENT_MODELS": str(folder / "rows.toml"), "LOQUENT_SUMMARY_MODEL": "echo"}
        async with serving(folder, **environ) as (app, services):
            who = {"headers": [("authorization", f"Bearer {token_of(services, 'ann')}")]}
            yield app, who, elsewhere, (provider, other)


def planted(elsewhere: str) -> dict[str, Any]:
    """Every field that might be taken for where to go, or with what."""
    maps = {"Authorization": "Bearer caught", "Host": "caught", "base_url": elsewhere, "X-Caught": "caught"}
    return {
        **dict.fromkeys(PLACES, elsewhere),
        **dict.fromkeys(NAMES, "PATH"),  # a variable that every process has
        **dict.fromkeys(MAPS, maps),
    }


def headers_of(elsewhere: str) -> Headers:
    names = ("x-base-url", "x-api-base", "x-upstream", "openai-base-url", "x-forwarded-host", "x-provider-url")
    return [*((name, elsewhere) for name in names), ("x-api-key-env", "PATH"), ("x-caught", "caught")]


async def post(app: Any, path: str, body: dict[str, Any], who: dict[str, Any], more: Headers = ()) -> Answer:
    return await ask(app, "POST", path, headers=[JSON, *who["headers"], *more], body=json.dumps(body).encode())


def assert_only_the_provider_was_called(provider: Upstream, other: Upstream) -> None:
    assert other.connections == 0
    for caller in provider.seen:
        assert set(caller.headers) == SENT
        assert caller.headers["authorization"] == f"Bearer {KEY}"
        assert caller.line.split(" ")[1].startswith("/good/")
        assert "caught" not in json.dumps([caller.line, caller.headers, caller.body])


CALLING = ("/api/v1/generations", "/api/v1/summaries", "/chat", "/text_generations", "/v1/")
"""The beginnings of paths that certainly call a model with a good body."""


@pytest.mark.parametrize("path", sorted(SAMPLES.keys() - OPERATORS))
async def test_no_field_or_header_of_a_body_says_who_is_called(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trapped(tmp_path, monkeypatch) as (app, who, elsewhere, (provider, other)):
        target, good = await filled(app, path, SAMPLES[path], who)
        sample, extra = json.loads(good), planted(elsewhere)
        before = len(provider.seen)
        for name in extra:
            if name not in sample:
                answer = await post(app, target, {**sample, name: extra[name]}, who)
                assert answer.status < 500, (name, answer.body)
        answer = await post(app, target, {**extra, **sample}, who, headers_of(elsewhere))
        assert answer.status < 500
        assert (await post(app, f"{target}?base_url={elsewhere}&api_key=caught", sample, who)).status < 500
        for name in MAPS:  # one level further down
            assert (await post(app, target, {**sample, name: extra}, who)).status < 500
        assert len(provider.seen) > before or not path.startswith(CALLING)
    assert_only_the_provider_was_called(provider, other)


@pytest.mark.parametrize("path", sorted(FORMS))
async def test_no_field_of_a_form_does(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trapped(tmp_path, monkeypatch) as (app, who, elsewhere, (provider, other)):
        fields: dict[str, Any] = {**planted(elsewhere), **FORMS[path]}
        body = b""
        for name, value in fields.items():
            said = value if isinstance(value, bytes) else value if isinstance(value, str) else json.dumps(value)
            head = f'--edge\r\nContent-Disposition: form-data; name="{name}"'
            head += '; filename="a.txt"' if name == "file" else ""
            body += f"{head}\r\n\r\n".encode() + (said if isinstance(said, bytes) else said.encode()) + b"\r\n"
        form = ("content-type", "multipart/form-data; boundary=edge")
        sent: Headers = [form, *who["headers"], *headers_of(elsewhere)]
        answer = await ask(app, "POST", path, headers=sent, body=body + b"--edge--\r\n")
        assert answer.status < 500, answer.body
    assert_only_the_provider_was_called(provider, other)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/api/v1/generations"])
async def test_the_address_of_a_picture_is_not_fetched(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trapped(tmp_path, monkeypatch) as (app, who, elsewhere, (provider, other)):
        for part in (
            {"type": "image_url", "image_url": {"url": elsewhere}},
            {"type": "input_image", "image_url": elsewhere},
            {"type": "image_url", "image_url": elsewhere},
        ):
            said = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]
            answer = await post(app, path, {"model": "echo", "messages": said, "input": said}, who)
            assert 400 <= answer.status < 500, answer.body
        assert provider.seen == []
    assert_only_the_provider_was_called(provider, other)


async def test_the_trap_sees_who_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where the operator's own row names it, it is called, and that is seen."""
    monkeypatch.setenv(VARIABLE, KEY)
    async with listening(trap) as (elsewhere, other), listening(leaky) as (_, provider):
        (tmp_path / "rows.toml").write_text(ROWS.format(url=elsewhere))
        async with serving(tmp_path, LOQUENT_MODELS=str(tmp_path / "rows.toml"), LOQUENT_SUMMARY_MODEL="echo") as (
            app,
            services,
        ):
            who = {"headers": [("authorization", f"Bearer {token_of(services, 'ann')}")]}
            await post(app, "/v1/chat/completions", SAMPLES["/v1/chat/completions"], who)
        with pytest.raises(AssertionError):
            assert_only_the_provider_was_called(provider, other)
        assert other.seen[0].headers["authorization"] == f"Bearer {KEY}"
