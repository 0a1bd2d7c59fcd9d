"""The embedded model: llama.cpp's own server loop in this process, many answers at once in one batch.

Its calls block, so each running answer has a thread, as many as there are slots; the others wait in line. Tokens come
over a queue to the event loop, and every token asks back whether somebody still listens.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xllamacpp

from loquent.domain.errors import (
    EngineBusy,
    EngineFailed,
    Invalid,
    LoquentError,
    Misconfigured,
    ModelLoading,
    NotInstalled,
    Unavailable,
)
from loquent.domain.models import Model
from loquent.engines.llama_ask import FEW_SHOT, Answer, Request, request
from loquent.engines.llama_gguf import header
from loquent.engines.relay import Relay
from loquent.engines.threads import default_threads
from loquent.ports.engine import Ask, Chunk

if TYPE_CHECKING:
    from loquent.engines import Options

PATIENCE = 20.0  # seconds that an ask waits for the model to be loaded
LINE = 256  # asks that may wait for a slot; one more is sent away
BATCH = 128  # tokens of a prompt that are read at a stretch: the others' next token, and a hang-up, wait as long


class Llama:
    """One model in memory.

    A seed gives the same answer again, alone or among others, its prompt new or recalled: so it was in every test, but
    sums of floats taken in another order can differ in their last bit, and llama.cpp does not promise the order.
    """

    def __init__(self, model: Model, options: Options) -> None:
        if model.template not in (None, FEW_SHOT):
            raise Misconfigured(f"model {model.name}: template {model.template!r} is not known; it may be {FEW_SHOT}")
        self._model, self._options = model, options
        self._path = options.models_dir / model.id
        self._pool = ThreadPoolExecutor(options.slots, thread_name_prefix=f"llama-{model.name}")
        self._calls: set[_Call] = set()
        self._load: asyncio.Future[Any] | None = None
        self._file: tuple[int, int] | None = None  # size and time of what was loaded, or could not be
        self._typical = 2.0  # seconds that an answer has a slot, lately
        self._closed = False

    async def open(self) -> None:
        """Start to load, where the weights are here; without them every ask says how to get them."""
        if self._path.is_file():  # one look at a local disk
            self._loading()

    async def close(self) -> None:
        """End every answer, give the memory back."""
        self._closed = True
        for call in list(self._calls):
            call.fail(self._is_closed())
        load, self._load = self._load, None
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        if load is not None and load.done() and not load.cancelled() and load.exception() is None:
            server = [load.result()]
            del load
            await asyncio.to_thread(server.clear)  # the last one who held it ends llama.cpp's loop

    async def ready(self) -> None:
        """Whether the model is in memory."""
        load = self._loading()
        if not load.done():
            raise self._still_loading()
        load.result()

    def running(self) -> int:
        """Asks that have a slot or wait for one."""
        return len(self._calls)

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """The answer; see the port for what always holds."""
        asked = request(ask)
        load = self._loading()
        if not load.done():
            await asyncio.wait([load], timeout=PATIENCE)
        if self._closed:
            raise self._is_closed()
        if not load.done():
            raise self._still_loading()
        call = self._admit(load.result(), asked, ask)
        try:
            async for chunk in call.chunks(ask.model.name, ask.model.timeouts):
                yield chunk
        finally:
            call.leave()

    def _loading(self) -> asyncio.Future[Any]:
        """The load that runs or has ended; begun here if need be, and again once a bad file has been replaced."""
        if self._closed:
            raise self._is_closed()
        if self._load is not None and (not self._load.done() or self._load.exception() is None):
            return self._load
        try:
            stat = self._path.stat()
        except OSError:
            name = self._model.name
            raise NotInstalled(
                f"model {name}: its weights ({self._path.name}) are not here; get them with: loquent models pull {name}"
            ) from None
        if self._load is None or self._file != (stat.st_size, stat.st_mtime_ns):
            self._file = (stat.st_size, stat.st_mtime_ns)
            loop = asyncio.get_running_loop()
            self._load = loop.run_in_executor(self._pool, _load, self._path, self._model, self._options)
            self._load.add_done_callback(lambda load: load.cancelled() or load.exception())  # looked at: no warning
        return self._load

    def _is_closed(self) -> Unavailable:
        return Unavailable(f"model {self._model.name} is closed")

    def _still_loading(self) -> ModelLoading:
        return ModelLoading(f"model {self._model.name} is being loaded", retry_after=2)

    def _admit(self, server: Any, asked: Request, ask: Ask) -> _Call:
        waiting = len(self._calls) - self._options.slots
        if waiting >= LINE:
            retry_after = max(1.0, self._typical * waiting / self._options.slots)
            raise EngineBusy(f"model {self._model.name} has {waiting} asks waiting", retry_after=round(retry_after))
        call = _Call(Answer(asked, streamed=ask.streamed))
        self._calls.add(call)
        future = self._pool.submit(self._work, server, asked, call)
        future.add_done_callback(lambda _: self._calls.discard(call))
        call.give_up = future.cancel
        return call

    def _work(self, server: Any, asked: Request, call: _Call) -> None:
        """In a thread of its own: one answer, from the slot to the last token."""
        if call.left:
            return
        begun = time.monotonic()
        handle = server.handle_chat_completions if asked.chat else server.handle_completions
        try:
            handle(asked.body, call.take)
        except ValueError:  # what llama.cpp takes for the asker's fault; its words may quote the prompt
            call.fail(
                Invalid("llama.cpp cannot do what is asked", field="response_format" if asked.constrained else "")
            )
        except Exception as fault:
            call.fail(EngineFailed(f"llama.cpp failed: {type(fault).__name__}"))
        call.end()
        self._typical += 0.1 * (time.monotonic() - begun - self._typical)


class _Call(Relay):
    """One answer on its way from its thread to the event loop."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.give_up: Callable[[], bool] = bool  # ends the wait for a slot
        self._answer = answer

    def take(self, event: bytes) -> bool:
        """In the thread, for each of llama.cpp's events: True ends the answer there and frees the slot."""
        if self.left:
            return True
        try:
            self.put(*self._answer.take(json.loads(event)))
        except LoquentError as fault:
            self.fail(fault)
        except Exception as fault:  # it would be lost in native code, and the listener wait for ever
            self.fail(EngineFailed(f"llama.cpp said what is not understood: {type(fault).__name__}"))
        return self.left

    def end(self) -> None:
        """In the thread: there is no more."""
        if not self._answer.finished and not self.left:
            self.fail(EngineFailed("llama.cpp ended its answer in the middle"))
        self.put(None)

    def leave(self) -> None:
        """In the loop: nobody listens any more."""
        self.left = True
        self.give_up()


