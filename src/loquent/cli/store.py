"""``loquent store``: the records' schema and soundness, backups and copies, the removal of what is kept no longer."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loquent.domain.errors import Misconfigured

if TYPE_CHECKING:
    from loquent.services.retention import Swept
    from loquent.stores import Checked

app = typer.Typer(help="The records: their schema, their soundness, and how long they are kept.", no_args_is_help=True)
MEANS = {
    "sessions": "chat sessions",
    "turns": "turns of these",
    "generations": "generations that are no turns",
    "documents": "documents",
    "images": "images",
    "feedback": "feedback on what goes",
    "repeats": "idempotency keys",
    "expired": "sessions closed, for they have expired",
    "blobs": "files without a record",
    "logs": "log files",
    "strays": "files without a record, older than any record and so perhaps of another database,",
}


@app.callback()
def store() -> None:
    """The records: their schema, their soundness, and how long they are kept."""


@app.command()
def upgrade() -> None:
    """Make the schema, or bring an older one up to date; nothing is lost, and nothing done where it is so already."""
    from loquent import stores
    from loquent.settings.environment import load_settings

    settings = load_settings()
    _tell(asyncio.run(stores.upgrade(settings.store_url, settings.data_dir)))


@app.command()
def check() -> None:
    """Say which revision the schema has, and what is wrong; exit code 1 where something is. Changes nothing."""
    from loquent import stores
    from loquent.settings.environment import load_settings

    settings = load_settings()
    _tell(asyncio.run(stores.check(settings.store_url, settings.data_dir)))


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to; a file that is not there yet.", show_default=False)],
) -> None:
    """Write all records of an SQLite to a file, as they stand at one moment; servers go on meanwhile.

    Uploaded files and the secret are not in it: docs/how-to/back-up.md has the whole.
    """
    from loquent import stores
    from loquent.cli.inside import run
    from loquent.settings.environment import load_settings

    run(stores.back_up(load_settings().store_url, file))
    typer.echo(f"{file}: sound, {file.stat().st_size / 1e6:.1f} MB")


@app.command()
def copy(
    records: Annotated[
        str, typer.Option(help="Where records are, as in LOQUENT_STORE: sqlite:///data/loquent.db")
    ] = "",
    files: Annotated[str, typer.Option(help="Where files are, as in LOQUENT_BLOBS: file:///srv/data/blobs")] = "",
) -> None:
    """Copy what was kept elsewhere to where the settings now say. Stop servers and workers before.

    Nothing is removed there or overwritten here, so it may be begun again. Exit code 1 where a record is here already
    and says something else.
    """
    from loquent.cli.copying import copied_from
    from loquent.cli.inside import run
    from loquent.settings.environment import load_settings

    if not records and not files:
        raise Misconfigured("say from where: --records, --files, or both")
    copied = run(copied_from(records, files, load_settings()))
    for kind, count in copied.made.items():
        there = copied.there[kind]
        typer.echo(f"{count:>9} {kind}" + (f", and {there} that were here already" if there else ""))
    for kind, count in copied.differ.items():
        typer.echo(f"loquent: {count} {kind} are here already and say something else: they stay as they are", err=True)
    if copied.differ:
        raise typer.Exit(1)


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what is a large share of its kind.")] = False,
) -> None:
    """Remove what is kept no longer, as a running server does by itself. Exit code 1 where it refuses some of it.

    How long each kind of data is kept, and the share of it that goes unasked, is set: LOQUENT_KEEP_SESSIONS,
    LOQUENT_KEEP_GENERATIONS, LOQUENT_KEEP_UPLOADS, LOQUENT_KEEP_LOGS, LOQUENT_SWEEP_SHARE.
    """
    from loquent.cli.inside import opened, run
    from loquent.settings.environment import load_settings

    settings = load_settings()
    logging.getLogger("loquent.retention").setLevel(logging.INFO)  # what went is told to stderr, too, as a line of log
    if settings.is_in_memory:
        raise Misconfigured("LOQUENT_STORE holds memory: this command has none of it")

    async def sweeping() -> Swept:
        async with opened(settings) as services:
            return await (services.retention.plan if dry_run else services.retention.sweep)(force=force)

    _show(run(sweeping()), is_plan=dry_run)


def _show(swept: Swept, *, is_plan: bool) -> None:
    from rich.table import Table

    from loquent.cli.terminal import console, say

    table = Table(box=None, pad_edge=False)
    table.add_column("would go" if is_plan else "gone", justify="right")
    table.add_column("what")
    for kind, count in swept.counts.items():
        table.add_row(str(count), MEANS[kind])
    console().print(table)
    for kind, count in swept.refused.items():
        say(f"loquent: {count} {MEANS[kind]} stay: so large a share is removed only by: loquent store sweep --force")
    if swept.refused:
        raise typer.Exit(1)


def _tell(found: Checked) -> None:
    from loquent.cli.terminal import say

    typer.echo(f"revision {found.current or 'none'}; this program knows {found.head or 'none'}")
    for finding in found.findings:
        say(f"loquent: {finding}")
    if found.findings:
        raise typer.Exit(1)
    typer.echo("sound")
