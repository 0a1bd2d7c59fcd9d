"""The worker: everything that was built, and nothing but jobs run, until told to stop.

``loquent worker`` is such a process; ``celery -A loquent.worker worker`` is another, in which Celery takes the
messages in and the same worker does the jobs, all of them in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loquent import queues
from loquent.checks import WORKER, check, warn
from loquent.domain.errors import LoquentError, Misconfigured
from loquent.domain.log import Log
from loquent.probe import probed
from loquent.settings.environment import load_settings
from loquent.web.observe import configure_logs
from loquent.wiring import Services, build

if TYPE_CHECKING:
    from loquent.ports.queue import Queue
    from loquent.queues.celery import Celery
    from loquent.settings import Settings

log = Log("loquent.worker")
POOLS = ("celery.concurrency.thread", "celery.concurrency.solo")


async def work(services: Services, told: asyncio.Event) -> None:
    """Take jobs until the event is set; then hand back what is not over within the settings' bound."""
    seconds = services.settings.stop_seconds
    async with probed(services) as probe:
        await services.open()
        probe.is_open = True
        log.info("taking jobs", slots=services.settings.job_slots)
        try:
            await told.wait()
            log.info("stopping", running=len(services.runner.lives), seconds=seconds)
            await services.leave()
            await services.drain(seconds)
        finally:
            await services.close()
            log.info("stopped")


def __getattr__(name: str) -> Any:
    """``app``, made when Celery's command asks for it: to import this module does nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _in_a_line():
        globals()["app"] = made = _app(load_settings())
    return made


@contextmanager
def _in_a_line() -> Iterator[None]:
    """End Celery's command as ours ends: for what we raise on purpose one line, and the same exit code."""
    try:
        yield
    except (LoquentError, OSError) as error:
        raise SystemExit(_said(error)) from None


def _said(error: LoquentError | OSError) -> int:
    """Say on stderr why it ends; the exit code."""
    print(f"loquent: {error}", file=sys.stderr)
    return 2 if isinstance(error, Misconfigured) else 1


def _app(settings: Settings) -> Any:
    """The application for Celery's command. What it needs is built where a worker starts, and nowhere else."""
    if settings.queue.startswith("local:"):
        raise Misconfigured("Celery needs a broker: set LOQUENT_QUEUE or CELERY_BROKER_URL, or run loquent worker")
    from celery import signals

    queue: Celery = queues.connect(settings.queue_url)  # type: ignore[assignment]  # as every scheme but local: is
    queue.is_fed = True
    beside = Beside(settings, queue)
    signals.celeryd_init.connect(beside.take_logs, weak=False)
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

    def take_logs(self, **_: Any) -> None:
        """Have a worker's log be ours; Celery's other commands, which make no worker, keep theirs."""
        from celery import signals

        signals.setup_logging.connect(self._log, weak=False)

    def _log(self, loglevel: int, logfile: str | None, **_: Any) -> None:
        """In place of Celery's own: where ``-f`` names a file, it is that one; ``-l`` is for Celery's own lines."""
        configure_logs(replace(self._settings, log_file=logfile) if logfile else self._settings)
        for name in ("celery", "kombu"):
            logging.getLogger(name).setLevel(loglevel)

    def begin(self, **_: Any) -> None:
        """Take jobs, whether or not the broker answers."""
        with _in_a_line():
            check(self._settings, WORKER)
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
        except (LoquentError, OSError) as error:
            state.should_stop = _said(error)  # the exit code of the whole process
        except Exception:
            log.exception("the worker has ended")
            state.should_stop = 1

    async def _work(self, services: Services) -> None:
        told = asyncio.Event()
        asyncio.wrap_future(self._tell).add_done_callback(lambda _: told.set())
        await work(services, told)
