"""The registry: rows of models that administrators add, change and remove while the program runs.

They stand in the store beside the rows of the settings, which nobody changes here. A change takes effect at once in
this process, and in every other one on the same store within a second: each looks whether it is as it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from loquent.domain import ids
from loquent.domain.clock import now
from loquent.domain.errors import Conflict, Invalid, LoquentError, Misconfigured, NotFound, Stale, Taken
from loquent.domain.evolve import evolve
from loquent.domain.generations import Json
from loquent.domain.log import Log
from loquent.domain.models import Model, check_fallback
from loquent.domain.outages import Outage
from loquent.domain.principals import Principal
from loquent.domain.registry import ModelRow, checked
from loquent.ports.outages import outage_of
from loquent.ports.store import Add, Position, Remove, Replace, Store
from loquent.services.live import Live
from loquent.services.looks import Looks
from loquent.services.models import Models, Offer

log = Log("loquent.registry")
T = TypeVar("T")

PAGE = 200  # rows that are read at once
TRIES = 5  # of a change that others come in between
LEAST, LONGEST = 1.0, 900.0  # seconds that an engine is kept for those who may still need it


@dataclass(slots=True, eq=False)
class Added:
    """A stored row, and what became of it: an offer, or the reason why there is none."""

    record: ModelRow
    offer: Offer | None = None
    problem: str = ""


class Registry:
    """The added rows, kept in step with the store. Takes the whole store: they are everybody's.

    ``key_hosts``: the hosts that the operator has paired each key's variable with;
    ``places_of``: where a row's key goes, in the words of these.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        connect: Callable[[Model], Offer],
        running: Callable[[], Iterable[Live]],
        *,
        key_hosts: Mapping[str, frozenset[str]],
        places_of: Callable[[Model], tuple[str, ...]],
        outage: Outage | None = None,
    ) -> None:
        self._store = store
        self._models = models
        self._connect = connect
        self._running = running
        self._key_hosts = key_hosts
        self._places_of = places_of
        self._settled = self._offered = models.ways()
        self._added: dict[str, Added] = {}  # by the record's id
        self._retired: list[tuple[Offer, float]] = []  # since when nobody new is given it
        self._lock = asyncio.Lock()
        self._looks = Looks("the added models", self._keep_up, log, outage or outage_of(store))
        self._opens = False

    # In step with the store

    async def load(self, *, opens: bool = True) -> None:
        """Read what is stored; ``opens``: get the engines ready. What cannot be used is logged and left out."""
        self._opens = opens
        try:
            await self.look()
        except LoquentError as error:
            log.warning("the added models cannot be read yet", why=error.message)

    def open(self) -> None:
        """Begin to look for what other processes change."""
        self._looks.open()

    async def close(self) -> None:
        """Look no more, and close the engines that are not offered any more."""
        await self._looks.close()
        retired, self._retired = self._retired, []
        await _close(offer for offer, _ in retired)

    async def look(self) -> None:
        """Take over what has changed in the store. Raises Unavailable."""
        async with self._lock:
            await self._look()

    async def _keep_up(self) -> None:
        try:
            await self.look()
        finally:
            await self._let_go()

    async def _look(self) -> None:
        listed: dict[str, int] = {}
        after: Position | None = None
        while True:
            page = await self._store.page(ModelRow, "all", {}, limit=PAGE, after=after)
            listed |= {each.id: each.version for each in page.items}
            if not page.more:
                break
            after = Position(page.items[-1].id, page.items[-1].id)
        known = {id: each.record.version for id, each in self._added.items()}
        if listed == known:
            return
        differ = [id for id in {**listed, **known} if listed.get(id) != known.get(id)]
        there = {each.id: each for each in await self._store.get(ModelRow, *differ)}  # a list may lag, this does not
        for id in differ:
            if id not in there:
                self._drop(id)
            elif there[id].version != known.get(id):
                made = await self._made(there[id])
                self._drop(id)
                self._added[id] = made
        self._put()

    async def _made(self, record: ModelRow) -> Added:
        """The offer of a stored row. It was good when it was stored; here, or by now, it may not be."""
        try:
            return Added(record, await self._ready(self._checked(record.row)))
        except LoquentError as fault:
            problem = fault.message
            log.warning("an added model is left out", model=record.name, why=problem)
        except Exception as fault:  # whatever it is, it is no reason not to start
            problem = f"its engine cannot be made ({type(fault).__name__})"
            log.exception("an added model is left out", model=record.name)
        return Added(record, problem=problem)

    async def _ready(self, model: Model) -> Offer:
        """Its offer, the engine opened. Raises Misconfigured."""
        offer = await asyncio.to_thread(self._connect, model)  # imports the engine's library
        offer.is_added = True
        if self._opens:
            await offer.open()
        return offer

    def _put(self) -> None:
        """Offer the settings' rows, and behind them the added ones that can be used, the oldest first."""
        known = {way.model.name: way.model for way in self._settled}
        added = [each for _, each in sorted(self._added.items()) if each.offer is not None]
        for each in added:
            is_taken = each.record.name in known
            each.problem = "a row of the settings has this name" if is_taken else ""
        usable = [each for each in added if not each.problem]
        while True:
            names = known | {each.offer.model.name: each.offer.model for each in usable if each.offer}
            for each in usable:
                try:
                    check_fallback(each.offer.model, names, each.record.name)  # type: ignore[union-attr]  # see above
                except Misconfigured as fault:
                    each.problem = fault.message
            if all(not each.problem for each in usable):
                break
            usable = [each for each in usable if not each.problem]
        for each in added:
            if each.problem:
                log.warning("an added model is left out", model=each.record.name, why=each.problem)
        self._offered = [*self._settled, *(each.offer for each in usable if each.offer)]
        self._models.put(self._offered)

    def _drop(self, id: str) -> None:
        gone = self._added.pop(id, None)
        if gone is not None and gone.offer is not None:
            self._retired.append((gone.offer, time.monotonic()))

    async def _let_go(self) -> None:
        """Close the engines that are offered no more, once nothing runs that may still ask them."""
        if not self._retired:
            return
        offers = [live.offer for live in self._running()]
        needed = {id(way.engine) for each in offers for group in each.groups or ((each,),) for way in group}
        moment = time.monotonic()
        done = [
            (offer, since)
            for offer, since in self._retired
            if moment - since > (LONGEST if id(offer.engine) in needed else LEAST)
        ]
        self._retired = [each for each in self._retired if each not in done]
        await _close(offer for offer, _ in done)

    # What there is

    def offered(self) -> list[Offer]:
        """What is offered to callers, one row a name, whether or not all of it is open here."""
        return list({way.model.name: way for way in reversed(self._offered)}.values())[::-1]

    def added(self, name: str) -> Added | None:
        """The stored row of that name."""
        return next((each for each in self._added.values() if each.record.name == name), None)

    def left_out(self) -> list[Added]:
        """Stored rows that cannot be used here, with the reason."""
        return [each for _, each in sorted(self._added.items()) if each.problem]

    # Change it

    async def add(self, who: Principal, row: Json) -> str:
        """Add a row, as a file of rows has them; its name. Raises Invalid naming the field, and Conflict."""

        async def change() -> str:
            model = self._wanted(row)
            if self.added(model.name) is not None:
                raise _taken(model.name)
            offer = await self._tried(model, self._others(model.name))
            moment = now()
            record = ModelRow(ids.new("mdl"), 0, model.name, row, moment, moment, who.owner)
            with_offer = Added(evolve(record, version=1), offer)
            try:
                await self._written(offer, Add(record))
            except Taken:  # in another process, just now
                raise _taken(model.name) from None
            self._take(with_offer)
            log.info("model added", model=model.name, engine=model.engine, by=who.owner)
            return model.name

        return await self._changed(change)

    async def replace(self, who: Principal, name: str, row: Json) -> str:
        """Put another row in the place of the one of that name. Raises as ``add``, and NotFound."""

        async def change() -> str:
            old = self._own(name)
            model = self._wanted(row)
            if model.name != name:
                raise Invalid(f"the name of a row stays; this one is {name[:100]!r}", field="name")
            offer = await self._tried(model, self._others(name))
            new = evolve(old.record, row=row, updated_at=now())
            await self._written(offer, Replace(old.record, new))
            self._take(Added(evolve(new, version=old.record.version + 1), offer))
            log.info("model replaced", model=name, engine=model.engine, by=who.owner)
            return name

        return await self._changed(change)

    async def remove(self, who: Principal, name: str) -> None:
        """Take a row away. Raises NotFound, and Conflict for one of the settings or one that others fall back on."""

        async def change() -> None:
            old = self._own(name)
            others = sorted(model.name for model in self._others(name) if name in model.fallback)
            if others and not self._is_settled(name):
                raise Conflict(f"the model {name!r} stands in for {', '.join(others)}; change those first")
            await self._store.write(Remove(old.record))
            self._drop(old.record.id)
            self._put()
            log.info("model removed", model=name, by=who.owner)

        await self._changed(change)

    async def _changed(self, change: Callable[[], Awaitable[T]]) -> T:
        """One change after the other, each on what the store holds now."""
        async with self._lock:
            for _ in range(TRIES):
                await self._look()
                with suppress(Stale):  # another process was faster
                    return await change()
        raise Stale("the models keep changing")

    def _own(self, name: str) -> Added:
        found = self.added(name)
        if found is None and self._is_settled(name):
            raise Conflict(f"the model {name!r} is a row of the settings: it is changed there, and nowhere else")
        if found is None:
            raise NotFound(f"there is no added model {name[:100]!r}")
        return found

    def _is_settled(self, name: str) -> bool:
        return any(way.model.name == name for way in self._settled)

    def _others(self, name: str) -> list[Model]:
        """All rows but the added one of that name, those that are left out among them where they can be read."""
        added = [each.offer.model for each in self._added.values() if each.offer and each.record.name != name]
        return [*(way.model for way in self._settled), *added]

    def _wanted(self, row: Json) -> Model:
        """The row as a model. Raises Invalid, or Conflict where its name is a row's of the settings."""
        try:
            model = self._checked(row)
        except Misconfigured as fault:
            raise _invalid(fault) from None
        if self._is_settled(model.name):
            raise _taken(model.name)
        return model

    def _checked(self, row: Json) -> Model:
        """The model of an added row, which says less than one of the settings may. Raises Misconfigured."""
        model = checked(row)
        if model.engine == "llama" and (Path(model.id).is_absolute() or ".." in Path(model.id).parts):
            raise Misconfigured("the row: id names a file in the folder of the models", field="id")
        if model.key_env is not None:
            places = self._places_of(model)
            if self._key_hosts.get(model.key_env, frozenset()).isdisjoint(places):
                place = places[0] if places else "this engine"
                raise Misconfigured(
                    f"the row: key_env {model.key_env} is not meant for {place}; whoever runs this pairs the two in "
                    "LOQUENT_KEY_HOSTS",
                    field="key_env",
                )
        return model

    async def _tried(self, model: Model, others: Sequence[Model]) -> Offer:
        """Its offer, opened, where it fits to the other rows. Raises Invalid."""
        try:
            known = {each.name: each for each in (*others, model)}
            check_fallback(model, known, "the row")
            for each in others:
                if model.name in each.fallback:
                    check_fallback(replace(each, fallback=(model.name,)), known, f"the model {each.name!r}")
            offer = await self._ready(model)
            if not self._opens:  # it is only tried: other processes answer by it
                await offer.open()
                await offer.close()
            return offer
        except Misconfigured as fault:
            raise _invalid(fault) from None

    async def _written(self, offer: Offer, change: Add | Replace) -> None:
        try:
            await self._store.write(change)
        except BaseException:  # where it happened all the same, the next look finds it
            await asyncio.shield(_close([offer]))
            raise

    def _take(self, made: Added) -> None:
        self._drop(made.record.id)
        self._added[made.record.id] = made
        self._put()


async def _close(offers: Iterable[Offer]) -> None:
    for fault in await asyncio.gather(*(offer.close() for offer in offers), return_exceptions=True):
        if isinstance(fault, Exception):
            log.error("an engine did not close", why=str(fault))


def _invalid(fault: Misconfigured) -> Invalid:
    return Invalid(fault.message, field=fault.field)


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a model {name!r} already")
