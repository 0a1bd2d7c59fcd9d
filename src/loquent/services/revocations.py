"""Revocations: whose access tokens are good no more. Each process hears of one within a second, and acts on it.

A user's record says it, so nothing but the store has to be there; tokens that are known to be good are not looked at.
"""

from __future__ import annotations

from loquent.domain.clock import Moment, later, now
from loquent.domain.errors import LoquentError
from loquent.domain.log import Log
from loquent.domain.outages import Outage
from loquent.domain.users import User
from loquent.ports.outages import outage_of
from loquent.ports.store import Position, Store
from loquent.services.looks import Looks
from loquent.services.runner import Runner
from loquent.services.tokens import Tokens

log = Log("loquent.revocations")

PAGE = 200  # records that are read at once
LONGEST = 366 * 86_400.0  # seconds: no token is good for longer
SLACK = 60.0  # seconds by which the clocks of processes may differ, and for which a list may lag


class Revocations:
    """What is heard of others, in order. Takes the whole store: they are everybody's."""

    def __init__(self, store: Store, tokens: Tokens, runner: Runner, outage: Outage | None = None) -> None:
        self._store = store
        self._tokens = tokens
        self._runner = runner
        self._heard: dict[str, User] = {}  # lately
        self._since: Moment | None = None  # from when on something new may be listed; None: nothing was read yet
        self._looks = Looks("revocations", self.look, log, outage or outage_of(store))

    async def open(self) -> None:
        """Hear of all that matter still, and begin to look for more."""
        try:
            await self.look()
        except LoquentError as error:
            log.warning("revocations cannot be read yet", why=error.message)
        self._looks.open()

    async def close(self) -> None:
        """Look no more."""
        await self._looks.close()

    async def look(self) -> None:
        """Act on what is new: tokens are taken no more, and what runs for their callers ends. Raises Unavailable."""
        began = now()
        after = Position(later(began, -LONGEST) if self._since is None else self._since, "")
        listed: dict[str, User] = {}
        while True:
            page = await self._store.page(User, "revoked", {}, limit=PAGE, after=after)
            for user in page.items:
                known = self._heard.get(user.id)
                newest = known if known is not None and known.version >= user.version else user
                listed[user.id] = self._heard[user.id] = newest
                if known is None or known.tokens_from != newest.tokens_from:
                    self._act(newest, is_news=self._since is not None)
            if not page.more:
                break
            after = Position(page.items[-1].tokens_from, page.items[-1].id)
        self._heard = listed
        self._since = later(began, -SLACK)

    def _act(self, user: User, *, is_news: bool) -> None:
        ended = self._runner.revoke(user.tenant, user.id, self._tokens.revoke(user))
        if is_news or ended:  # the first look finds those of a year, of which others have told
            log.info("tokens revoked", user=user.id, active=user.is_active, ended=ended)
