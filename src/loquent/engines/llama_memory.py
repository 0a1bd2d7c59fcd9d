"""The models that are in memory: within a bound, the one that was asked longest ago makes room for the next.

One is loaded at a time. One that is answering is never unloaded; but where another waits for its room, it takes new
asks for ``HOLD`` seconds only, so that nobody waits for ever beside a model that is asked without a pause.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loquent.domain.log import Log
from loquent.engines.llama_load import Unloadable, Weights, check_adapter
from loquent.engines.llama_seats import Seats

if TYPE_CHECKING:
    from loquent.engines import Options

HOLD = 2.0  # seconds that a model is asked on though another waits for its room
SHARE = 0.75  # of the machine's memory, where nobody has set a bound
SETTING = "LOQUENT_LLAMA_MEMORY"
log = Log("loquent.llama")
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Place:
    """Weights that are in memory or can be."""

    def __init__(self, weights: Weights, slots: int) -> None:
        self.weights = weights
        self.seats = Seats(slots)
        self.server: Any = None  # of llama.cpp, while it is in memory
        self.adapters: tuple[Path, ...] = ()  # that it was loaded with
        self.calls: set[object] = set()  # that it works on, or that wait for a slot of it
        self.waiting = 0  # asks that wait for it to be loaded
        self.is_leaving = False  # it takes no new ask: another waits for its room
        self.is_fresh = False  # loaded, and those who waited for it have not had their turn
        self.rows: dict[object, tuple[Path, ...]] = {}  # who shares it, each with the adapters that it needs

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it this moment."""
        return not self.calls and not (self.is_fresh and self.waiting)

    def serves(self, adapters: Iterable[Path]) -> bool:
        """Whether it is in memory, takes asks, and has these adapters."""
        return self.server is not None and not self.is_leaving and all(path in self.adapters for path in adapters)


class Memory:
    """Who is in memory, of all embedded models of this process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._bound = options.memory if options.memory is not None else int(SHARE * machine_memory())
        self._is_firm = options.memory is not None  # an estimate does not forbid what nobody has forbidden
        self._places: dict[Weights, Place] = {}
        self._held: dict[Place, int] = {}  # bytes of those in memory, the one that was asked last at the end
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # while somebody waits for a change

    def join(self, row: object, weights: Weights, adapters: tuple[Path, ...]) -> Place:
        """The place of these weights, for one more row."""
        place = self._places.setdefault(weights, Place(weights, self._options.slots))
        place.rows[row] = adapters
        return place

    async def leave(self, row: object, place: Place) -> None:
        """A row needs it no more: after the last one nothing of it is in memory."""
        place.rows.pop(row, None)
        self.ring()
        if place.rows:
            return
        async with self._turn:
            if not place.rows:
                self._places.pop(place.weights, None)
                await self._unload(place)

    def touch(self, place: Place) -> None:
        """It is asked now."""
        place.is_fresh = False
        if len(self._held) > 1 and place in self._held:
            self._held[place] = self._held.pop(place)

    def ring(self) -> None:
        """In any thread: somebody may have become idle."""
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._changed.set)

    async def bring(self, place: Place, row: object) -> None:
        """Have it in memory with the adapters of that row. Raises Unloadable."""
        async with self._turn:
            needed = place.rows.get(row)
            if needed is None or place.serves(needed):
                return
            if place.server is not None:  # without these adapters: it comes again
                await self._empty(place)
            options, adapters = self._options, await asyncio.to_thread(_sound, place, needed)
            need = await asyncio.to_thread(place.weights.need, options, adapters)
            if self._is_firm and need > self._bound > 0:
                raise Unloadable(place.weights.path, self._too_large(need), is_sound=True)
            await self._make_room(need, place)
            if row not in place.rows:
                return
            self._held[place], began = need, time.monotonic()
            try:
                place.server, place.adapters = await _finished(_load(place.weights, options, adapters, needed))
                place.is_fresh, place.is_leaving = True, False
                place.seats = Seats(options.slots)  # which recall nothing
                log.info(
                    "model loaded",
                    file=place.weights.path.name,
                    seconds=time.monotonic() - began,
                    memory=_megabytes(need),
                )
            finally:
                if place.server is None:
                    self._held.pop(place, None)

    def _too_large(self, need: int) -> str:
        return (
            f"it needs some {_megabytes(need)}, and {SETTING} allows {_megabytes(self._bound)}; allow more, or fewer "
            f"slots (LOQUENT_LLAMA_SLOTS: {self._options.slots}) or tokens "
            f"(LOQUENT_LLAMA_CONTEXT: {self._options.context})"
        )

    async def _make_room(self, need: int, place: Place) -> None:
        """Unload whoever was asked longest ago, until there is room or nobody left."""
        now = asyncio.get_running_loop().time
        until = now() + HOLD
        while self._held and self._bound and sum(self._held.values()) + need > self._bound and place.rows:
            self._listen()
            if idle := next((each for each in self._held if each.is_idle), None):
                log.info("model unloaded to make room", file=idle.weights.path.name, bound=_megabytes(self._bound))
                await self._unload(idle)
            elif now() < until:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._changed.wait()
            else:
                next(iter(self._held)).is_leaving = True
                await self._changed.wait()
        self._loop = None
        for each in self._held:
            each.is_leaving = False

    async def _empty(self, place: Place) -> None:
        """Unload one, once those who have it have ended."""
        place.is_leaving = True
        while place.calls:
            self._listen()
            if place.calls:
                await self._changed.wait()
        self._loop = None
        await self._unload(place)

    def _listen(self) -> None:
        """From here on a change is heard; what was before is to be looked at."""
        self._loop = asyncio.get_running_loop()
        self._changed.clear()

    async def _unload(self, place: Place) -> None:
        if place.server is not None:
            server, place.server = [place.server], None
            place.is_leaving = place.is_fresh = False
            await _finished(asyncio.to_thread(server.clear))  # the last one who held it ends llama.cpp's loop
        self._held.pop(place, None)


def machine_memory() -> int:
    """Bytes of memory that this process can have: the machine's, or its container's."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CGROUPS:
        with suppress(OSError, ValueError):
            most = min(most, int(Path(path).read_text("ascii")))
    return most


def _sound(place: Place, needed: tuple[Path, ...]) -> tuple[Path, ...]:
    """The adapters that it is loaded with: these, and those of the other rows as far as they can be used."""
    for path in needed:
        check_adapter(path)
    found = list(needed)
    for path in {path: None for row in place.rows.values() for path in row if path not in needed}:
        with suppress(Unloadable):
            check_adapter(path)
            found.append(path)
    return tuple(found)


async def _load(
    weights: Weights, options: Options, adapters: tuple[Path, ...], needed: tuple[Path, ...]
) -> tuple[Any, tuple[Path, ...]]:
    try:
        return await asyncio.to_thread(weights.load, options, adapters), adapters
    except Unloadable:
        if adapters == needed:
            raise
    return await asyncio.to_thread(weights.load, options, needed), needed  # another row's adapter does not fit


async def _finished(work: Any) -> Any:
    """What it gives; it is waited for even where the one who waits is cancelled, since threads go on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _megabytes(size: int) -> str:
    return f"{-(-size // (1 << 20))} MB"
