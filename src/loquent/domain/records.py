"""What is stored: each record type with its unique keys, its orders and its scope, declared once.

A store builds tables, indexes, collections or a single table from RECORDS; a new capability adds a row here and
touches no store. Fields may be ``str``, ``int``, ``float``, ``bool``, ``Moment``, ``Json`` and any of these or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_type_hints

from loquent.domain.documents import Document, DocumentText
from loquent.domain.feedback import Feedback
from loquent.domain.generations import Content, Generation
from loquent.domain.idempotency import Repeat
from loquent.domain.images import Image
from loquent.domain.presets import Preset
from loquent.domain.registry import ModelRow
from loquent.domain.sessions import Session
from loquent.domain.usage import UsageDay
from loquent.domain.users import User

OWN = ("tenant", "owner")
SCOPES = {"owner": OWN, "tenant": ("tenant",), "system": ()}


@dataclass(frozen=True, slots=True)
class Order:
    """A list that can be paged: equal on ``within``, sorted by ``by`` and then by id. None in ``by``: not listed."""

    within: tuple[str, ...]
    by: str
    desc: bool = False


@dataclass(frozen=True)
class Spec:
    """How one record type is stored."""

    type: type[Any]
    table: str  # plural, as psql shows it
    scope: str  # owner | tenant | system: the fields that a scoped query is bound to
    unique: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # None in any field: not unique
    orders: Mapping[str, Order] = field(default_factory=dict)
    counters: tuple[str, ...] = ()  # a type with counters is only bumped; one without carries a version
    long: tuple[str, ...] = ()  # fields that may be large: never in a key or an order

    def __post_init__(self) -> None:
        names = set(self.names)
        keyed = {name for key in self.unique.values() for name in key}
        keyed |= {name for order in self.orders.values() for name in (*order.within, order.by)}
        fat = {*self.counters, *self.long}
        missing = ({"id", *SCOPES[self.scope]} | keyed | fat) - names
        if missing:
            raise TypeError(f"{self.table}: no such fields: {sorted(missing)}")
        if keyed & fat:
            raise TypeError(f"{self.table}: a counter or a long text in a key or an order: {sorted(keyed & fat)}")
        if bool(self.counters) == ("version" in names):
            raise TypeError(f"{self.table}: a record is versioned or counted, one of the two")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields, in the order of the constructor."""
        return tuple(self.type.__struct_fields__)

    @cached_property
    def types(self) -> Mapping[str, Any]:
        """Each field's type, resolved."""
        return get_type_hints(self.type)


SPECS = (
    Spec(
        Generation,
        "generations",
        scope="owner",
        orders={
            "newest": Order(OWN, "id", desc=True),
            "kind": Order((*OWN, "kind"), "id", desc=True),
            "kind_status": Order((*OWN, "kind", "status"), "id", desc=True),
            "model": Order((*OWN, "model"), "id", desc=True),
            "turns": Order((*OWN, "session"), "turn"),
            "due": Order((), "due_at"),
            "all": Order((), "id"),
        },
    ),
    Spec(
        Content, "contents", scope="owner", orders={"all": Order((), "id")}, long=("input", "output", "sources", "more")
    ),
    Spec(
        User,
        "users",
        scope="tenant",
        unique={"username": ("tenant", "username"), "email": ("tenant", "email")},
        orders={
            "newest": Order(("tenant",), "id", desc=True),
            "all": Order((), "id"),
            "revoked": Order((), "tokens_from"),
        },
    ),
    Spec(
        UsageDay,
        "usage_days",
        scope="owner",
        orders={"days": Order(OWN, "day", desc=True), "all": Order((), "id")},
        counters=("generations", "prompt_tokens", "completion_tokens", "cost"),
    ),
    Spec(
        Repeat,
        "repeats",
        scope="owner",
        orders={"expiring": Order((), "expires_at"), "all": Order((), "id")},
    ),
    Spec(
        Session,
        "sessions",
        scope="owner",
        orders={
            "latest": Order(OWN, "last_active_at", desc=True),
            "quiet": Order((), "last_active_at"),
            "all": Order((), "id"),
        },
        long=("instructions",),
    ),
    Spec(
        Document,
        "documents",
        scope="owner",
        orders={"newest": Order(OWN, "id", desc=True), "all": Order((), "id")},
    ),
    Spec(DocumentText, "document_texts", scope="owner", orders={"all": Order((), "id")}, long=("text",)),
    Spec(
        Image,
        "images",
        scope="owner",
        orders={"newest": Order(OWN, "id", desc=True), "all": Order((), "id")},
    ),
    Spec(
        Feedback,
        "feedbacks",
        scope="owner",
        unique={"generation": (*OWN, "generation")},
        orders={
            "newest": Order(OWN, "id", desc=True),
            "session": Order((*OWN, "session"), "id", desc=True),
            "all": Order((), "id"),
        },
        long=("comment", "labels"),
    ),
    Spec(Preset, "presets", scope="owner", orders={"all": Order((), "id")}, long=("parameters",)),
    Spec(
        ModelRow,
        "model_rows",
        scope="system",
        unique={"name": ("name",)},
        orders={"all": Order((), "id")},
        long=("row",),
    ),
)
RECORDS: Mapping[type[Any], Spec] = {spec.type: spec for spec in SPECS}
