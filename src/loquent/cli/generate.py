"""``loquent generate``: ask a model, and see the answer as it comes."""

from __future__ import annotations

import sys
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from loquent.domain.errors import Invalid, NotFound, NotInstalled

if TYPE_CHECKING:
    from loquent.domain.generations import Json
    from loquent.domain.principals import Principal
    from loquent.services.models import Models, Offer
    from loquent.services.wanted import Begun, Wanted
    from loquent.settings import Settings
    from loquent.wiring import Services

MOST_STOPS = 4


def _few(values: list[str] | None) -> list[str] | None:
    if values and (len(values) > MOST_STOPS or not all(values)):
        raise typer.BadParameter(f"takes at most {MOST_STOPS} strings, none of them empty.")
    return values


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model to ask; the command models list shows all.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before, as its role.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Tokens that the answer may have.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0: always the likeliest word; 2: wild.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="The same seed and prompt: the same answer.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(callback=_few, help="End before this string comes; may be given four times.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole record as JSON, as the API gives it, at the end.")
    ] = False,
    as_user: Annotated[
        str | None, typer.Option("--as", metavar="USER", help="Ask as this user; it goes to their history.")
    ] = None,
) -> None:
    """Ask a model, and see the answer as it comes.

    The answer goes to standard output, what it used to standard error. Ctrl-C ends it; what there is of it is kept
    in the history. No server is needed, and one may run on the same data.
    """
    from loquent.cli.inside import SURFACE, check_text, run
    from loquent.domain.requests import Parameters
    from loquent.services.wanted import Wanted
    from loquent.settings.environment import load_settings

    text = check_text(_typed(prompt), "the prompt")
    if system is None:
        asked: Json = {"prompt": text}
    else:
        messages = (("system", check_text(system, "the system text")), ("user", text))
        asked = {"messages": [{"role": role, "content": content} for role, content in messages]}
    stops = tuple(check_text(each, "a stop string") for each in stop or ())
    wanted = Wanted(
        kind="text" if system is None else "chat",
        surface=SURFACE,
        input=asked,
        text=text,
        model=model,
        parameters=Parameters(max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stops),
        streamed=True,  # for JSON too: what there is of one that is stopped is kept
    )
    run(_generate(load_settings(), wanted, as_user, as_json=as_json))


def _typed(prompt: str) -> str:
    """The prompt itself, or what standard input holds. Raises Invalid."""
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"standard input is not UTF-8, at byte {error.start}") from None


async def _generate(settings: Settings, wanted: Wanted, as_user: str | None, *, as_json: bool) -> None:
    from loquent.cli.inside import loaded, opened, principal
    from loquent.cli.terminal import say
    from loquent.wiring.rows import left_out

    if wanted.model is None:
        for line in left_out(settings):
            say(f"loquent: {line}")
    async with opened(settings, partial(_pick, settings, wanted), as_user=as_user) as services:
        who = await principal(services, as_user)
        await loaded(*services.models.offers.values())
        begun = await services.generations.begin(who, wanted)
        if as_json:
            await _print_record(services, begun)
        else:
            await _print_stream(services, begun)


def _pick(settings: Settings, wanted: Wanted, models: Models, who: Principal) -> Offer:
    """Who is asked. Raises NotInstalled for a shipped model that is left out, where nobody has added one so called."""
    from loquent.cli.inside import missing
    from loquent.domain.models import CHAT, TEXT

    abilities = (CHAT,) if "messages" in wanted.input else (TEXT, CHAT)
    try:
        return models.pick(wanted.model, *abilities, who=who)
    except NotFound:
        if line := missing(settings).get(wanted.model or ""):
            raise NotInstalled(line) from None
        raise


async def _print_stream(services: Services, begun: Begun) -> None:
    from loquent.cli.terminal import out, say

    started, first_after, last = time.monotonic(), 0.0, ""
    try:
        async with aclosing(services.generations.stream(begun)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                text = "".join(part.text for part in chunk.parts())
                if text:
                    first_after = first_after or time.monotonic() - started
                    last = text
                    out(text, newline=False)
    finally:  # also where it failed or was stopped: what there is stands on a line of its own
        if last and not last.endswith("\n"):
            out("")
        if last:
            say(_used(begun, first_after, time.monotonic() - started))


async def _print_record(services: Services, begun: Begun) -> None:
    from loquent.cli.terminal import out
    from loquent.web.api.shown import encode

    try:
        await services.generations.collect(begun)
    finally:
        out(encode(*begun.now()).decode())


def _used(begun: Begun, first_after: float, seconds: float) -> str:
    """The line below an answer: model, tokens, time, cost, and why it ended where that is not by itself."""
    generation, _ = begun.now()
    tokens = generation.completion_tokens or 0
    about = "about " if generation.usage_estimated else ""
    parts = [
        generation.model,
        f"{about}{generation.prompt_tokens or 0} tokens in, {tokens} out",
        f"first after {first_after:.2f} s, all after {seconds:.2f} s",
    ]
    if seconds > first_after and tokens > 1:
        parts.append(f"{(tokens - 1) / (seconds - first_after):.0f} tokens/s")
    if generation.cost:
        parts.append(f"cost {generation.cost / 1_000_000:.6f}")
    if generation.finish_reason != "stop":
        parts.append({"length": "cut at the token limit"}.get(generation.finish_reason or "", generation.status))
    return " · ".join(parts)
