"""``loquent models``: what callers may name, and the weights of the models that run here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    pass

app = typer.Typer(help="What callers may name, and the weights of the models that run here.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """What callers may name, and the weights of the models that run here."""
