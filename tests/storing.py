"""Records put straight into a store, and a store that remembers what was asked of it."""

from __future__ import annotations

from itertools import count
from typing import Any

from built import ANN
from loquent.domain import ids
from loquent.domain.clock import now
from loquent.domain.evolve import evolve
from loquent.domain.generations import COMPLETED, FOREGROUND, Content, begin
from loquent.domain.principals import Principal
from loquent.ports.store import Add, Page, Store

_made = count()


def id_of(prefix: str) -> str:
    """An id of this very moment, also where a test has set the clock back: later ones are greater all the same."""
    return f"{ids.floor(prefix, now())[:-16]}{next(_made):016x}"


async def keep(store: Store, text: str = "text", output: str = "", who: Principal = ANN, **fields: Any) -> str:
    """Put one into the store, as if it had been asked and answered; its id."""
    input = fields.pop("input", {"prompt": text})
    made = begin(who, kind="text", surface="api", mode=FOREGROUND, model="echo", parameters={}, text=text, due_at=None)
    over = {"id": id_of("gen"), "status": COMPLETED, "due_at": None, "output_characters": len(output)}
    made = evolve(made, **{**over, **fields})  # type: ignore[arg-type]
    await store.write(Add(made), Add(Content(made.id, 0, who.tenant, who.owner, input, output)))
    return made.id


class Watched:
    """Any store; ``most`` texts were asked of it at once, and ``read`` records were listed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.most = 0
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, kind: type[Any], *ids: str) -> list[Any]:
        """See Store."""
        if kind is Content:
            self.most = max(self.most, len(ids))
        return await self._store.get(kind, *ids)

    async def page(self, *args: Any, **more: Any) -> Page[Any]:
        """See Store."""
        page = await self._store.page(*args, **more)
        self.read += len(page.items)
        return page