def _load(path: Path, model: Model, options: Options) -> Any:
    """In a thread: the model in memory, its loop running. Raises Unavailable."""
    again = f"remove {path.name} and run: loquent models pull {model.name}"
    try:
        known = header(path).context
    except (OSError, ValueError) as damaged:
        raise Unavailable(f"model {model.name}: {damaged}; {again}") from damaged
    context = min(most for most in (options.context, model.context, known) if most)
    try:
        return xllamacpp.Server(_settings(path, context, options))
    except Exception as fault:
        raise Unavailable(
            f"model {model.name}: llama.cpp cannot load {path.name}; it is damaged, or memory is short "
            f"({options.slots} slots of {context} tokens); {again}"
        ) from fault


def _settings(path: Path, context: int, options: Options) -> Any:
    threads = options.threads or default_threads()
    chosen = xllamacpp.CommonParams()
    chosen.model.path = str(path)
    chosen.n_parallel, chosen.n_ctx = options.slots, options.slots * context
    chosen.n_batch = chosen.n_ubatch = BATCH
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = threads
    chosen.ctx_shift = False  # what does not fit is said, never dropped from the middle
    chosen.cache_ram_mib = 0
    chosen.verbosity = -1  # its log would go to stderr past ours
    # It insists on listening: on loopback, on a free port, for nobody who does not know this key.
    chosen.hostnames, chosen.port, chosen.api_keys = ["127.0.0.1"], 0, [secrets.token_urlsafe(32)]
    chosen.n_threads_http = 1
    chosen.ui = chosen.endpoint_slots = chosen.endpoint_props = False
    return chosen
