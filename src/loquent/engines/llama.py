"""The embedded model: llama.cpp's own server loop in this process, many answers at once in one batch.

Its calls block, so each running answer has a thread, as many as there are slots; the others wait in line. Tokens come
over a queue to the event loop, and every token asks back whether somebody still listens.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from loquent.domain.errors import EngineBusy, EngineFailed, EngineTimeout, Invalid, LoquentError, Misconfigured
from loquent.domain.models import EMBEDDINGS, Model, Timeouts
from loquent.engines import llama_texts
from loquent.engines.llama_answer import Answer, refused
from loquent.engines.llama_ask import FEW_SHOT, Request, request, seated
from loquent.engines.llama_hold import Hold
from loquent.engines.relay import Relay
from loquent.ports.engine import Ask, Chunk

if TYPE_CHECKING:
    from loquent.engines import Options

LINE = 256  # asks that may wait for a slot; one more is sent away


class Llama:
    """One row. Its weights are in memory once, whoever else is made of them; those for vectors are there beside.

    A seed gives the same answer again, alone or among others, its prompt new or recalled: so it was in every test, but
    sums of floats taken in another order can differ in their last bit, and llama.cpp does not promise the order.
    """

    def __init__(self, model: Model, options: Options) -> None:
        if model.template not in (None, FEW_SHOT):
            raise Misconfigured(f"model {model.name}: template {model.template!r} is not known; it may be {FEW_SHOT}")
        self._model, self._options = model, options
        kinds = [model.abilities == {EMBEDDINGS}, *([True] if EMBEDDINGS in model.abilities else [])]
        self._holds = {embeds: Hold(model, options, embeds=embeds) for embeds in kinds}
        self._main = self._holds[kinds[0]]
        self._pool = ThreadPoolExecutor(options.slots, thread_name_prefix=f"llama-{model.name}")
        self._calls: set[_Call] = set()
        self._typical = 2.0  # seconds that an answer has a slot, lately
        self._closed = False

    async def open(self) -> None:
        """Start to load, where it is wanted at the start and the weights are here; else the first ask does."""
        if self._is_eager:
            self._begin()

    async def close(self) -> None:
        """End every answer, give the memory back."""
        self._closed = True
        for call in list(self._calls):
            call.fail(self._main.is_closed())
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        for hold in self._holds.values():
            await hold.close()

    async def ready(self) -> None:
        """Whether a call would be answered: at once, or, where nobody needs the model yet, once it is loaded."""
        if self._is_eager and not self._main.was_loaded:
            self._main.begin()
        self._main.check()

    def running(self) -> int:
        """Asks that have a slot or wait for one."""
        return len(self._calls)

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """The answer; see the port for what always holds."""
        if self._closed:
            raise self._main.is_closed()
        call = await (self._texts(ask) if ask.texts else self._chat(ask))
        try:
            async for chunk in call.chunks(ask.model.name, call.left_of(ask.model.timeouts)):
                yield chunk
        finally:
            call.leave()

    async def _chat(self, ask: Ask) -> _Call:
        hold = self._holds.get(False)
        if hold is None:
            raise Invalid(f"the model {ask.model.name!r} makes vectors and answers nothing", field="model")
        asked = request(ask, knows_tools=bool(ask.tools or _has_calls(ask)) and await hold.knows_tools())
        seats = hold.place.seats
        call = _Call(Answer(asked, streamed=ask.streamed))
        try:
            if seats.is_long(asked.said):
                await call.wait_for(seats.turn, ask.model)
            if not hold.serves():
                await hold.wait()
            body = asked.wire(hold.scales())
            return self._admit(hold, call, lambda: self._answer(hold, asked, body, call))
        except BaseException:
            call.pass_on()
            raise

    async def _texts(self, ask: Ask) -> _Call:
        hold = self._holds.get(True)
        if hold is None:
            raise Invalid(f"the model {ask.model.name!r} makes no vectors", field="model")
        llama_texts.check(ask)
        if not hold.serves():
            await hold.wait()
        call = _Call(None)
        return self._admit(hold, call, lambda: self._vectors(hold, ask.texts, call))

    @property
    def _is_eager(self) -> bool:
        return self._options.at_start(self._model.name)

    def _begin(self) -> None:
        try:
            self._main.begin()
        except LoquentError:  # every ask says it
            return

    def _admit(self, hold: Hold, call: _Call, work: Callable[[], None]) -> _Call:
        if self._closed:
            raise self._main.is_closed()
        waiting = len(self._calls) - self._options.slots
        if waiting >= LINE:
            retry_after = max(1.0, self._typical * waiting / self._options.slots)
            raise EngineBusy(f"model {self._model.name} has {waiting} asks waiting", retry_after=round(retry_after))
        self._calls.add(call)
        hold.enter(call)
        future = self._pool.submit(self._work, work, call)

        def ended(_: object) -> None:
            self._calls.discard(call)
            hold.leave(call)

        future.add_done_callback(ended)
        call.give_up = future.cancel
        return call

    def _work(self, work: Callable[[], None], call: _Call) -> None:
        """In a thread of its own: one answer, from the slot to the last token."""
        if call.left:
            return
        begun = time.monotonic()
        try:
            work()
        except LoquentError as fault:
            fault.__cause__ = fault.__context__ = fault.__traceback__ = None  # they would keep llama.cpp's loop alive
            call.fail(fault)
        except Exception as fault:
            call.fail(EngineFailed(f"llama.cpp failed: {type(fault).__name__}"))
        call.end()
        self._typical += 0.1 * (time.monotonic() - begun - self._typical)

    def _answer(self, hold: Hold, asked: Request, body: bytes, call: _Call) -> None:
        server = hold.place.server
        handle = server.handle_chat_completions if asked.chat else server.handle_completions
        seats = hold.place.seats
        seat = seats.take(asked.said, is_long=call.turn is not None)
        call.has_read = lambda: seats.read(seat)
        try:
            handle(seated(body, seat), call.take)
        except ValueError as fault:  # what llama.cpp takes for the asker's fault; its words may quote the prompt
            raise refused(asked) from fault
        finally:
            seats.leave(seat)

    def _vectors(self, hold: Hold, texts: tuple[str, ...], call: _Call) -> None:
        for chunk in llama_texts.chunks(texts, self._options.slots, hold.place.server.handle_embeddings):
            if call.left:
                return
            call.put(chunk)
        call.whole = True


class _Call(Relay):
    """One answer on its way from its thread to the event loop."""

    def __init__(self, answer: Answer | None) -> None:
        super().__init__()
        self.turn: asyncio.Lock | None = None  # of those with a long prompt, which it has until that is read
        self.give_up: Callable[[], bool] = bool  # ends the wait for a slot
        self.has_read: Callable[[], None] | None = None  # told, in the thread, when llama.cpp has read the prompt
        self.whole = False  # it has come to its end
        self._answer = answer
        self._waited = 0.0  # seconds for that turn

    async def wait_for(self, turn: asyncio.Lock, model: Model) -> None:
        """In the loop: have the turn. Raises EngineTimeout."""
        began = self._loop.time()
        try:
            async with asyncio.timeout(model.timeouts.total):
                await turn.acquire()
        except TimeoutError as late:
            raise EngineTimeout(f"model {model.name}: long prompts before this one took too long") from late
        self.turn, self._waited = turn, self._loop.time() - began

    def left_of(self, timeouts: Timeouts) -> Timeouts:
        """What is left of its time."""
        return replace(timeouts, total=max(0.001, timeouts.total - self._waited)) if self._waited else timeouts

    def pass_on(self) -> None:
        """In the loop: the next with a long prompt may have the turn."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.release()

    def take(self, event: bytes) -> bool:
        """In the thread, for each of llama.cpp's events: True ends the answer there and frees the slot."""
        if self.left or self._answer is None:
            return True
        try:
            said = json.loads(event)
            if self.has_read is not None and "prompt_progress" not in said:
                self.has_read()
                self.has_read = None
                self._loop.call_soon_threadsafe(self.pass_on)
            self.put(*self._answer.take(said))
            self.whole = self._answer.finished
        except LoquentError as fault:
            self.fail(fault)
        except Exception as fault:  # it would be lost in native code, and the listener wait for ever
            self.fail(EngineFailed(f"llama.cpp said what is not understood: {type(fault).__name__}"))
        return self.left

    def end(self) -> None:
        """In the thread: there is no more."""
        if not self.whole and not self.left:
            self.fail(EngineFailed("llama.cpp ended its answer in the middle"))
        self.put(None)

    def leave(self) -> None:
        """In the loop: nobody listens any more."""
        self.left = True
        self.give_up()
        self.pass_on()


def _has_calls(ask: Ask) -> bool:
    return any(message.calls or message.call_id for message in ask.messages)
