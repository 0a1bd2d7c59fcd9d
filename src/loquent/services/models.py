"""Models: the rows that callers may name, and the engine behind each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loquent.domain.errors import Invalid, NotFound, Unavailable
from loquent.domain.models import CHAT, SUMMARY, TEXT, VISION, Model
from loquent.ports.engine import Engine


@dataclass(frozen=True, slots=True)
class Offer:
    """A model and the engine that answers for it."""

    model: Model
    engine: Engine


class Models:
    """The models of this deployment, by name."""

    def __init__(
        self, offers: Sequence[Offer], *, default: str = "", summary: str = "", text: str = "", image: str = ""
    ) -> None:
        self.offers: Mapping[str, Offer] = {offer.model.name: offer for offer in offers}
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

    def rows(self) -> list[Model]:
        """All rows, in the operator's order."""
        return [offer.model for offer in self.offers.values()]

    async def open(self) -> None:
        """Get all engines ready in the background."""
        for offer in self.offers.values():
            await offer.engine.open()

    async def close(self) -> None:
        """Close all engines."""
        for offer in self.offers.values():
            await offer.engine.close()
