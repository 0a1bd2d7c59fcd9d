"""An Idempotency-Key: the same POST sent again within 24 hours is answered with the first one's result."""

from __future__ import annotations

import hashlib

from loquent.domain.clock import Moment, later, now
from loquent.domain.fixed import fixed
from loquent.domain.principals import Principal

SECONDS = 24 * 3600


@fixed
class Repeat:
    """One key, used by one principal on one route; its id is made of these, so that it is unique by itself."""

    id: str
    version: int
    tenant: str
    owner: str
    fingerprint: str  # SHA-256 of the body
    generation: str
    expires_at: Moment


def repeat(who: Principal, *, route: str, key: str, body: bytes, generation: str) -> Repeat:
    """The record that a first use leaves."""
    return Repeat(
        id=repeat_id(who, route=route, key=key),
        version=0,
        tenant=who.tenant,
        owner=who.owner,
        fingerprint=hashlib.sha256(body).hexdigest(),
        generation=generation,
        expires_at=later(now(), SECONDS),
    )


def repeat_id(who: Principal, *, route: str, key: str) -> str:
    """The id under which that use would be found."""
    return "rep_" + hashlib.sha256(repr((who.tenant, who.owner, route, key)).encode()).hexdigest()
