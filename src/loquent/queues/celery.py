"""Celery as the queue: rings go out as messages, and come in where this process takes jobs.

A message says "look" and no more; the record in the store is the job. So a message is done with as soon as a worker
has heard it, and neither its loss nor its coming twice nor its lateness changes what is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping

from celery import Celery as App

from loquent.domain.errors import Unavailable
from loquent.domain.urls import check_server
from loquent.queues.celery_app import make_app
from loquent.queues.celery_consumer import Consumer
from loquent.queues.celery_publisher import Publisher, Ring, reach, ring_of

HOLD = 1.0  # seconds for which a message waits for a free hand here, before it goes on to another worker


class Celery:
    """A queue over whatever Celery speaks. The broker may be away: rings wait, are bounded, and are lost at last."""

    def __init__(self, url: str) -> None:
        check_server(url, "LOQUENT_QUEUE")
        self.app: App = make_app(url, self.hear)
        self.is_fed = False  # by Celery's own command: nothing of ours need consume
        self._publisher = Publisher(self.app, away=self._wake)
        self._consumer: Consumer | None = None
        self._bell = asyncio.Event()
        self._free = threading.Event()  # somebody waits here, with a free hand
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Nothing is connected before the first ring, or the first wait."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Send what has been rung, within a second or two; take in no more."""
        self._bell.set()
        await asyncio.to_thread(self._publisher.close)
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)
            self._consumer = None
        self._loop = None

    async def ready(self) -> None:
        """See the port."""
        if why := await asyncio.to_thread(self._publisher.why_away):
            raise Unavailable(f"the broker does not answer: {why}")

    async def check(self) -> None:
        """See the port."""
        try:
            await asyncio.to_thread(reach, self.app)
        except Exception as error:  # whatever a transport raises: each has errors of its own
            raise Unavailable(f"the broker does not answer: {str(error) or repr(error)}") from error

    def figures(self) -> Mapping[str, float]:
        """See Watched."""
        return {"rings_waiting": self._publisher.waiting, "rings_lost": self._publisher.lost}

    async def ring(self, *ids: str) -> None:
        """Have these sent, soon and by a thread: nobody waits for a broker."""
        for id in ids:
            self._publisher.put(ring_of(id))

    async def wait(self, seconds: float) -> None:
        """Return at a ring, or after that many seconds. Who waits has a free hand, and is sent messages."""
        if self._consumer is None and not self.is_fed:
            self._consumer = Consumer(self.app)
            self._consumer.start()
        self._free.set()
        try:
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        except TimeoutError:
            return
        finally:
            self._free.clear()
        self._bell.clear()

    def hear(self, ring: Ring) -> None:
        """A message has come, in a thread: wake who waits; where nobody does for a while, another worker may have it.

        So a worker with full hands swallows no ring that an idle one should hear.
        """
        if self._free.wait(HOLD):
            self._wake()
        else:
            self._publisher.put(ring)

    def _wake(self) -> None:
        """Ring here, from any thread; also where the broker is away and this process could do the work itself."""
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(self._bell.set)
