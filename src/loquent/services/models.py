"""Models: the rows that callers may name, and the engine behind each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loquent.domain.errors import Invalid, LoquentError, NotFound, Unavailable
from loquent.domain.log import Log
from loquent.domain.models import CHAT, SUMMARY, TEXT, VISION, Model
from loquent.domain.principals import Principal
from loquent.ports.engine import Engine
from loquent.services.breaker import Breaker
from loquent.services.gate import Gate

log = Log("loquent.models")


@dataclass(slots=True, eq=False)
class Offer:
    """A row, the engine that answers for it, and how that engine does. ``groups``: who is asked, in this order.

    The first group are the rows of its own name; each further one stands in for those before it.
    """

    model: Model
    engine: Engine
    label: str = ""  # the row's own name: of equals name, name#2, …
    gate: Gate | None = None
    breaker: Breaker = field(default_factory=Breaker)
    groups: tuple[tuple[Offer, ...], ...] = field(default=(), repr=False)
    is_added: bool = False  # at run time, by an administrator; the others stand in the settings
    is_open: bool = False
    tries: Callable[[Offer], Any] | None = field(default=None, repr=False)  # makes each Try of it; None: plainly

    def __post_init__(self) -> None:
        self.label = self.label or self.model.name
        if self.gate is None and self.model.concurrency is not None:
            self.gate = Gate(self.label, self.model.concurrency)

    @property
    def has_stand_ins(self) -> bool:
        """Whether anybody else may answer in its place."""
        return sum(len(group) for group in self.groups) > 1

    def again(self) -> Offer:
        """The same row with the same engine, to be linked anew: what runs keeps the offer that it began with."""
        return Offer(
            self.model,
            self.engine,
            "",
            self.gate,
            self.breaker,
            is_added=self.is_added,
            is_open=self.is_open,
            tries=self.tries,
        )

    async def open(self) -> None:
        """Get the engine ready, where it is not. Raises Misconfigured."""
        if not self.is_open:
            await self.engine.open()
            self.is_open = True

    async def close(self) -> None:
        """Close the engine."""
        self.is_open = False
        await self.engine.close()


def linked(offers: Sequence[Offer]) -> dict[str, Offer]:
    """The offers by name, the first row of each, each knowing who shares its asks and who stands in for it."""
    equals: dict[str, list[Offer]] = {}
    for offer in offers:
        group = equals.setdefault(offer.model.name, [])
        group.append(offer)
        offer.label = offer.model.name if len(group) == 1 else f"{offer.model.name}#{len(group)}"
    fallback = {name: group[0].model.fallback for name, group in equals.items()}
    for offer in offers:
        names = _chain(offer.model.name, fallback)
        offer.groups = tuple(tuple(equals[name]) for name in names)
    return {name: group[0] for name, group in equals.items()}


def _chain(name: str, fallback: Mapping[str, Sequence[str]]) -> list[str]:
    """A name, those that it falls back on, and those that these do: depth first, each once."""
    found: list[str] = []
    rest = [name]
    while rest:
        one = rest.pop(0)
        if one not in found:
            found.append(one)
            rest = [*(each for each in fallback[one] if each in fallback), *rest]
    return found


class Models:
    """The models of this deployment, by name."""

    def __init__(
        self,
        offers: Sequence[Offer],
        *,
        default: str = "",
        summary: str = "",
        text: str = "",
        image: str = "",
        unasked: frozenset[str] = frozenset(),
    ) -> None:
        """``unasked``: names of those that never answer a caller who names none."""
        self._unasked = unasked
        self._wished = (default, summary, image)
        self.text = text
        self._take(offers)

    def put(self, offers: Sequence[Offer]) -> None:
        """These from now on."""
        self._take([offer.again() for offer in offers])

    def _take(self, offers: Sequence[Offer]) -> None:
        default, summary, image = self._wished
        self.offers: Mapping[str, Offer] = linked(offers)
        self.default = default or self.first(CHAT)
        self.image = image or self.first(VISION)
        self.summary = summary or self.first(SUMMARY) or self.default

    def first(self, *abilities: str, who: Principal | None = None) -> str:
        """The first model that this caller may use and that has one of the abilities; empty where there is none."""
        able = (row.name for row in self.rows(who) if not row.abilities.isdisjoint(abilities))
        return next((name for name in able if name not in self._unasked), "")

    @property
    def used(self) -> frozenset[str]:
        """Those that answer where a caller names none."""
        return frozenset((self.default, self.summary, self.text, self.image)) - {""}

    def offer(self, name: str, who: Principal | None = None) -> Offer:
        """The offer of exactly that name. Raises NotFound, also where ``who`` may not use it."""
        found = self.offers.get(name)
        if found is None or not (who is None or may_use(who, found.model)):
            names = ", ".join(row.name for row in self.rows(who)) or "none that you may use"
            raise NotFound(f"there is no model {name[:100]!r}; the models are: {names}")
        return found

    def own(self, name: str, *abilities: str, who: Principal | None) -> str:
        """That name, chosen for everybody, where this caller may use it; else the first that he may and that is able.

        Raises NotFound where there is none.
        """
        if who is None or name not in self.offers or may_use(who, self.offers[name].model):
            return name
        if not (first := self.first(*abilities, who=who)):
            raise NotFound(f"there is no model that you may use for {' or '.join(abilities)}")
        return first

    def pick(self, name: str | None, *abilities: str, who: Principal | None = None) -> Offer:
        """The offer of that name (None: the default), which has one of the abilities. Raises NotFound or Invalid."""
        wanted = name or self.own(self.default, *abilities, who=who)
        if not wanted:
            raise Unavailable("no model is here that can chat; get one by `loquent models pull`, or set LOQUENT_MODELS")
        offer = self.offer(wanted, who)
        if offer.model.abilities.isdisjoint(abilities):
            able = ", ".join(sorted(offer.model.abilities))
            raise Invalid(f"the model {wanted!r} can do {able}, not {' or '.join(abilities)}", field="model")
        return offer

    def pick_for_summary(self, name: str | None, who: Principal | None = None) -> Offer:
        """The offer that summarises: any that shortens texts by itself, or chats."""
        return self.pick(name or self.own(self.summary, SUMMARY, CHAT, who=who), SUMMARY, CHAT, who=who)

    def pick_for_image(self, name: str | None, who: Principal | None = None) -> Offer:
        """The offer that says what is in a picture. Raises Unavailable where there is none, NotFound or Invalid."""
        if not name and not self.image:
            raise Unavailable("no model is configured that sees images; set LOQUENT_IMAGE_MODEL or IMAGE_MODEL_URL")
        return self.pick(name or self.own(self.image, VISION, who=who), VISION, who=who)

    def text_offer(self, who: Principal | None = None) -> Offer:
        """The offer that goes on from prompts for the textgen family: the one chosen, else the first that can.

        Raises NotFound where there is none.
        """
        able = {row.name for row in self.rows(who) if TEXT in row.abilities}
        chosen = next((name for name in (self.text, self.default) if name in able), "") or self.first(TEXT, who=who)
        if not chosen:
            raise NotFound("no model is configured that goes on from a prompt")
        return self.offers[chosen]

    def rows(self, who: Principal | None = None) -> list[Model]:
        """The models in the operator's order, one row a name; those that ``who`` may use where somebody is named."""
        return [offer.model for offer in self.offers.values() if who is None or may_use(who, offer.model)]

    def ways(self) -> list[Offer]:
        """Every row with its engine, equals and all."""
        return [way for offer in self.offers.values() for way in (offer.groups[0] if offer.groups else (offer,))]

    async def open(self) -> None:
        """Get all engines ready in the background. Raises Misconfigured for a row of the settings."""
        for way in self.ways():
            try:
                await way.open()
            except LoquentError as fault:
                if not way.is_added:
                    raise
                log.warning("an added model cannot be used", model=way.model.name, why=fault.message)

    async def close(self) -> None:
        """Close all engines."""
        for way in self.ways():
            await way.close()


def may_use(who: Principal, model: Model) -> bool:
    """Whether the row is for this caller: for everybody, for all who have an account, or for some by their names."""
    if not model.users:
        return True
    return not who.is_anonymous and ("*" in model.users or who.name in model.users)
