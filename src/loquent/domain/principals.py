"""Who asks: a user, or an anonymous caller where that is allowed; always inside one tenant."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks. ``owner`` stands on every record that is theirs."""

    tenant: str
    owner: str
    name: str
    is_anonymous: bool = False
