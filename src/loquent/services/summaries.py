"""Summaries: a text or a file made shorter, as a job. A summary is a generation whose recipe may call often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loquent.domain.errors import Invalid
from loquent.domain.models import CHAT
from loquent.domain.principals import Principal
from loquent.domain.requests import NOTHING
from loquent.domain.summaries import LENGTHS
from loquent.ports.reader import Reader, ReadText
from loquent.services import limits
from loquent.services.generations import Generations
from loquent.services.limits import Limits
from loquent.services.models import Models
from loquent.services.wanted import Begun, Key, Wanted


@dataclass(frozen=True, slots=True)
class Wish:
    """How a summary is wanted."""

    model: str | None = None
    language: str | None = None  # by name or tag: German, de
    length: str = "medium"  # short | medium | long


class Summaries:
    """Makes texts shorter. ``bounds``: characters that a text may have; a file may have ``most_in_file``."""

    def __init__(
        self,
        generations: Generations,
        models: Models,
        limits: Limits,
        reader: Reader,
        *,
        bounds: tuple[int, int],
        most_in_file: int,
    ) -> None:
        self._generations = generations
        self._models = models
        self._limits = limits
        self._reader = reader
        self.bounds = bounds
        self._most_in_file = most_in_file

    async def submit(self, who: Principal, text: str, wish: Wish, *, surface: str, key: Key | None = None) -> Begun:
        """Take a text as a job. Raises Invalid naming the bounds."""
        least, most = self.bounds
        return await self._generations.submit(who, self._wanted(who, text, wish, least, most, surface=surface, key=key))

    async def submit_file(
        self, who: Principal, path: Path, name: str, wish: Wish, *, surface: str, key: Key | None = None
    ) -> tuple[Begun, ReadText]:
        """Take a file as a job; the text may be far longer. Raises what Reader.read does, too."""
        if not await self._generations.is_repeat(who, key):
            await self._limits.check(limits.SUMMARIES, f"{who.tenant}/{who.owner}")
        read = await self.read(path, name)
        wanted = self._wanted(who, read.text, wish, 1, self._most_in_file, surface=surface, key=key)
        return await self._generations.submit(who, wanted), read

    async def begin(self, who: Principal, text: str, wish: Wish, *, surface: str) -> Begun:
        """The same for a caller that waits and follows it itself."""
        wanted = self._wanted(who, text, wish, 1, self._most_in_file, surface=surface, key=None)
        return await self._generations.begin(who, wanted)

    async def read(self, path: Path, name: str) -> ReadText:
        """The text of a file, read in a child process."""
        return await self._reader.read(path, name)

    def _wanted(
        self, who: Principal, text: str, wish: Wish, least: int, most: int, *, surface: str, key: Key | None
    ) -> Wanted:
        text = text.strip()
        if len(text) < least:
            raise Invalid(f"the text has {len(text)} characters; it takes at least {least}", field="text")
        if len(text) > most:
            raise Invalid(f"the text has {len(text)} characters; it takes at most {most}", field="text")
        if wish.length not in LENGTHS:
            raise Invalid(f"a length is one of: {', '.join(LENGTHS)}", field="length")
        offer = self._models.pick_for_summary(wish.model, who)
        if wish.language and CHAT not in offer.model.abilities:
            raise Invalid(
                f"the model {offer.model.name!r} keeps to the text's own language; name one that chats for another",
                field="language",
            )
        asked = {"text": text, "length": wish.length, **({"language": wish.language} if wish.language else {})}
        return Wanted(
            kind="summary",
            surface=surface,
            input=asked,
            text=text,
            model=offer.model.name,
            parameters=NOTHING,
            streamed=True,
            key=key,
            rule=limits.SUMMARIES,
        )
