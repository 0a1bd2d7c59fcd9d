"""A user: a name and a password that a person or program is known by."""

from __future__ import annotations

import re

from loquent.domain.clock import Moment
from loquent.domain.errors import Invalid
from loquent.domain.fixed import fixed

NAME = re.compile(r"[^\s\x00-\x1f\x7f/](?:[^\x00-\x1f\x7f/]{0,62}[^\s\x00-\x1f\x7f/])?")
EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,189}")
PASSWORD = range(8, 1025)
USER, ADMIN = "user", "admin"
"""What an account may do: what is its own; and what is everybody's, such as the registry of models."""


@fixed
class User:
    """One account. Names are compared as written; the password is kept as an argon2id hash only."""

    id: str
    version: int
    tenant: str
    username: str
    email: str | None
    password_hash: str
    is_active: bool
    created_at: Moment
    role: str = USER  # USER or ADMIN
    tokens_from: Moment | None = None  # those given before are good no more; of one who is not active, none is


def check_credentials(username: str, password: str, email: str | None) -> None:
    """Raise Invalid where a new account cannot be made of these."""
    if not NAME.fullmatch(username):
        raise Invalid("a username has 1 to 64 characters, no slash, no control characters", field="username")
    if len(password) not in PASSWORD:
        raise Invalid("a password has 8 to 1024 characters", field="password")
    if email is not None and not EMAIL.fullmatch(email):
        raise Invalid("this is not an email address", field="email")
