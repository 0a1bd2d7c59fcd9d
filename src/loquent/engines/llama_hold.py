"""A row's hold on its weights: it has them loaded when they are wanted, or says why they are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loquent.domain.errors import LoquentError, Misconfigured, ModelLoading, NotInstalled, Unavailable
from loquent.domain.models import Model
from loquent.engines.llama_load import Unloadable, Weights, check_projector, knows_tools
from loquent.engines.llama_memory import Memory, Place

if TYPE_CHECKING:
    from loquent.engines import Options

PATIENCE = 20.0  # seconds that an ask waits for the model to be loaded

Stamp = tuple[tuple[int, int], ...]  # size and time of each file


class Hold:
    """The place of a row's weights, with the row's adapters over them."""

    def __init__(self, model: Model, options: Options, *, embeds: bool = False) -> None:
        folder = options.models_dir
        self._model = model
        self._scales = {_inside(folder, each.file, model): each.scale for each in model.adapters}
        projector = _inside(folder, model.projector, model) if model.projector and not embeds else None
        weights = Weights(folder / model.id, projector, embeds, model.context)
        self._memory: Memory = options.shared.get("llama") or options.shared.setdefault("llama", Memory(options))
        self._place: Place = self._memory.join(self, weights, tuple(self._scales))
        self._load: asyncio.Task[None] | None = None
        self._fault: tuple[Stamp, LoquentError] | None = None
        self._knows_tools: tuple[Stamp, bool] | None = None
        self._closed = False
        self.was_loaded = False
        self.patience = PATIENCE

    @property
    def place(self) -> Place:
        """Where the weights are in memory."""
        return self._place

    async def close(self) -> None:
        """Give the memory back, if no other row shares it; nothing of this row's may be running."""
        self._closed = True
        await self._memory.leave(self, self._place)
        if self._load is not None:
            await asyncio.wait([self._load])

    def serves(self) -> bool:
        """Whether an ask can begin now; ``wait`` for it otherwise."""
        return self._place.serves(self._scales)

    def begin(self) -> None:
        """Load it in the background. Raises what stands against it."""
        if not self.serves():
            self._loading()

    def check(self) -> None:
        """Raise what stands against an answer: that it is being loaded, or why it cannot be."""
        if self.serves():
            return
        if self._load is not None and not self._load.done():
            raise self._still_loading()
        self._look()

    async def wait(self) -> None:
        """Return when it is in memory and takes asks, which holds until the next await.

        Raises ModelLoading after ``patience`` seconds, or what stands against it.
        """
        now = asyncio.get_running_loop().time
        until = now() + self.patience
        self._place.waiting += 1
        try:
            while not self.serves():
                load = self._loading()
                if now() >= until:
                    raise self._still_loading()
                await asyncio.wait([load], timeout=until - now())
        finally:
            self._place.waiting -= 1
            self._memory.ring()

    def enter(self, call: object) -> None:
        """The call is worked on from now; ``wait`` has just returned."""
        self._place.calls.add(call)
        self._memory.touch(self._place)

    def leave(self, call: object) -> None:
        """In any thread: it is not, and nothing of it holds the server."""
        self._place.calls.discard(call)
        self._memory.ring()

    def scales(self) -> list[dict[str, Any]]:
        """How much of each adapter in memory belongs to this row, in llama.cpp's words."""
        return [{"id": id, "scale": self._scales.get(path, 0.0)} for id, path in enumerate(self._place.adapters)]

    async def knows_tools(self) -> bool:
        """Whether the model was taught to call functions."""
        stamp = self._stamp()
        if self._knows_tools is None or self._knows_tools[0] != stamp:
            self._knows_tools = stamp, await asyncio.to_thread(knows_tools, self._place.weights.path)
        return self._knows_tools[1]

    def is_closed(self) -> Unavailable:
        """What an ask is told that comes too late."""
        return Unavailable(f"model {self._model.name} is closed")

    def _loading(self) -> asyncio.Task[None]:
        """The load that runs; begun here if need be, and again once a bad file has been replaced."""
        if self._load is None or self._load.done():
            self._load = asyncio.create_task(self._bring(self._look()))
        return self._load

    def _look(self) -> Stamp:
        """What the files are like. Raises NotInstalled, and the fault that they are known for."""
        if self._closed:
            raise self.is_closed()
        stamp = self._stamp()
        if self._fault is not None and self._fault[0] == stamp:
            raise self._fault[1]
        return stamp

    async def _bring(self, stamp: Stamp) -> None:
        self._fault = None
        try:
            if (projector := self._place.weights.projector) is not None:
                await asyncio.to_thread(check_projector, projector)
            await self._memory.bring(self._place, self)
            self.was_loaded = True
        except Unloadable as fault:
            self._fault = stamp, self._told(fault)
        except Exception as fault:  # nobody would hear of it, and whoever waits begin it again for ever
            self._fault = stamp, Unavailable(f"model {self._model.name} cannot be loaded: {type(fault).__name__}")

    def _told(self, fault: Unloadable) -> LoquentError:
        name, file = self._model.name, fault.path.name
        if fault.is_sound:
            return NotInstalled(f"model {name}: {fault.why}")
        if fault.path == self._place.weights.path:
            return Unavailable(f"model {name}: {fault.why}; remove {file} and run: loquent models pull {name}")
        return Unavailable(f"model {name}: {fault.why}; put a sound {file} into the folder of the models")

    def _files(self) -> Iterator[tuple[str, Path]]:
        weights = self._place.weights
        yield "weights", weights.path
        if weights.projector is not None:
            yield "projector", weights.projector
        yield from (("adapter", path) for path in self._scales)

    def _stamp(self) -> Stamp:
        found, name = [], self._model.name
        for what, path in self._files():
            try:
                stat = path.stat()  # one look at a local disk
            except OSError:
                how = f"get them with: loquent models pull {name}" if what == "weights" else "put it beside the weights"
                are = "are" if what == "weights" else "is"
                raise NotInstalled(f"model {name}: its {what} ({path.name}) {are} not here; {how}") from None
            found.append((stat.st_size, stat.st_mtime_ns))
        return tuple(found)

    def _still_loading(self) -> ModelLoading:
        return ModelLoading(f"model {self._model.name} is being loaded", retry_after=2)


def _inside(folder: Path, file: str, model: Model) -> Path:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise Misconfigured(f"model {model.name}: {file!r} is not in the folder of the models")
    return folder / file
