"""The backlog: jobs that wait. How many there may be, and their places: in turns, however many one has.

Workers take what is due by ``due_at``, the earliest first. So the turn is written there, once, when a job is accepted,
and every store and every worker keeps it without knowing of it. Places are moments that have passed, microseconds
apart: the first job of who has none waiting goes before all that waits; the others go one of each tenant, and within
it one of each caller, after the other. It is start-time fair queuing (Goyal, Vin and Cheng, 1996), with the place of
the job that is next for its virtual time.

Who is refused is told when there will be room for one more, as quickly as jobs are taken now, and a place is kept for
them: see promises.py. Where the workers have slowed down since, they are told anew: the bounds hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace

from loquent.domain.clock import SECOND, Moment, later, now
from loquent.domain.errors import Limited, Unavailable
from loquent.domain.generations import PENDING, Generation
from loquent.domain.principals import Principal
from loquent.ports.store import Position, Store
from loquent.services import metrics
from loquent.services.promises import ALL, LONGEST, Promises

Coming = tuple[str, str, int]
"""A tenant, a caller and a place."""

STEP = 2  # microseconds between places; the odd ones are for first jobs
OFTEN, SHARE = 0.25, 20  # seconds between looks at the store; or so many times what the last one took
PAGE = 500
RECENT, SURE = 5.0, 1.0  # seconds over which the rate is an average, and that it takes to be one
PATIENCE = 2.0  # seconds until one may come again, where the rate is not known yet
MARGIN, SPARE = 1.5, 2  # by which less is promised than is taken, and so many jobs: few are not taken evenly
FEW, LAST = 100, 10  # the last tenth of a bound is for those who have less than a hundredth of it


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many jobs may wait: in all, of one tenant, of one caller."""

    all: int
    tenant: int
    caller: int


@dataclass(slots=True)
class Own:
    """What one caller has waiting."""

    count: int = 0
    last: int = 0  # the place of the last one


@dataclass(slots=True)
class Line:
    """What one tenant has waiting."""

    count: int = 0
    callers: dict[str, Own] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Space:
    """What there is in a line for one more job of somebody."""

    kind: type[Limited | Unavailable]
    told: str
    turns: int  # of jobs that are taken, every so many is one of it
    count: int  # of those that wait
    most: int  # that may, where it is theirs
    kept: int = 0  # places that are not to be had now, for they are promised
    owed: int = 0  # all that are promised to others

    @property
    def is_full(self) -> bool:
        """Whether there is none."""
        return self.count + self.kept >= self.most

    @property
    def ahead(self) -> int:
        """Jobs that are taken until there is, for one who comes after all that were promised a place."""
        return max(0, self.count + self.owed + 1 - self.most) * self.turns


@dataclass(slots=True)
class Lines:
    """What waits, as it was at that moment, and what was accepted here since."""

    at: Moment
    count: int = 0
    front: int | None = None  # the place of the next one to be taken; None: nothing new waits
    tenants: dict[str, Line] = field(default_factory=dict)
    took: float = 0.0  # seconds that the look took
    seen: Counter[Coming] = field(default_factory=Counter)  # of what has not run yet, whoever accepted it

    def add(self, tenant: str, owner: str) -> Own:
        """Count one more; gives its caller's part."""
        line = self.tenants.setdefault(tenant, Line())
        own = line.callers.setdefault(owner, Own())
        self.count, line.count, own.count = self.count + 1, line.count + 1, own.count + 1
        return own

    @property
    def is_old(self) -> bool:
        """Whether the store is to be looked at again."""
        return not 0 <= (now() - self.at) / SECOND < max(OFTEN, SHARE * self.took)


