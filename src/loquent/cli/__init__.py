"""The command line: one file per noun. What a command needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from loquent import __version__
from loquent.cli import doctor, generate, models, serve, store, summarize, users, worker
from loquent.cli.terminal import say
from loquent.domain.errors import LoquentError, Misconfigured


class Commands(TyperGroup):
    """The commands, with one way to fail: a line on stderr for what we raise on purpose, and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. 1: it failed; 2: a setting or an argument cannot be used; 130: stopped by Ctrl-C."""
        try:
            return super().invoke(ctx)
        except LoquentError as error:
            say(f"loquent: {error}")
            raise typer.Exit(2 if isinstance(error, Misconfigured) else 1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever reads has had enough: Typer ends that quietly
            say(f"loquent: {error}")
            raise typer.Exit(1) from None


app = typer.Typer(
    name="loquent",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: it is there in half the time, and reads well in a pipe
    pretty_exceptions_enable=False,  # a plain traceback: the pretty one shows local variables, which hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"loquent {__version__}")
        raise typer.Exit


@app.callback()
def loquent(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is, and leave.")
    ] = False,
) -> None:
    """Loquent: the self-hosted backend for AI features.

    Settings come from the environment and from a .env file in this folder.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter is no fault


for command in (serve.serve, worker.worker, generate.generate, summarize.summarize, doctor.doctor):
    app.command()(command)
for noun, commands in (("models", models.app), ("users", users.app), ("store", store.app)):
    app.add_typer(commands, name=noun)
