"""Sends rings to a broker, one thread of its own: a broker that is dead or frozen holds up that thread and no other."""

from __future__ import annotations

import collections
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery as App

from loquent.domain.log import Log
from loquent.domain.outages import Outage

log = Log("loquent.queue")
GONE, BACK = "the broker does not answer; workers look by themselves", "the broker is back"

TASK = "loquent.generation"
EXPIRES = 60  # seconds after which a ring means nothing any more: every worker has looked by itself
MOST = 2_000  # rings that wait for a broker that is away; the oldest go first
SECONDS = 1.0  # in which a broker must be reached, and answer
REST, LONGEST = 0.5, 5.0  # seconds between tries while it does not, doubled each time
KNOWN = 10.0  # seconds for which what was last heard of the broker is believed
LAST = 2.0  # seconds that a stop waits for the last rings

BOUNDS: dict[str, dict[str, Any]] = {
    "redis": {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS},
    "rediss": {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS},
    "sqs": {"client-config": {"connect_timeout": SECONDS, "read_timeout": SECONDS, "retries": {"max_attempts": 0}}},
}
AMQP: dict[str, Any] = {"read_timeout": SECONDS, "write_timeout": SECONDS, "confirm_publish": True}
"""How each transport is told that."""


@dataclass(frozen=True, slots=True)
class Ring:
    """One message: whose generation to look at, and until when (ISO 8601) that is worth a look."""

    id: str
    until: str


NO_RING = Ring("", "")


def ring_of(id: str) -> Ring:
    """A new one."""
    return Ring(id, (datetime.now(UTC) + timedelta(seconds=EXPIRES)).isoformat())


class Publisher:
    """Holds a bounded line of rings and sends them in order. While the broker is away it tries now and then, only."""

    def __init__(self, app: App, *, away: Callable[[], None]) -> None:
        self._app = app
        self._away = away  # told at each ring that cannot be sent
        self._line: collections.deque[Ring] = collections.deque(maxlen=MOST)
        self._more = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._is_away = False
        self._heard_at = -math.inf  # when it was last known how the broker is
        self._shall_look = False
        self._why = "it has not answered yet"
        self._outage = Outage(log, gone=GONE, back=BACK)
        self.lost = 0  # rings that nobody will hear: workers find what they told of by looking

    @property
    def waiting(self) -> int:
        """How many rings wait to be sent."""
        return len(self._line)

    def why_away(self) -> str:
        """Empty where the broker has answered in the last KNOWN seconds; where nothing was heard, it is asked now.

        Blocks for as long as that takes, which is bounded.
        """
        with self._more:
            if not (self._is_away or self._is_closing or time.monotonic() - self._heard_at < KNOWN):
                self._shall_look = True
                self._wake()
                if not self._more.wait_for(lambda: not self._shall_look, 1.5 * SECONDS):
                    return "it says nothing"
            return self._why if self._is_away else ""

    def put(self, ring: Ring) -> None:
        """Have it sent; returns at once, from any thread."""
        with self._more:
            if self._is_closing:
                return
            self.lost += len(self._line) == MOST  # the oldest makes room
            self._line.append(ring)
            self._wake()
        if self._is_away:
            self._away()

    def close(self) -> None:
        """Send what is left, for a moment; then no more."""
        with self._more:
            self._is_closing = True
            self._more.notify_all()
        if self._thread is not None:
            self._thread.join(LAST)

    def _wake(self) -> None:
        """Have the thread look at what there is to do; called with the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rings", daemon=True)
            self._thread.start()
        self._more.notify_all()

    def _run(self) -> None:
        rest = REST
        connection: Any = None
        producer: Any = None
        while (ring := self._next()) is not None:
            try:
                if ring is NO_RING:
                    reach(self._app)
                else:
                    if producer is None:
                        connection, producer = self._connected()
                    self._send(ring, producer)
            except Exception as error:  # whatever a transport raises: each has errors of its own
                self._fell_away(ring, error)
                _let_go(connection)
                connection = producer = None
                with self._more:
                    if self._is_closing:
                        break
                    self._more.wait_for(lambda: self._is_closing, rest)
                rest = min(LONGEST, rest * 2)
            else:
                rest = REST
                self._heard(is_away=False)
        _let_go(connection)

    def _next(self) -> Ring | None:
        """The next that is still worth sending, NO_RING to look how the broker is, None when all is over.

        Of one that is away somebody has to find out that it is back, though nothing is rung.
        """
        with self._more:
            while True:
                self._more.wait_for(lambda: self._line or self._is_closing or self._shall_look or self._is_away)
                if not self._line:
                    return None if self._is_closing else NO_RING
                ring = self._line.popleft()
                if ring.until > datetime.now(UTC).isoformat():
                    return ring
                self.lost += 1

    def _heard(self, *, is_away: bool) -> None:
        with self._more:
            if not is_away:
                self._outage.back("rings")
            self._is_away, self._heard_at, self._shall_look = is_away, time.monotonic(), False
            self._more.notify_all()

    def _connected(self) -> tuple[Any, Any]:
        connection = _connection(self._app)
        return connection, self._app.amqp.Producer(connection)

    def _send(self, ring: Ring, producer: Any) -> None:
        self._app.send_task(
            TASK,
            (ring.id,),
            task_id=ring.id,  # so that who watches the broker can tell whose it is
            expires=ring.until,
            expiration=EXPIRES,  # the same for a broker that clears up by itself
            ignore_result=True,
            retry=False,
            producer=producer,
        )

    def _fell_away(self, ring: Ring, error: Exception) -> None:
        self._why = type(error).__name__  # anybody may look at health, so no host is named there: the log says more
        with self._more:
            if ring is not NO_RING and len(self._line) < MOST:
                self._line.appendleft(ring)
            elif ring is not NO_RING:
                self.lost += 1
        self._outage.gone("rings", str(error) or repr(error))
        self._heard(is_away=True)
        self._away()


def reach(app: App) -> None:
    """Connect, log in, let go. Raises what the transport does where that cannot be."""
    connection = _connection(app)
    try:
        connection.default_channel  # noqa: B018  # what connects
    finally:
        _let_go(connection)


def _connection(app: App) -> Any:
    """One that is not opened yet, with short patience."""
    scheme = app.conf.broker_write_url.partition(":")[0].lower()
    bounds = {**app.conf.broker_transport_options, **BOUNDS.get(scheme, AMQP)}
    return app.connection_for_write(connect_timeout=SECONDS, transport_options=bounds)


def _let_go(connection: Any) -> None:
    """Close it without a word to whoever may be frozen at the other end."""
    if connection is not None:
        started = time.monotonic()
        try:
            connection.collect(socket_timeout=0.1)
        except Exception as error:  # it was no good any more
            log.debug("a connection could not be closed", why=str(error), seconds=time.monotonic() - started)