class Backlog:
    """Gives places to jobs, and refuses them where too many wait, with the time at which there will be room.

    It looks at the store now and then, and counts what is accepted here in between: where there are several processes
    the bounds may be passed for a moment by what the others accept.
    """

    def __init__(self, store: Store, bounds: Bounds) -> None:
        self._store = store
        self._bounds = bounds
        self._least = min(bounds.caller, bounds.tenant - bounds.tenant // LAST, bounds.all - bounds.all // LAST)
        self._lines = Lines(Moment(0))
        self._is_looking = False
        self._coming: set[Coming] = set()  # accepted, and not on the record yet as far as we know
        self._came: set[Coming] = set()  # meanwhile
        self._taken = self._spent = 0.0  # jobs, and the seconds in which they were taken: the recent ones count most
        self._firsts: dict[str, int] = {}  # of each tenant, the last place of a first job
        self._promises = Promises()

    async def check(self, who: Principal) -> None:
        """Raise Limited where the caller or the tenant has too much waiting, Unavailable where all have together.

        Who waits as long as it says is let in with one job, if no fewer are taken than before.
        """
        if self._lines.is_old and not self._is_looking:
            self._is_looking = True
            try:
                await self._look()
            finally:
                self._is_looking = False
                self._coming -= self._came
                self._came.clear()
        if self._lines.count + self._promises.owed(ALL, but=(who.tenant, who.owner)) < self._least:
            return
        lines = self._spaces(who)
        for line in lines:
            if line.is_full:
                metrics.refused_jobs.inc()
                raise line.kind(line.told, retry_after=self._promise(who, lines))

    def place(self, who: Principal) -> Moment:
        """Count one that is accepted; gives its place: what its ``due_at`` has to be. Call ``check`` before."""
        present, lines = now(), self._lines
        self._promises.settle((who.tenant, who.owner))
        own = lines.add(who.tenant, who.owner)
        if lines.front is None:
            place = lines.front = present - present % STEP
            self._firsts[who.tenant] = place - 1
        elif own.count > 1:
            place = max(lines.front, own.last + STEP * len(lines.tenants[who.tenant].callers))
        else:
            place = self._firsts[who.tenant] = max(lines.front - 1, self._firsts.get(who.tenant, 0) + STEP)
        own.last = min(place, present)
        self._coming.add((who.tenant, who.owner, own.last))
        return Moment(own.last)

    def came(self, who: Principal, place: Moment | None) -> None:
        """It is on the record, or will never be."""
        key = (who.tenant, who.owner, place or 0)
        self._lines.seen[key] += 1
        if self._is_looking:
            self._came.add(key)
        else:
            self._coming.discard(key)

    # What waits

    async def _look(self) -> None:
        """See what waits, whoever accepted it."""
        before, lines = self._lines, Lines(now())
        seen = lines.seen
        async for each in self._waiting():
            own = lines.add(each.tenant, each.owner)
            if not each.fence and each.due_at is not None:  # what has run before stands where the clock has put it
                seen[each.tenant, each.owner, each.due_at] += 1
                own.last = max(own.last, each.due_at)
                lines.front = min(lines.front or each.due_at, each.due_at)
        for tenant, owner, place in self._coming - seen.keys():
            own = lines.add(tenant, owner)
            own.last = max(own.last, place)
            lines.front = min(lines.front or place, place)
        if lines.front is not None:
            lines.front += lines.front % STEP
        lines.took = (now() - lines.at) / SECOND
        self._measure(before, lines)
        self._lines = lines
        self._forget(lines)

    async def _waiting(self) -> AsyncIterator[Generation]:
        after: Position | None = None
        while True:
            page = await self._store.page(Generation, "due", {}, limit=PAGE, after=after)
            for each in page.items:
                if each.status == PENDING:
                    yield each
            if not page.more:
                return
            after = Position(page.items[-1].due_at, page.items[-1].id)

    def _measure(self, before: Lines, after: Lines) -> None:
        """How quickly jobs are taken, while there is always one that waits."""
        seconds = (after.at - before.at) / SECOND
        if not before.count or not after.count or not 0 < seconds < LONGEST:
            return
        fading = math.exp(-seconds / RECENT)
        self._taken = self._taken * fading + (before.seen - after.seen).total()
        self._spent = self._spent * fading + seconds

    @property
    def _rate(self) -> float:
        """Jobs taken a second; 0: not known, or none."""
        return self._taken / max(SURE, self._spent)

    def _forget(self, lines: Lines) -> None:
        """What is over: promises that nobody took up, and first places that have been taken."""
        front = lines.front or now()
        self._promises.forget(later(now(), OFTEN))
        self._firsts = {tenant: place for tenant, place in self._firsts.items() if place + STEP >= front}

    # When there is room

    def _spaces(self, who: Principal) -> list[Space]:
        """For one more of theirs: in their own line, in their tenant's, and in that of all."""
        lines, bounds = self._lines, self._bounds
        line = lines.tenants.get(who.tenant, Line())
        own, ours, all = line.callers.get(who.owner, Own()).count, line.count, lines.count
        tenants, callers = max(1, len(lines.tenants)), max(1, len(line.callers))
        told = "jobs of your organisation wait already"
        return [
            Space(Limited, f"{own} jobs of yours wait already", tenants * callers, own, bounds.caller),
            self._shared(who, own, who.tenant, Space(Limited, f"{ours} {told}", tenants, ours, bounds.tenant)),
            self._shared(who, ours, ALL, Space(Unavailable, f"{all} jobs wait already", 1, all, bounds.all)),
        ]

    def _shared(self, who: Principal, theirs: int, line: str, space: Space) -> Space:
        """The same, where others have places too; so many are theirs."""
        caller = (who.tenant, who.owner)
        owed, due = self._promises.owed(line, but=caller), self._promises.due(line)
        if self._promises.stands(caller):
            return replace(space, owed=owed)
        if theirs < max(1, space.most // FEW):
            return replace(space, owed=owed, kept=due)
        return replace(space, owed=owed, kept=owed, most=space.most - space.most // LAST)

    def _promise(self, who: Principal, lines: Iterable[Space]) -> float:
        """The seconds after which there is room for one of theirs, in each of the lines."""
        caller = (who.tenant, who.owner)
        if seconds := self._promises.wait(caller):
            return seconds
        rate = self._rate if self._spent >= SURE else max(self._rate, 1 / PATIENCE)  # nobody knows yet
        ahead = max(line.ahead for line in lines)
        seconds = OFTEN + (MARGIN * ahead + SPARE) / rate if rate else math.inf  # it is seen at the next look
        if seconds > LONGEST or not self._promises.make(caller, later(now(), seconds)):
            return LONGEST  # nobody knows when
        return seconds
