"""Requests that come again with the same Idempotency-Key: what the first of them made."""

from __future__ import annotations

from loquent.domain.clock import now
from loquent.domain.errors import Mismatch, StillRunning
from loquent.domain.generations import CANCELLED, FAILED, FOREGROUND, Content, Generation
from loquent.domain.idempotency import Repeat, repeat, repeat_id
from loquent.domain.principals import Principal
from loquent.ports.store import Remove, Store
from loquent.services.scope import Scoped
from loquent.services.wanted import Begun, Key


def mark(who: Principal, key: Key, generation: str) -> Repeat:
    """What remembers that this key made this generation."""
    return repeat(who, route=key.route, key=key.key, body=key.body, generation=generation)


async def repeated(store: Store, who: Principal, key: Key) -> Begun | None:
    """What an earlier request with this key made; None where there is none that still counts."""
    scoped = Scoped(store, who)
    found = await scoped.get(Repeat, repeat_id(who, route=key.route, key=key.key))
    if not found:
        return None
    record = found[0]
    made = await scoped.get(Generation, record.generation)
    texts = await scoped.get(Content, record.generation)
    is_void = made and made[0].mode == FOREGROUND and made[0].status in (FAILED, CANCELLED)
    if not made or not texts or is_void or record.expires_at <= now():
        await scoped.write(Remove(record))  # it gave no answer to repeat: the key is free again
        return None
    if record.fingerprint != mark(who, key, "").fingerprint:
        raise Mismatch("this Idempotency-Key came before, with another body", field="Idempotency-Key")
    if made[0].mode == FOREGROUND and not made[0].is_over:
        raise StillRunning("the first request with this Idempotency-Key is still being worked on")
    return Begun(made[0], texts[0], replayed=True)
