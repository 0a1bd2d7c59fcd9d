"""``loquent doctor``: what is configured, what answers, what is missing, and what to do about it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from loquent import __version__
from loquent.cli.marks import BAD, COLOURS, OK
from loquent.domain.errors import Misconfigured

if TYPE_CHECKING:
    from loquent.cli.findings import Finding


def doctor() -> None:
    """Say what is configured, what answers and what is missing, and what to do about it.

    ✓ is well, ! may not be what you want, ✗ is broken and needed; then the exit code is 1. Nothing is changed.
    """
    marks = []
    for title, found in _sections():
        _line(title, bold=True)
        for each in found:
            marks.append(each.mark)
            _line(f"  {each.mark} {each.what}", colour=COLOURS[each.mark])
            if each.do:
                _line(f"      → {each.do}")
    broken = marks.count(BAD)
    _line(f"\n{broken} broken" if broken else "\nNothing is broken.", bold=True)
    if broken:
        raise typer.Exit(1)


def _sections() -> Iterator[tuple[str, list[Finding]]]:
    """Each part with what was found of it, as it is found."""
    from loquent.cli import findings
    from loquent.cli.inside import run
    from loquent.cli.parts import parts
    from loquent.cli.terminal import spinner
    from loquent.settings.environment import load_settings

    yield f"Loquent {__version__}, Python {platform.python_version()}, {platform.system()}", findings.installed()
    try:
        settings = load_settings()
    except Misconfigured as error:
        yield "Settings", [findings.Finding(BAD, error.message, "docs/settings.md lists what each takes")]
        return
    yield "Settings", findings.configured(settings)
    with spinner("asking the parts") as show:
        show()
        said = run(parts(settings))
    said["Data"] = [*findings.folder(settings), *said["Data"]]
    yield from said.items()
    with spinner("asking the models") as show:
        show()
        said["Models"] = [*run(findings.models(settings)), *run(findings.added(settings))]
    yield "Models", said["Models"]
    known = [each.what for found in said.values() for each in found if each.mark == BAD]
    start = [each for each in findings.start(settings) if not _is_told(each, known)]
    yield "Server", [*run(findings.port(settings)), *start, *findings.exposed(settings)]


def _is_told(found: Finding, known: Sequence[str]) -> bool:
    """Whether a part has said so of itself already. Where something is broken, nobody says that all is well."""
    if found.mark == OK:
        return bool(known)
    why = found.what.partition("would not start: ")[2]
    return bool(why) and any(why in each for each in known)


def _line(text: str, *, colour: str | None = None, bold: bool = False) -> None:
    """A line, commands in it as they work here; the mark in colour, on a terminal that wants any."""
    from loquent.cli.terminal import console
    from loquent.ports.shell import as_called

    text = as_called(text)
    mark_end = 3 if colour else len(text)
    made = console()
    made.print(text[:mark_end], style=colour or ("bold" if bold else ""), end="")
    made.print(text[mark_end:])
