"""Any causal language model by Hugging Face transformers, in this process: from a folder, or by its hub id.

Many answers run in one batch, in a thread of the model's own; their tokens come over a relay to the event loop. Only
safetensors are read, and no code that comes with a model is run. Nothing of torch is imported before ``open``.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from loquent.domain.errors import EngineBusy, Invalid, Misconfigured, ModelLoading, Unavailable
from loquent.domain.models import Model
from loquent.engines.relay import Relay
from loquent.ports.engine import Ask, Chunk

if TYPE_CHECKING:
    from loquent.engines import Options
    from loquent.engines.transformers_model import Loaded

NEEDS = ("torch", "transformers")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
PATIENCE = 20.0  # seconds that an ask waits for the model to be loaded
AGAIN = 10  # seconds after which a load from the hub that failed is tried again
LINE = 256  # asks that may wait for a slot; one more is sent away


class Transformers:
    """One model in memory.

    A seed gives the same answer again; among others its scores are reckoned in another order and can differ in their
    last bits, so that where two tokens are as likely another one may come.
    """

    def __init__(self, model: Model, options: Options) -> None:
        for name in NEEDS:
            if find_spec(name) is None:
                raise ModuleNotFoundError(f"there is no {name}", name=name)
        if model.template is not None:
            raise Misconfigured(f"model {model.name}: engine transformers takes no template but the tokenizer's own")
        self._model, self._options = model, options
        self._where = _place(model, options.models_dir)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"transformers-{model.name}")
        self._load: asyncio.Future[Loaded] | None = None
        self._found: object = None  # what there was to load, or could not be
        self._asks = 0  # that run or wait
        self._closed = False

    async def open(self) -> None:
        """Start to load."""
        if isinstance(self._where, Path) and not (self._where / "config.json").is_file():
            raise Misconfigured(f"model {self._model.name}: {self._model.id} is no folder of a model: no config.json")
        self._loading()

    async def close(self) -> None:
        """End every answer, give the memory back."""
        self._closed = True
        load, self._load = self._load, None
        await asyncio.to_thread(self._pool.shutdown)
        if load is not None and load.done() and not load.cancelled() and load.exception() is None:
            await asyncio.to_thread(load.result().runner.close)
        del load
        await asyncio.to_thread(gc.collect)  # modules point at each other

    async def ready(self) -> None:
        """Whether the model is in memory."""
        load = self._loading()
        if not load.done():
            raise self._still_loading()
        load.result()

    def running(self) -> int:
        """Asks that have a slot or wait for one."""
        return self._asks

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """The answer; see the port for what always holds."""
        _check(ask)
        load = self._loading()
        if not load.done():
            await asyncio.wait([load], timeout=PATIENCE)
        if self._closed:
            raise self._is_closed()
        if not load.done():
            raise self._still_loading()
        loaded, relay = load.result(), Relay()
        waiting = self._asks - self._options.slots
        if waiting >= LINE:
            retry_after = max(1.0, loaded.runner.typical * waiting / self._options.slots)
            raise EngineBusy(f"model {self._model.name} has {waiting} asks waiting", retry_after=round(retry_after))
        self._asks += 1
        try:
            loop = asyncio.get_running_loop()
            loaded.runner.submit(await loop.run_in_executor(self._pool, loaded.answer, ask, relay))
            async for chunk in relay.chunks(ask.model.name, ask.model.timeouts):
                yield chunk
        finally:
            relay.left = True
            self._asks -= 1

    def _loading(self) -> asyncio.Future[Loaded]:
        """The load that runs or has ended; begun here if need be, and again once what it was of has changed."""
        if self._closed:
            raise self._is_closed()
        load = self._load
        if load is not None and (not load.done() or load.exception() is None):
            return load
        found = _found(self._where)
        if load is None or found != self._found:
            self._found = found
            load = asyncio.get_running_loop().run_in_executor(self._pool, self._load_now)
            load.add_done_callback(lambda load: load.cancelled() or load.exception())  # looked at: no warning
            self._load = load
        return load

    def _load_now(self) -> Loaded:
        try:
            from loquent.engines.transformers_model import load  # seconds, and a few hundred megabytes
        except Exception as broken:  # parts that do not fit each other; native ones fail in many ways
            raise Unavailable(f"model {self._model.name}: torch or transformers cannot be imported") from broken
        return load(self._where, self._model, self._options)

    def _is_closed(self) -> Unavailable:
        return Unavailable(f"model {self._model.name} is closed")

    def _still_loading(self) -> ModelLoading:
        return ModelLoading(f"model {self._model.name} is being loaded", retry_after=2)


def _place(model: Model, models_dir: Path) -> Path | str:
    """A folder, its path from the models' folder on; otherwise an id of the hub."""
    folder = models_dir / model.id
    if folder.is_dir() or Path(model.id).is_absolute() or model.id.startswith("."):
        return folder
    if not HUB_ID.fullmatch(model.id):
        raise Misconfigured(f"model {model.name}: {model.id!r} is neither a folder nor an id of the hub (owner/name)")
    return model.id


def _found(where: Path | str) -> object:
    """What tells a folder that was mended from the one before; of the hub nothing is known but that time goes by."""
    if isinstance(where, str):
        return time.monotonic() // AGAIN
    files = [(file.name, file.stat()) for file in where.glob("*") if file.is_file()]  # some looks at a local disk
    return {(name, stat.st_size, stat.st_mtime_ns) for name, stat in files}


def _check(ask: Ask) -> None:
    wanted = ask.parameters.response_format
    if wanted is not None and wanted.get("type") != "text":
        raise Invalid("this engine cannot keep to a form of the answer", field="response_format")
    if any(message.pictures for message in ask.messages):
        raise Invalid("this engine sees no pictures", field="messages")
