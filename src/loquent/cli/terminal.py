"""What the terminal shows: answers on stdout; progress and usage on stderr, the moving kind only to a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import typer

from loquent.ports.shell import as_called

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What could move the cursor or worse: a model repeats what a stranger's text told it to."""
PIPED_COLUMNS = 200


def out(text: str, *, newline: bool = True, file: IO[str] | None = None) -> None:
    """Write to stdout, at once; to a terminal without control characters."""
    if file is None and sys.stdout.isatty():
        text = CONTROLS.sub("\ufffd", text)
    typer.echo(text, nl=newline, file=file)


def say(text: str) -> None:
    """A line on stderr, for the person, not for the pipe; commands in it as they work here."""
    typer.echo(CONTROLS.sub("\ufffd", as_called(text)), err=True)


def console(*, stderr: bool = False) -> Console:
    """A Rich console; one that is not a terminal is wide, so that no cell is cut."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = PIPED_COLUMNS
    return made


def progress(*, of_bytes: bool = False) -> Progress:
    """A progress bar on stderr that goes away when done; nothing at all where stderr is no terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    shown = console(stderr=True)
    counted = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *counted,
        TimeElapsedColumn(),
        console=shown,
        transient=True,
        disable=not shown.is_terminal,
    )


@contextmanager
def paused(bar: Progress) -> Iterator[None]:
    """Take the bar away for as long as something is written."""
    bar.stop()
    try:
        yield
    finally:
        bar.start()


@contextmanager
def spinner(what: str) -> Iterator[Callable[[], None]]:
    """Something that turns on stderr, from the first call of what it gives on; only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    status = console(stderr=True).status(f"{what} …")
    try:
        yield status.start  # may be called again and again
    finally:
        status.stop()
