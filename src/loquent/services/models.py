"""Models: the rows that callers may name, and the engine behind each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loquent.domain.errors import Invalid, NotFound, Unavailable
from loquent.domain.models import CHAT, SUMMARY, TEXT, VISION, Model
from loquent.domain.principals import Principal
from loquent.ports.engine import Engine
from loquent.services.breaker import Breaker
from loquent.services.gate import Gate


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

    def __post_init__(self) -> None:
        self.label = self.label or self.model.name
        if self.gate is None and self.model.concurrency is not None:
            self.gate = Gate(self.label, self.model.concurrency)

    @property
    def has_stand_ins(self) -> bool:
        """Whether anybody else may answer in its place."""
        return sum(len(group) for group in self.groups) > 1


def linked(offers: Sequence[Offer]) -> dict[str, Offer]:
    """The offers by name, the first row of each, each knowing who shares its asks and who stands in for it."""
    equals: dict[str, list[Offer]] = {}
    for offer in offers:
        group = equals.setdefault(offer.model.name, [])
        group.append(offer)
        offer.label = offer.model.name if len(group) == 1 else f"{offer.model.name}#{len(group)}"
    for offer in offers:
        names = _chain(offer.model.name, {name: group[0].model.fallback for name, group in equals.items()})
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
        self, offers: Sequence[Offer], *, default: str = "", summary: str = "", text: str = "", image: str = ""
    ) -> None:
        self.offers: Mapping[str, Offer] = linked(offers)
        chats = [offer.model.name for offer in offers if CHAT in offer.model.abilities]
        self.default = default or next(iter(chats), "")
        self.text = text
        self.image = image or next((offer.model.name for offer in offers if VISION in offer.model.abilities), "")
        self.summary = summary or next(
            (offer.model.name for offer in offers if SUMMARY in offer.model.abilities), self.default
        )

    @property
    def used(self) -> frozenset[str]:
        """Those that answer where a caller names none."""
        return frozenset((self.default, self.summary, self.text, self.image)) - {""}

    def offer(self, name: str) -> Offer:
        """The offer of exactly that name. Raises NotFound."""
        if name not in self.offers:
            raise NotFound(f"there is no model {name[:100]!r}; the models are: {', '.join(self.offers)}")
        return self.offers[name]

    def pick(self, name: str | None, *abilities: str) -> Offer:
        """The offer of that name (None: the default), which has one of the abilities. Raises NotFound or Invalid."""
        wanted = name or self.default
        if not wanted:
            raise Unavailable("no model is configured that can chat; set LOQUENT_MODELS")
        offer = self.offer(wanted)
        if offer.model.abilities.isdisjoint(abilities):
            able = ", ".join(sorted(offer.model.abilities))
            raise Invalid(f"the model {wanted!r} can do {able}, not {' or '.join(abilities)}", field="model")
        return offer

    def pick_for_summary(self, name: str | None) -> Offer:
        """The offer that summarises: any that shortens texts by itself, or chats."""
        return self.pick(name or self.summary, SUMMARY, CHAT)

    def pick_for_image(self, name: str | None) -> Offer:
        """The offer that says what is in a picture. Raises Unavailable where there is none, NotFound or Invalid."""
        if not name and not self.image:
            raise Unavailable("no model is configured that sees images; set LOQUENT_IMAGE_MODEL or IMAGE_MODEL_URL")
        return self.pick(name or self.image, VISION)

    def text_offer(self) -> Offer:
        """The offer that goes on from prompts for the textgen family: the one chosen, else the first that can.

        Raises NotFound where there is none.
        """
        able = [name for name in (self.text, self.default, *self.offers) if self._can(name, TEXT)]
        if not able:
            raise NotFound("no model is configured that goes on from a prompt")
        return self.offers[able[0]]

    def _can(self, name: str, ability: str) -> bool:
        return name in self.offers and ability in self.offers[name].model.abilities

    def rows(self, who: Principal | None = None) -> list[Model]:
        """The models in the operator's order, one row a name; those that ``who`` may use where somebody is named."""
        return [offer.model for offer in self.offers.values() if who is None or may_use(who, offer.model)]

    def ways(self) -> list[Offer]:
        """Every row with its engine, equals and all."""
        return [way for offer in self.offers.values() for way in (offer.groups[0] if offer.groups else (offer,))]

    async def open(self) -> None:
        """Get all engines ready in the background."""
        for way in self.ways():
            await way.engine.open()

    async def close(self) -> None:
        """Close all engines."""
        for way in self.ways():
            await way.engine.close()


def may_use(who: Principal, model: Model) -> bool:
    """Whether the row is for this caller: for everybody, for all who have an account, or for some by their names."""
    if not model.users:
        return True
    return not who.is_anonymous and ("*" in model.users or who.name in model.users)
