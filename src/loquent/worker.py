"""The worker: everything that was built, and nothing but jobs run, until told to stop.

``loquent worker`` is such a process; ``celery -A loquent.worker worker`` is another, in which Celery takes the
messages in and the same worker does the jobs, all of them in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from loquent import queues
from loquent.domain.errors import Misconfigured
from loquent.domain.log import CONTENT, Log
from loquent.probe import probed
from loquent.wiring import Services, build, load_settings, warn

if TYPE_CHECKING:
    from loquent.ports.queue import Queue
    from loquent.queues.celery import Celery
    from loquent.settings import Settings

log = Log("loquent.worker")
POOLS = ("celery.concurrency.thread", "celery.concurrency.solo")


async def work(services: Services, told: asyncio.Event) -> None:
    """Take jobs until the event is set; then hand back what is not over within the settings' bound."""
    async with probed(services) as probe:
        await services.open()
        probe.is_open = True
        log.info("taking jobs", slots=services.settings.job_slots)
        try:
            await told.wait()
            await services.leave()
            await services.drain(services.settings.stop_seconds)
        finally:
            await services.close()


def __getattr__(name: str) -> Any:
    """``app``, made when Celery's command asks for it: to import this module does nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = made = _app(load_settings())
    return made


def _app(settings: Settings) -> Any:
    """The application for Celery's command. What it needs is built where a worker starts, and nowhere else."""
    if settings.queue.startswith("local:"):
        raise Misconfigured("Celery needs a broker: set LOQUENT_QUEUE or CELERY_BROKER_URL, or run loquent worker")
    from celery import signals

    if not settings.log_content:  # Celery sets its own log up
        logging.getLogger(CONTENT).setLevel(logging.CRITICAL + 1)
    queue: Celery = queues.connect(settings.queue_url)  # type: ignore[assignment]  # as every scheme but local: is
    queue.is_fed = True
    beside = Beside(settings, queue)
    signals.worker_init.connect(_check_pool, weak=False)
    signals.celeryd_after_setup.connect(beside.begin, weak=False)
    signals.worker_shutdown.connect(beside.end, weak=False)
    return queue.app


def _check_pool(sender: Any, **_: Any) -> None:
    """All jobs wait in one event loop: processes of their own, or green threads, would each need another."""
    from celery.concurrency import get_implementation

    if get_implementation(sender.pool_cls).__module__ not in POOLS:
        raise SystemExit("loquent: jobs wait in one event loop; leave --pool out, or say --pool threads")


class Beside:
    """The services in an event loop of their own, in a thread beside Celery's consumer."""

    def __init__(self, settings: Settings, queue: Queue) -> None:
        self._settings = settings
        self._queue = queue
        self._thread: threading.Thread | None = None
        self._tell: Future[Any] = Future()

    def begin(self, **_: Any) -> None:
        """Take jobs, whether or not the broker answers."""
        services = build(self._settings, queue=self._queue)
        warn(services)
        self._thread = threading.Thread(target=self._run, args=(services,), name="jobs", daemon=True)
        self._thread.start()

    def end(self, **_: Any) -> None:
        """Hand back what is not over within the settings' bound; returns when that is done."""
        if self._thread is not None and not self._tell.done():
            self._tell.set_result(None)
            self._thread.join()

    def _run(self, services: Services) -> None:
        from celery.worker import state

        try:
            asyncio.run(self._work(services))
        except Exception:
            log.exception("the worker has ended")
            state.should_stop = 1  # the exit code of the whole process

    async def _work(self, services: Services) -> None:
        told = asyncio.Event()
        asyncio.wrap_future(self._tell).add_done_callback(lambda _: told.set())
        await work(services, told)
