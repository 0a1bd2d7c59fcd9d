"""``loquent store``: the schema of the records, and whether they are sound."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from loquent.stores import Checked

app = typer.Typer(help="The schema of the records, and whether they are sound.", no_args_is_help=True)


@app.callback()
def store() -> None:
    """The schema of the records, and whether they are sound."""


@app.command()
def upgrade() -> None:
    """Make the schema, or bring an older one up to date; nothing is lost, and nothing done where it is so already."""
    from loquent import stores
    from loquent.wiring import load_settings

    settings = load_settings()
    _tell(asyncio.run(stores.upgrade(settings.store_url, settings.data_dir)))


@app.command()
def check() -> None:
    """Say which revision the schema has, and what is wrong; exit code 1 where something is. Changes nothing."""
    from loquent import stores
    from loquent.wiring import load_settings

    settings = load_settings()
    _tell(asyncio.run(stores.check(settings.store_url, settings.data_dir)))


def _tell(found: Checked) -> None:
    typer.echo(f"revision {found.current or 'none'}; this program knows {found.head or 'none'}")
    for finding in found.findings:
        typer.echo(f"loquent: {finding}", err=True)
    if found.findings:
        raise typer.Exit(1)
    typer.echo("sound")
