"""History: everything that somebody asked, by whatever surface, newest first; narrowed, searched, given out whole."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from loquent.domain import ids
from loquent.domain.clock import Moment
from loquent.domain.errors import Invalid
from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.domain.sessions import Session
from loquent.ports.store import Position, Store
from loquent.services.lists import page_of, parts_of
from loquent.services.scope import Scoped

T = TypeVar("T")

SCANNED = 2_000  # records that one call looks at for what no order answers
SEARCHED = 20_000_000  # characters that one call searches
STEP = 200  # records in one query of these
AT_ONCE = 1_000_000  # characters of texts that are in memory at once; one text alone may have more
SLACK = 3_600  # seconds by which the clocks may differ that wrote a session and its turns
ANY, NONE = "any", "none"
TEXTS = ("prompt", "text", "message", "content", "name", "instruction")
"""The names under which the input of a generation, whatever its kind, has texts that people wrote."""

MARKS = 30  # that stand on one letter, at most, when texts are compared: no language needs more (Unicode Annex 15)
JOINER = "\u034f"  # what the same annex puts between more of them; it is not drawn
_NO_LETTERS = r"[^\w\x00-\u02ff]"  # marks, and signs that few texts have many of in a row
_CROWD = re.compile(rf"(?<!{_NO_LETTERS}){_NO_LETTERS}{{{MARKS + 1},}}")  # tried once in each run: linear


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list is narrowed to; None: not narrowed."""

    kind: str | None = None
    status: str | None = None
    model: str | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    surface: str | None = None
    session: str | None = None
    rating: str | None = None  # one of feedback.RATINGS; ANY of them; NONE
    text: str | None = None  # that stands in the input or in the output, large or small


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list. It may be short, even empty, though ``more`` may lie behind ``last``: go on from there."""

    items: list[Generation]
    more: bool
    last: str | None


class History:
    """One's own generations as a list. One call looks at ``scanned`` records and ``searched`` characters at most."""

    def __init__(
        self,
        store: Store,
        *,
        step: int = STEP,
        scanned: int = SCANNED,
        searched: int = SEARCHED,
        at_once: int = AT_ONCE,
    ) -> None:
        self._store = store
        self._step = step
        self._scanned = scanned
        self._searched = searched
        self._at_once = at_once

    async def page(self, who: Principal, filters: Filters, *, limit: int, after: str | None = None) -> Listed:
        """One's own, newest first, from behind the id ``after``. Raises Invalid."""
        if after is not None and not after.startswith("gen_"):
            raise Invalid("this is not the id of a generation", field="after")
        scoped = Scoped(self._store, who)
        needle = _needle(filters.text)
        end = await self._end(scoped, filters)
        if end is None:
            return Listed([], more=False, last=None)
        before = ids.floor("gen", filters.created_before) if filters.created_before is not None else None
        last = min(filter(None, (after, before)), default=None)
        parts = parts_of(kind=filters.kind, status=filters.status, model=filters.model)
        step = limit if needle is None and not _narrows(filters) else max(limit, self._step)
        items: list[Generation] = []
        seen = searched = 0
        while seen < self._scanned and searched < self._searched:
            position = Position(last, last) if last else None
            page = await page_of(scoped, parts, limit=step, after=position)
            seen += step
            inside = [each for each in page.items if each.id >= end]
            is_end = not page.more or len(inside) < len(page.items)
            last = page.items[-1].id if page.items else last
            found = [each for each in inside if _matches(each, filters)]
            for some in batches(found, characters, self._at_once) if needle is not None else (found,):
                held = some if needle is None else await _holding(scoped, some, needle)
                items += held[: limit - len(items)]
                searched += sum(map(characters, some)) if needle is not None else 0
                if len(items) == limit or (searched >= self._searched and some[-1] is not found[-1]):
                    last = (items if len(items) == limit else some)[-1].id
                    return Listed(items, more=not is_end or inside[-1].id != last, last=last)
            if is_end:
                return Listed(items, more=False, last=items[-1].id if items else None)
        return Listed(items, more=True, last=last)

    async def export(self, who: Principal, filters: Filters) -> AsyncGenerator[tuple[Generation, Content], None]:
        """All of it with its texts, newest first; few texts at a time are in memory."""
        scoped = Scoped(self._store, who)
        after: str | None = None
        while True:
            page = await self.page(who, filters, limit=self._step, after=after)
            for some in batches(page.items, characters, self._at_once):
                contents = await texts_of(scoped, some)
                for each in some:
                    if each.id in contents:  # or it has been removed while we read
                        yield each, contents[each.id]
            if not page.more:
                return
            after = page.last

    async def _end(self, scoped: Scoped, filters: Filters) -> str | None:
        """The id that all of it is at or behind; None where there is nothing at all."""
        since = filters.created_after or Moment(0)
        if filters.session is not None:
            found = await scoped.get(Session, filters.session)
            if not found:
                return None
            since = max(since, Moment(found[0].created_at - SLACK * 1_000_000))
        return ids.floor("gen", since)


