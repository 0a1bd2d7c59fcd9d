"""``loquent serve``: the server, until it is told to stop; then streams end with an event, jobs are handed back."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loquent.cli.listening import BACKLOG, bound, leave_to_others, listen
from loquent.cli.parent import Parent
from loquent.cli.place import Place
from loquent.domain.log import Log

if TYPE_CHECKING:
    from loquent.settings import Settings
    from loquent.web.edge import Edge

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = "a second signal ends them at once"
GARBAGE = 10_000  # objects made between two walks of the collector: a request makes hundreds, nearly none in circles
LAST_WORDS = 2.0  # seconds in which answers that have ended must have been sent
CLOSING = 3.0  # seconds in which connections without a request are closed
LAST_COME = 0.5  # seconds in which whoever came before the door was shut has been let in
RELIEVED = 1.0  # seconds in which callers are told to come to the one that serves in this one's place
OPEN_FILES = 65_536
MMAP_THRESHOLD, LARGE = -3, 1 << 20  # glibc's name for the size from which a block is one of its own, and ours
STARTED = 2.0  # seconds after which the server has started its threads
HEADER_SECONDS = 10  # in which a connection must have sent its headers


def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on (HOST).", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on (PORT).", show_default="8000")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve on that port (LOQUENT_WORKERS).", show_default="1")
    ] = None,
    child: Annotated[str, typer.Option(help="One of several: its place among them.", hidden=True)] = "",
) -> None:
    """Serve the API, the page and the jobs. Everything else is set by the environment: see docs/settings.md."""
    given = {"LOQUENT_HOST": host, "LOQUENT_PORT": port, "LOQUENT_WORKERS": workers}
    environ = {**os.environ, **{name: str(value) for name, value in given.items() if value is not None}}
    from loquent.checks import SERVE, check, refuse
    from loquent.settings.environment import load_settings
    from loquent.web.observe import configure_logs

    settings = load_settings(environ)
    configure_logs(settings, shares_output=settings.has_siblings)
    if child:
        place = Place.read(child)
        refuse(settings, SERVE)  # what the parent was started with may have changed since
        serve_here(settings, socket.socket(fileno=place.fd), place)
        return
    check(settings, SERVE, environ)
    if settings.has_siblings:
        raise typer.Exit(asyncio.run(Parent(settings, environ, bound(settings.host, settings.port)).run()))
    serve_here(settings, bound(settings.host, settings.port))


def serve_here(settings: Settings, listening: socket.socket, place: Place | None = None) -> None:
    """Serve from this process on that socket, until it is told to stop."""
    from loquent.checks import warn
    from loquent.web.app import create_app
    from loquent.wiring import build

    services = build(settings)
    if place is None or place.number == 0:
        warn(services)
    run(_serve(create_app(services), settings, listening, place))


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run it on the quickest loop there is here."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def until_told(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that is set by the first signal to stop; a second one stops without waiting."""
    told = asyncio.Event()

    def tell() -> None:
        told.set()
        for each in SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in SIGNALS:
        loop.add_signal_handler(each, tell)
    return told


def wake_gently() -> Callable[[], None]:
    """Have the threads that are started from now on interrupt nobody when they are woken; what ends that.

    The server's own threads and the store's are woken several times a request, on a shared core in the midst of the
    loop's work. As batch work (Linux, sched(7)) they wait until the loop waits: of six switches a request two are
    left, and more writes share a commit. Whoever is called to end it is the loop's own thread, which interrupts.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return lambda: None  # not Linux, or somebody has chosen another on purpose
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def give_back_memory() -> None:
    """Have large blocks go back to the system when they are free: a login takes 19 MB for a moment.

    glibc (mallopt(3)) would learn from the first to keep the next ones for good.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc, where nothing is to be done
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)


