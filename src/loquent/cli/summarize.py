"""``loquent summarize``: files made shorter, one after the other, a bad one not stopping the rest."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from loquent.domain.errors import Invalid, LoquentError, NotFound

if TYPE_CHECKING:
    from rich.progress import Progress

    from loquent.domain.generations import Content, Generation
    from loquent.domain.principals import Principal
    from loquent.ports.reader import ReadText
    from loquent.services.live import Live
    from loquent.services.summaries import Wish
    from loquent.services.wanted import Begun
    from loquent.settings import Settings
    from loquent.wiring import Services

LOOK_SECONDS = 0.5  # at most, between looks at how far it is
STDIN = "-"


def summarize(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help=".txt, .md, .pdf or .docx; - is standard input.", show_default=False),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model that summarises; the command models list shows all.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="The summary's language, like German or de; takes a model that chats.")
    ] = None,
    length: Annotated[
        Literal["short", "medium", "long"], typer.Option(help="How long the summary is to be.")
    ] = "medium",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Write the summaries to this file, not to the terminal."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each file.")] = False,
    as_user: Annotated[
        str | None, typer.Option("--as", metavar="USER", help="Do it as this user; it goes to their history.")
    ] = None,
) -> None:
    """Make files shorter.

    Each is read to its end, however long: a model that cannot take it at once gets it piece by piece. A file that
    cannot be summarised is named on standard error and does not stop the others; the exit code is 1 then.
    """
    from loquent.cli.inside import run
    from loquent.services.summaries import Wish
    from loquent.settings.environment import load_settings

    if files.count(STDIN) > 1:
        raise typer.BadParameter("standard input can be read once.", param_hint="FILE")
    if output is not None and any(output.resolve() == Path(each).resolve() for each in files if each != STDIN):
        raise typer.BadParameter("this is one of the files to read.", param_hint="--output")
    settings, wish = load_settings(), Wish(model, language, length)
    dress = _as_json if as_json else _as_text
    with ExitStack() as held:
        spool = held.enter_context(tempfile.NamedTemporaryFile())
        if STDIN in files:  # here, where Ctrl-C ends the wait for it
            spool.write(sys.stdin.buffer.read(settings.max_upload + 1))
            spool.flush()
        sources = [
            ("standard input", Path(spool.name)) if each == STDIN else (_name(each), Path(each)) for each in files
        ]
        written = held.enter_context(output.open("w", encoding="utf-8", newline="\n")) if output else None
        all_well = run(_summarize(settings, sources, wish, as_user, _shower(dress, written)))
    if not all_well:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one file."""

    file: str
    seconds: float
    read: ReadText | None = None
    generation: Generation | None = None
    content: Content | None = None
    error: LoquentError | None = None


async def _summarize(
    settings: Settings, sources: list[tuple[str, Path]], wish: Wish, as_user: str | None, show: Callable[[Made], None]
) -> bool:
    """Summarise all, showing each when it is done; whether all went well."""
    from loquent.cli.inside import loaded, opened, principal
    from loquent.cli.terminal import paused, progress, say

    all_well = True
    async with opened(
        settings, lambda models, who: models.pick_for_summary(wish.model, who), as_user=as_user
    ) as services:
        who = await principal(services, as_user)
        await loaded(*services.models.offers.values())
        with progress() as bar:
            overall = bar.add_task("files", total=len(sources), visible=len(sources) > 1)
            for name, path in sources:
                made = await _make(services, who, name, path, wish, bar)
                bar.advance(overall)
                with paused(bar):
                    if made.error is not None:
                        all_well = False
                        say(f"loquent: {name}: {made.error.message}")
                    show(made)
    return all_well


async def _make(services: Services, who: Principal, name: str, path: Path, wish: Wish, bar: Progress) -> Made:
    """One summary, or what went wrong."""
    from loquent.cli.inside import SURFACE

    started = time.monotonic()
    read: ReadText | None = None
    begun: Begun | None = None
    error: LoquentError | None = None
    task = bar.add_task(f"reading {name}", total=None)
    try:
        read = await _read(services, path, name)
        bar.update(task, description=f"summarising {name}")
        begun = await services.summaries.begin(who, read.text, wish, surface=SURFACE)
        await _follow(
            services, begun, lambda live: bar.update(task, total=live.steps or None, completed=live.steps_done)
        )
    except LoquentError as fault:
        error = fault
    finally:
        bar.remove_task(task)
    generation, content = begun.now() if begun else (None, None)
    return Made(name, time.monotonic() - started, read, generation, content, error)


async def _read(services: Services, path: Path, name: str) -> ReadText:
    """The text of a file; the reader says no more of one that is not there than that it cannot be opened."""
    if await asyncio.to_thread(path.is_dir):
        raise Invalid("this is a folder; name the files in it")
    if not await asyncio.to_thread(path.exists):
        raise NotFound("there is no such file")
    return await services.summaries.read(path, name)


async def _follow(services: Services, begun: Begun, show: Callable[[Live], Any]) -> None:
    """Run it to its end, showing how far it is."""
    live = begun.live
    if live is None:
        raise TypeError("what was begun here is run here")

    async def look() -> None:
        while True:
            show(live)
            await live.is_quiet(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        async with aclosing(services.generations.stream(begun)) as chunks:  # type: ignore[type-var]
            async for _ in chunks:
                pass
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def _shower(dress: Callable[[Made], str | None], file: IO[str] | None) -> Callable[[Made], None]:
    """What writes each to the file, or to stdout with the title in bold where that is a terminal."""
    from loquent.cli.terminal import console, out

    terminal = console()
    is_bold = file is None and terminal.is_terminal and dress is _as_text

    def show(made: Made) -> None:
        text = dress(made)
        if text is None:
            return
        title, line, rest = text.partition("\n")
        if is_bold:
            terminal.print(title, style="bold")
            title = line = ""
        out(title + line + rest, file=file)

    return show


def _as_text(made: Made) -> str | None:
    """The file, what was read of it, the time; then the summary. None where there is none: stderr has told."""
    if made.error is not None or made.read is None or made.generation is None or made.content is None:
        return None
    pages = f", {made.read.pages} page{'s' * (made.read.pages != 1)}" if made.read.pages is not None else ""
    what = f"{made.read.kind}{pages}, {len(made.read.text):,} characters, {made.generation.model}"
    cut = ", cut at the token limit" if made.generation.finish_reason == "length" else ""
    return f"{made.file} ({what}, {made.seconds:.1f} s{cut})\n\n{made.content.output.strip()}\n"


def _as_json(made: Made) -> str:
    read, generation, error = made.read, made.generation, made.error
    return json.dumps(
        {
            "file": made.file,
            "kind": read.kind if read else None,
            "pages": read.pages if read else None,
            "characters": len(read.text) if read else None,
            "summary": made.content.output if made.content and error is None else None,
            "finish_reason": generation.finish_reason if generation else None,
            "model": generation.model if generation else None,
            "id": generation.id if generation else None,
            "seconds": round(made.seconds, 3),
            "error": {"code": error.code, "message": error.message} if error else None,
        },
        ensure_ascii=False,
    )


def _name(file: str) -> str:
    """The file as it was given, in a form that can be printed and written."""
    return file.encode("utf-8", "replace").decode()
