"""``loquent users``: the accounts of this deployment."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from loquent.domain.errors import Invalid, Misconfigured

app = typer.Typer(help="The accounts of this deployment.", no_args_is_help=True)


@app.callback()
def users() -> None:
    """The accounts of this deployment."""


@app.command()
def add(
    username: Annotated[str, typer.Argument(help="The name to log in with.", show_default=False)],
    email: Annotated[str | None, typer.Option(help="Where the user can be reached.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, to its first line's end.")
    ] = False,
) -> None:
    """Make an account. The password is asked for, twice; it is never an argument, where others could see it."""
    from loquent.cli.inside import opened, run
    from loquent.domain.users import check_credentials
    from loquent.wiring import load_settings

    settings = load_settings()
    if settings.store_url.startswith("memory"):
        raise Misconfigured("LOQUENT_STORE holds memory: an account made now would be gone with this command")
    check_credentials(username, "a password to come", email)
    password = _first_line() if password_stdin else _asked()
    check_credentials(username, password, email)

    async def register() -> str:
        async with opened(settings) as services:
            return (await services.accounts.register(username, password, email)).id

    typer.echo(f"added {username} ({run(register())})")


def _asked() -> str:
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt="Again", err=True)
    return asked


def _first_line() -> str:
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Invalid("the password is not UTF-8", field="password") from None