def raise_open_files() -> None:
    """Let as many connections be open as the system allows this process: a thousand streams hold two thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, OPEN_FILES) if hard != resource.RLIM_INFINITY else OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def grace(settings: Settings, place: Place | None) -> float:
    """Seconds that what runs may take once the server itself is told to stop.

    After a delay, or relieved by another, it is told before what runs has ended; otherwise when all has.
    """
    is_told_first = settings.stop_delay or place is not None
    return CLOSING + (settings.stop_seconds + LAST_WORDS if is_told_first else 0)


async def _serve(app: Edge, settings: Settings, listening: socket.socket, place: Place | None) -> None:
    from loquent.web.siblings import siblings

    log = Log("loquent.serve")
    loop = asyncio.get_running_loop()
    told = until_told(loop)
    sys.set_asyncgen_hooks(firstiter=None)  # no list of generators that run: each request has five, and ends them
    is_relieved = asyncio.Event() if place is None else place.watch(loop, told)
    raise_open_files()
    give_back_memory()
    services = app.services
    if not any(row.engine == "llama" for row in services.models.rows()):  # those work on every core: they must yield
        loop.call_later(STARTED, wake_gently())
    await services.open(works=settings.serve_jobs)
    try:
        if place is not None:
            await siblings.join(place.folder, place.number, services.watch.page)
        listen(listening)  # not before it can answer: until then balancers are refused, and go elsewhere
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{shown}:{listening.getsockname()[1]}/"
        server, stop = SERVERS[settings.server](app, listening, grace(settings, place))
        serving = asyncio.create_task(server)
        gc.collect()
        gc.freeze()  # what stands now stands for good: the collector need not walk it again and again
        gc.set_threshold(GARBAGE, 20, 50)
        log.info(
            "serving",
            url=url,
            data=str(settings.data_dir),
            models=list(services.models.offers),
            anonymous=settings.takes_anonymous,
            **({} if place is None else {"process": place.number}),
        )
        if place is not None:
            place.serves()
        waiting = asyncio.create_task(told.wait())
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done():
            serving.result()  # it ended by itself: say why
            return
        running = len(services.runner.lives)
        log.info("stopping", running=running, seconds=settings.stop_seconds, **({"again": AGAIN} if running else {}))
        app.leave()
        if place is not None and is_relieved.is_set():
            leave_to_others(place.fd)
            await services.leave(says_so=False)  # the port is as ready as ever
            delay = RELIEVED
        else:
            await services.leave()
            delay = settings.stop_delay
        if delay:
            await asyncio.sleep(delay)
            stop()  # what runs goes on; whoever comes now is refused, which is what balancers can mend
            await asyncio.sleep(LAST_COME)
        app.is_stopping = True
        await services.drain(settings.stop_seconds)
        app.hurry()
        await app.quiet(LAST_WORDS)
        stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await serving
    finally:
        await siblings.leave()
        await services.close()
        log.info("stopped")


Serving = tuple[Coroutine[Any, Any, None], Callable[[], None]]
"""What serves until it is told, and what tells it: to take no more connections, and end with those that there are."""


def _granian(app: Edge, listening: socket.socket, _: float) -> Serving:
    from granian._granian import SocketHolder
    from granian.constants import Interfaces
    from granian.http import HTTP1Settings
    from granian.server.embed import Server as Embedded

    class Server(Embedded):
        """granian's own, on a socket that stands."""

        def _init_shared_socket(self) -> None:
            backlog = (BACKLOG,) if sys.platform == "linux" else ()
            held: Any = SocketHolder(listening.detach(), False, *backlog)  # type: ignore[call-arg]  # its stub tells none
            self._ssp, self._shd = None, held  # it closes the socket

    server = Server(
        app,
        interface=Interfaces.ASGINL,
        websockets=False,
        backlog=BACKLOG,
        backpressure=10_000,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000, pipeline_flush=False),
        log_enabled=False,
    )
    return server.serve(), server.stop


def _uvicorn(app: Edge, listening: socket.socket, grace: float) -> Serving:
    import uvicorn

    from loquent.cli.pipelined import Pipelined

    class Server(uvicorn.Server):
        """uvicorn's own, with the signals left to us."""

        def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
            return contextlib.nullcontext()

    config = uvicorn.Config(
        app,
        http=Pipelined,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(grace),
    )
    server = Server(config)
    if (said := logging.getLogger("uvicorn.error")).level == logging.NOTSET:
        said.setLevel(logging.ERROR)  # what it warns of is what callers send: with that they could fill the log

    def stop() -> None:
        server.should_exit = True

    return server.serve(sockets=[listening]), stop


SERVERS = {"granian": _granian, "uvicorn": _uvicorn}
