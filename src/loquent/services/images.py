"""Images: pictures that are kept clean, and what a model says of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loquent.domain import ids
from loquent.domain.clock import now
from loquent.domain.errors import NotFound, Unavailable
from loquent.domain.images import KINDS, PREFIX, PROMPT, Image
from loquent.domain.models import BOOLEAN, VISION
from loquent.domain.principals import Principal
from loquent.domain.requests import NOTHING, Message, Parameters, Picture
from loquent.ports.blobs import Blobs
from loquent.ports.engine import Ask, Chunk
from loquent.ports.pictures import Pictures
from loquent.ports.store import Page, Store
from loquent.services import limits
from loquent.services.generations import Generations
from loquent.services.limits import Limits
from loquent.services.live import Live
from loquent.services.models import Models
from loquent.services.runner import Recipe
from loquent.services.uploads import Uploaded, Uploads, unnamed
from loquent.services.wanted import Begun, Key, Wanted


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about an image. No prompt: what is in it."""

    prompt: str = ""
    model: str | None = None
    parameters: Parameters = NOTHING
    streamed: bool = False
    background: bool = False


class Images:
    """Uploaded pictures, each its owner's own."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        pictures: Pictures,
        generations: Generations,
        models: Models,
        limits: Limits,
    ) -> None:
        self._uploads = Uploads(store, blobs, limits, Image, called="image")
        self._pictures = pictures
        self._generations = generations
        self._models = models
        self._limits = limits

    # Keep

    async def keep(
        self, who: Principal, path: Path, name: str, *, surface: str, key: Key | None = None
    ) -> Uploaded[Image]:
        """Clean the picture at ``path`` and keep it. Raises what Pictures.clean does, Over, Unavailable."""
        return await self._uploads.accept(who, key, lambda: self._keep(who, path, name, surface, key))

    async def keep_and_ask(
        self, who: Principal, path: Path, name: str, *, surface: str, key: Key | None = None
    ) -> Begun:
        """Keep a picture, and ask what is in it; the caller runs what was begun, as of ``ask``."""
        if key is not None and (known := await self._generations.repeated(who, key)):
            return known
        self._models.pick_for_image(None, who)  # raises before anything is kept
        await self._limits.check(limits.GENERATIONS, f"{who.tenant}/{who.owner}")
        image = await self._keep(who, path, name, surface, None)
        asked = self.ask(who, image.id, Question(), surface=surface, key=key)
        return await self._uploads.begin(asked, lambda: self.remove(who, image.id))

    async def _keep(self, who: Principal, path: Path, name: str, surface: str, key: Key | None) -> Image:
        clean = await self._pictures.clean(path, name)
        image = Image(
            id=ids.new(PREFIX),
            version=0,
            tenant=who.tenant,
            owner=who.owner,
            surface=surface,
            name=name,
            kind=clean.kind,
            media_type=KINDS[clean.kind],
            size=len(clean.data),
            sha256=hashlib.sha256(clean.data).hexdigest(),
            width=clean.width,
            height=clean.height,
            created_at=now(),
        )
        try:
            with unnamed() as (file, place):
                await asyncio.to_thread(_fill, file, clean.data)
                await self._uploads.keep(who, image, place, key=key)
        except OSError as error:
            raise Unavailable(f"the image cannot be kept now: {error.strerror}", retry_after=60) from error
        return image

    # Look after

    async def page(self, who: Principal, *, limit: int, after: str | None = None) -> Page[Image]:
        """One's own, newest first, from behind the id ``after``."""
        return await self._uploads.page(who, limit=limit, after=after)

    async def get(self, who: Principal, id: str) -> Image:
        """One's own image. Raises NotFound."""
        return await self._uploads.get(who, id)

    async def original(self, who: Principal, id: str) -> tuple[Image, AsyncGenerator[bytes, None]]:
        """What is kept of it, piece by piece. Raises NotFound."""
        return await self._uploads.original(who, id)

    async def remove(self, who: Principal, id: str) -> None:
        """Erase it. What was answered about it stays. Raises NotFound."""
        await self._uploads.remove(who, await self.get(who, id))

    # Ask

    async def ask(self, who: Principal, id: str, question: Question, *, surface: str, key: Key | None = None) -> Begun:
        """Begin an answer about it, or submit it as a job. Raises NotFound, Over, Invalid …"""
        image = await self.get(who, id)
        model = self._models.pick_for_image(question.model, who).model
        prompt = question.prompt.strip() or PROMPT
        wanted = Wanted(
            kind="image",
            surface=surface,
            input={
                "image": id,
                "name": image.name,
                "prompt": prompt,
                **({"answers": BOOLEAN} if BOOLEAN in model.abilities else {}),
            },
            text=prompt,
            model=model.name,
            parameters=question.parameters,
            streamed=question.streamed,
            key=key,
            needs=(VISION,),
            upload=id,
        )
        if question.background:
            return await self._generations.submit(who, wanted)
        return await self._generations.begin(who, wanted)


def about_images(store: Store, blobs: Blobs) -> Recipe:
    """What is asked about an uploaded image; the picture lies among the blobs, not in the generation."""

    async def look(live: Live) -> AsyncIterator[Chunk]:
        generation, model = live.generation, live.offer.model
        found = await store.get(Image, generation.upload or "")
        if not found or (found[0].tenant, found[0].owner) != (generation.tenant, generation.owner):
            raise NotFound("the image has been removed")
        data = b"".join([piece async for piece in blobs.get(found[0].blob)])
        shown = Message("user", live.content.input["prompt"], (Picture(found[0].media_type, data),))
        ask = Ask(model, live.parameters, (shown,), streamed=live.streamed)
        async with aclosing(live.stream(ask)) as chunks:
            async for chunk in chunks:
                yield chunk

    return look


def _fill(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
