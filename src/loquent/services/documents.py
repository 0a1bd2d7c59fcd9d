"""Documents: files that are kept with the text that was read in them, and what a model says about them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from loquent.domain import ids
from loquent.domain.clock import now
from loquent.domain.documents import PREFIX, Document, DocumentText
from loquent.domain.errors import NotFound, Unsupported
from loquent.domain.generations import Content, Generation
from loquent.domain.models import CHAT, SUMMARY, TEXT
from loquent.domain.principals import Principal
from loquent.domain.requests import NOTHING, Parameters
from loquent.ports.blobs import Blobs
from loquent.ports.reader import Reader
from loquent.ports.store import Add, Page, Remove, Store
from loquent.services import limits
from loquent.services.generations import Generations
from loquent.services.history import Filters
from loquent.services.limits import Limits
from loquent.services.models import Models
from loquent.services.scope import Scoped
from loquent.services.uploads import Uploaded, Uploads
from loquent.services.wanted import Begun, Key, Wanted

ANSWERS = (CHAT, TEXT, SUMMARY)
"""Abilities of which one is enough to say what a document says."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a document. No instruction: what it says, in short."""

    instruction: str = ""
    model: str | None = None
    parameters: Parameters = NOTHING
    streamed: bool = False
    background: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer about a document with the document, which may have been removed since."""

    generation: Generation
    content: Content
    document: Document | None
    text: str


class Documents:
    """Uploaded files, each its owner's own. ``model``: the one that answers about them where none is named."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        reader: Reader,
        generations: Generations,
        models: Models,
        limits: Limits,
        *,
        model: str,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._uploads = Uploads(store, blobs, limits, Document, called="document")
        self._reader = reader
        self._generations = generations
        self._models = models
        self._limits = limits
        self._model = model

    # Keep

    async def keep(
        self, who: Principal, path: Path, name: str, *, surface: str, key: Key | None = None
    ) -> Uploaded[Document]:
        """Read the file at ``path`` and keep it. Raises what Reader.read does, Over, Unavailable."""

        async def make() -> Document:
            return (await self._keep(who, path, name, surface, key))[0]

        return await self._uploads.accept(who, key, make)

    async def keep_and_ask(
        self, who: Principal, path: Path, name: str, *, ending: str, surface: str, key: Key | None = None
    ) -> tuple[Begun, str]:
        """Keep a file of that one kind, and ask what it says: what was begun, for its caller to run, and the text."""
        if key is not None and (known := await self._generations.repeated(who, key)):
            return known, await self._text_of(who, known.generation)
        if not name.lower().endswith(ending):
            raise Unsupported(f"files with the ending {ending} are taken here, and no others", field="file")
        self._models.pick(self._model_for(who, Question(), ""), *ANSWERS, who=who)  # before anything is kept
        await self._limits.check(limits.GENERATIONS, _whom(who))
        document, text = await self._keep(who, path, name, surface, None)
        asked = self.ask(who, document.id, Question(), surface=surface, key=key)
        begun = await self._uploads.begin(asked, lambda: self.remove(who, document.id))
        return begun, await self._text_of(who, begun.generation) if begun.replayed else text.text

    async def _keep(
        self, who: Principal, path: Path, name: str, surface: str, key: Key | None
    ) -> tuple[Document, DocumentText]:
        read = await self._reader.read(path, name)
        size, digest = await asyncio.to_thread(_measured, path)
        document = Document(
            id=ids.new(PREFIX),
            version=0,
            tenant=who.tenant,
            owner=who.owner,
            surface=surface,
            name=name,
            kind=read.kind,
            media_type=self._reader.kinds[f".{read.kind}"],
            size=size,
            sha256=digest,
            characters=len(read.text),
            pages=read.pages,
            created_at=now(),
        )
        text = DocumentText(document.id, 0, who.tenant, who.owner, read.text)
        await self._uploads.keep(who, document, path, Add(text), key=key)
        return document, text

    # Look after

    async def page(self, who: Principal, *, limit: int, after: str | None = None) -> Page[Document]:
        """One's own, newest first, from behind the id ``after``."""
        return await self._uploads.page(who, limit=limit, after=after)

    async def get(self, who: Principal, id: str) -> Document:
        """One's own document. Raises NotFound."""
        return await self._uploads.get(who, id)

    async def text(self, who: Principal, id: str) -> DocumentText:
        """The text that was read in it. Raises NotFound."""
        found = await Scoped(self._store, who).get(DocumentText, id)
        if not found:
            raise NotFound("there is no such document")
        return found[0]

    async def original(self, who: Principal, id: str) -> tuple[Document, AsyncGenerator[bytes, None]]:
        """The file as it came, piece by piece. Raises NotFound."""
        return await self._uploads.original(who, id)

    async def remove(self, who: Principal, id: str) -> None:
        """Erase it with its text and its original. What was answered about it stays. Raises NotFound."""
        document = await self.get(who, id)
        await self._uploads.remove(who, document, *map(Remove, await Scoped(self._store, who).get(DocumentText, id)))

    # Ask

    async def ask(self, who: Principal, id: str, question: Question, *, surface: str, key: Key | None = None) -> Begun:
        """Begin an answer about it, or submit it as a job. Raises NotFound, Over, Invalid …"""
        document = await self.get(who, id)
        wish = question.instruction.strip()
        wanted = Wanted(
            kind="document",
            surface=surface,
            input={"document": id, "name": document.name, "instruction": wish},
            text=wish or document.name,
            model=self._model_for(who, question, wish),
            parameters=question.parameters,
            streamed=question.streamed,
            key=key,
            needs=(CHAT, TEXT) if wish else ANSWERS,
            upload=id,
        )
        if question.background:
            return await self._generations.submit(who, wanted)
        return await self._generations.begin(who, wanted)

    async def answered(self, who: Principal, id: str) -> Answered:
        """An answer about a document, by the generation's id. Raises NotFound."""
        generation, content = await self._generations.get(who, id)
        if generation.kind != "document":
            raise NotFound("there is no such answer about a document")
        return await self._with_document(who, generation, content)

    async def answers(self, who: Principal, *, most: int) -> AsyncIterator[Answered]:
        """One's own answers about documents that are over, newest first; one text in memory at a time."""
        page = await self._generations.page(who, Filters(kind="document"), limit=most)
        for generation in page.items:
            if generation.is_over:
                for content in await self._generations.contents(who, [generation]):
                    yield await self._with_document(who, generation, content)

    def address(self, document: Document) -> str:
        """Where its original lies, as a URL that a stranger cannot open."""
        return self._blobs.address(document.blob)

    async def _with_document(self, who: Principal, generation: Generation, content: Content) -> Answered:
        documents = await Scoped(self._store, who).get(Document, generation.upload or "")
        return Answered(generation, content, next(iter(documents), None), await self._text_of(who, generation))

    async def _text_of(self, who: Principal, generation: Generation) -> str:
        """The text that it is about; empty where the document has been removed since."""
        texts = await Scoped(self._store, who).get(DocumentText, generation.upload or "")
        return texts[0].text if texts else ""

    def _model_for(self, who: Principal, question: Question, wish: str) -> str | None:
        """The named one; else that for documents, unless it only shortens texts and something else was asked."""
        if question.model or not self._model:
            return question.model or None
        mine = self._models.own(self._model, *((CHAT, TEXT) if wish else ANSWERS), who=who)
        return mine if not wish or self._models.offer(mine).model.abilities & {CHAT, TEXT} else None


def _measured(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _whom(who: Principal) -> str:
    return f"{who.tenant}/{who.owner}"
