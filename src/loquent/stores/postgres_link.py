"""A connection to PostgreSQL: how it is made, whether it still can be used, how it ends, and what its errors mean."""

from __future__ import annotations

import os
import re
import select
import socket
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from loquent.domain.errors import Unavailable

CONNECT = {
    "application_name": "loquent",
    "connect_timeout": "5",  # seconds
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # milliseconds
}
SESSION = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "synchronous_commit": "on",  # an acknowledged write outlives a power cut
    "timezone": "UTC",
}
PREPARED = 512  # statements that a connection keeps prepared


def connection(url: str, **session: str) -> psycopg.Connection[Any]:
    """A connection for one thread that leaves BEGIN and COMMIT to us."""
    known = conninfo_to_dict(url)
    wanted = " ".join(f"-c {name}={value}" for name, value in {**SESSION, **session}.items())
    options = f"{wanted} {known.pop('options', '')}".strip()
    opened = psycopg.connect(**{**CONNECT, **known, "options": options}, autocommit=True)  # type: ignore[arg-type]
    opened.prepare_threshold, opened.prepared_max = 1, PREPARED
    return opened


def is_open(used: psycopg.Connection[Any] | None) -> bool:
    """Whether it can be used: a server that was restarted while nothing was asked has said goodbye on it."""
    if used is None or used.closed:
        return False
    heard = select.poll()
    heard.register(used.pgconn.socket, select.POLLIN)
    try:
        while heard.poll(0):
            used.pgconn.consume_input()
    except psycopg.Error:
        return False
    return True


def away(why: str) -> Unavailable:
    """What callers are told."""
    return Unavailable(f"the database cannot be used now: {why}", retry_after=1)


def said(error: BaseException) -> str:
    """The first line, which names no password; where a server was not reached, it names host and port."""
    return re.sub(r"password=\S+", "password=…", str(error).strip().partition("\n")[0])[:200]


def hang_up(used: psycopg.Connection[Any] | None) -> None:
    """From another thread than the one that waits in it: end both directions, so that it wakes with an error."""
    if used is not None and not used.closed:
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(used.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def close(dropped: psycopg.Connection[Any]) -> None:
    """Let go of it, whatever state it is in."""
    with suppress(psycopg.Error):
        dropped.close()
