"""``loquent users``: the accounts of this deployment."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from loquent.domain.errors import Invalid, Misconfigured

if TYPE_CHECKING:
    from loquent.domain.users import User
    from loquent.services.accounts import Accounts

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
    admin: Annotated[bool, typer.Option("--admin", help="Make an administrator, who may change the models.")] = False,
) -> None:
    """Make an account. The password is asked for, twice; it is never an argument, where others could see it."""
    from loquent.cli.inside import opened, run
    from loquent.domain.users import ADMIN, USER, check_credentials
    from loquent.settings.environment import load_settings

    settings = load_settings()
    if settings.is_in_memory:
        raise Misconfigured("LOQUENT_STORE holds memory: an account made now would be gone with this command")
    check_credentials(username, "a password to come", email)
    password = _first_line() if password_stdin else _asked()
    check_credentials(username, password, email)

    async def register() -> str:
        async with opened(settings) as services:
            role = ADMIN if admin else USER
            return (await services.accounts.register(username, password, email, role=role)).id

    typer.echo(f"added {username} ({run(register())}){' as an administrator' if admin else ''}")


@app.command("list")
def list_users() -> None:
    """The accounts, newest first."""
    from loquent.cli.inside import opened, run
    from loquent.domain.clock import iso
    from loquent.settings.environment import load_settings

    async def show() -> None:
        async with opened(load_settings()) as services:
            after: str | None = None
            while True:
                page = await services.accounts.page(limit=PAGE, after=after)
                for user in page.items:
                    state = "active" if user.is_active else "disabled"
                    typer.echo(f"{user.id}  {iso(user.created_at)[:10]}  {state:8}  {user.role:5}  {user.username}")
                if not page.more:
                    return
                after = page.items[-1].id

    run(show())


@app.command()
def disable(username: Annotated[str, typer.Argument(help="Who may not log in any more.")]) -> None:
    """Let somebody log in no more. Tokens that were given are refused within a second, and open streams end."""
    _change(username, lambda accounts: accounts.set_active(username, is_active=False), "disabled")


@app.command()
def enable(username: Annotated[str, typer.Argument(help="Who may log in again.")]) -> None:
    """Let somebody log in again."""
    _change(username, lambda accounts: accounts.set_active(username, is_active=True), "enabled")


@app.command()
def revoke(username: Annotated[str, typer.Argument(help="Whose tokens end.")]) -> None:
    """End all tokens that somebody has, and what is open with them, within a second; a new login gives new ones."""
    _change(username, lambda accounts: accounts.revoke(username), "revoked the tokens of")


@app.command()
def promote(username: Annotated[str, typer.Argument(help="Who becomes an administrator.")]) -> None:
    """Make somebody an administrator, from their next login on."""
    from loquent.domain.users import ADMIN

    _change(username, lambda accounts: accounts.set_role(username, ADMIN), "promoted")


@app.command()
def demote(username: Annotated[str, typer.Argument(help="Who is an administrator no more.")]) -> None:
    """Take that away again, at once."""
    from loquent.domain.users import USER

    _change(username, lambda accounts: accounts.set_role(username, USER), "demoted")


def _change(username: str, change: Callable[[Accounts], Awaitable[User]], done: str) -> None:
    from loquent.cli.inside import opened, run
    from loquent.settings.environment import load_settings

    async def apply() -> None:
        async with opened(load_settings()) as services:
            await change(services.accounts)

    run(apply())
    typer.echo(f"{done} {username}")


def _asked() -> str:
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt="Again", err=True)
    return asked


def _first_line() -> str:
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Invalid("the password is not UTF-8", field="password") from None
