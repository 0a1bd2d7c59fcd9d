"""A Celery worker inside this process, in a thread: monitors see it like any other; signals are left to us."""

from __future__ import annotations

import os
import socket
import threading

from celery import Celery as App
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations
from celery.worker import WorkController, state
from kombu.asynchronous import set_event_loop

STOP = 5.0  # seconds that it has to end in; it looks each second whether it should


class Consumer:
    """Takes messages in. One in a process: Celery keeps what tells it to stop in a global."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)

    def start(self) -> None:
        """Begin; a broker that is away is tried again for as long as it takes."""
        state.should_stop = None
        self._thread.start()

    def close(self) -> None:
        """Take no more."""
        state.should_stop = 0
        self._thread.join(STOP)

    def _run(self) -> None:
        hostname = f"loquent-{os.getpid()}@{socket.gethostname()}"
        setup_worker_optimizations(self._app, hostname)  # without it, threads ask whichever application is current
        worker = WorkController(
            app=self._app,
            hostname=hostname,
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
        )
        try:
            worker.start()
        finally:
            reset_worker_optimizations(self._app)
            set_event_loop(None)  # it is another global, and closed by now
