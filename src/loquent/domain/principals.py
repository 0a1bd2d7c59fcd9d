"""Who asks: a user, or an anonymous caller where that is allowed; always inside one tenant."""

from __future__ import annotations

from dataclasses import dataclass, field

from loquent.domain.clock import Moment

DEFAULT_TENANT = "default"
UNKNOWN = "unknown"  # the address of a caller whose address cannot be told: nobody's, so nothing is kept under it


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks. ``owner`` stands on every record that is theirs."""

    tenant: str
    owner: str
    name: str
    is_anonymous: bool = False
    is_admin: bool = False  # as the token says: whoever acts on it looks at the account as well
    since: Moment = field(default=Moment(0), compare=False)  # when the token was given that says so
