"""``loquent users``: the accounts of this deployment."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from loquent.domain.errors import Invalid, Misconfigured

PAGE = 100
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


@app.command("list")
def list_users() -> None:
    """The accounts, newest first."""
    from loquent.cli.inside import opened, run
    from loquent.domain.clock import iso
    from loquent.wiring import load_settings

    async def show() -> None:
        async with opened(load_settings()) as services:
            after: str | None = None
            while True:
                page = await services.accounts.page(limit=PAGE, after=after)
                for user in page.items:
                    state = "active" if user.is_active else "disabled"
                    typer.echo(f"{user.id}  {iso(user.created_at)[:10]}  {state:8}  {user.username}")
                if not page.more:
                    return
                after = page.items[-1].id

    run(show())


@app.command()
def disable(username: Annotated[str, typer.Argument(help="Who may not log in any more.")]) -> None:
    """Let somebody log in no more. Tokens that were given are good until they expire."""
    _set_active(username, is_active=False)


@app.command()
def enable(username: Annotated[str, typer.Argument(help="Who may log in again.")]) -> None:
    """Let somebody log in again."""
    _set_active(username, is_active=True)


def _set_active(username: str, *, is_active: bool) -> None:
    from loquent.cli.inside import opened, run
    from loquent.wiring import load_settings

    async def change() -> None:
        async with opened(load_settings()) as services:
            await services.accounts.set_active(username, is_active=is_active)

    run(change())
    typer.echo(f"{'enabled' if is_active else 'disabled'} {username}")


def _asked() -> str:
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt="Again", err=True)
    return asked


def _first_line() -> str:
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Invalid("the password is not UTF-8", field="password") from None