def batches(items: Sequence[T], characters: Callable[[T], int], most: int = AT_ONCE) -> Iterator[list[T]]:
    """The items in their order, so many at a time that their texts have ``most`` characters; one may have more."""
    some: list[T] = []
    total = 0
    for each in items:
        size = characters(each)
        if some and total + size > most:
            yield some
            some, total = [], 0
        some.append(each)
        total += size
    if some:
        yield some


def characters(generation: Generation) -> int:
    """How long its texts are, together."""
    return generation.input_characters + generation.output_characters


async def texts_of(scoped: Scoped, generations: Sequence[Generation]) -> dict[str, Content]:
    """The texts of these, by id."""
    found = await scoped.get(Content, *(each.id for each in generations)) if generations else []
    return {each.id: each for each in found}


def written(asked: Any) -> Iterator[str]:
    """Every text that a person wrote in the input of a generation, in its order."""
    if isinstance(asked, Mapping):
        for name, value in asked.items():
            if isinstance(value, str):
                if name in TEXTS:
                    yield value
            elif name == "texts":
                yield from value
            else:
                yield from written(value)
    elif isinstance(asked, list):
        for each in asked:
            yield from written(each)


def _narrows(filters: Filters) -> bool:
    """Whether the filters ask for more than the orders answer."""
    beside = [filters.surface, filters.session, filters.rating]
    if filters.model is not None:
        beside += [filters.kind, filters.status]
    return any(value is not None for value in beside)


def _matches(record: Generation, filters: Filters) -> bool:
    return (
        filters.kind in (None, record.kind)
        and filters.status in (None, record.status)
        and filters.model in (None, record.model)
        and filters.surface in (None, record.surface)
        and filters.session in (None, record.session)
        and filters.rating in (None, record.rating or NONE, ANY if record.rating else NONE)
    )


def _needle(text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise Invalid("a search is for something, not for blanks", field="q")
    return None if text is None else folded(text)


async def _holding(scoped: Scoped, generations: list[Generation], needle: str) -> list[Generation]:
    """Those in whose texts it stands."""
    contents = await texts_of(scoped, generations)
    held = await asyncio.to_thread(_held, contents, needle)
    return [each for each in generations if each.id in held]


def _held(contents: Mapping[str, Content], needle: str) -> set[str]:
    """The ids of those that hold it: work of its own, not of the loop that serves everybody."""
    return {id for id, content in contents.items() if _holds(content, needle)}


def _holds(content: Content, needle: str) -> bool:
    return any(needle in folded(text) for text in (content.output, *written(content.input)))


def folded(text: str) -> str:
    """A text as it is compared: large or small, accents written in one way or another, all the same.

    To put marks in their order takes time by the square of how many stand in a row: so they are kept apart first.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", _CROWD.sub(_apart, text)).casefold()


def _apart(crowd: re.Match[str]) -> str:
    parts: list[str] = []
    marks = 0
    for each in crowd[0]:
        marks = marks + 1 if unicodedata.combining(each) else 0
        if marks > MARKS:
            parts.append(JOINER)
            marks = 1
        parts.append(each)
    return "".join(parts)
