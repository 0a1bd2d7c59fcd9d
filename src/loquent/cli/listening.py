"""The socket that a server listens on: made first, so that a port that is taken is told before anything is loaded."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loquent.domain.errors import Misconfigured

BACKLOG = 2048  # connections that wait to be taken


def bound(host: str, port: int) -> socket.socket:
    """A socket of that address, not listening yet. Raises Misconfigured where nobody can listen there."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the connections have it from here
    with _told(made, f"{host} port {port}"):
        made.bind((host.strip("[]"), port))
    return made


def listen(made: socket.socket) -> None:
    """Let connections come. Raises Misconfigured where another has begun to since."""
    with _told(made, f"port {made.getsockname()[1]}"):
        made.listen(BACKLOG)


def leave_to_others(fd: int) -> None:
    """Take no more connections from that socket, which other processes listen on too. Who has come is served on.

    Servers that are told to stop also end connections of which they have read nothing yet. So before that an empty
    socket takes its place, under each number that they know it by. Only Linux tells the numbers; elsewhere nothing is
    done, and who comes in that very moment has to come again.
    """
    if sys.platform != "linux":
        return
    which = os.fstat(fd)
    with socket.socket(socket.AF_UNIX) as empty:
        empty.setblocking(False)
        empty.bind("")  # under a name that nobody knows
        empty.listen()
        for number in [int(each.name) for each in Path("/proc/self/fd").iterdir()]:
            with suppress(OSError):  # closed since
                if os.path.samestat(os.fstat(number), which):
                    os.dup2(empty.fileno(), number, inheritable=False)


@contextmanager
def _told(made: socket.socket, where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        made.close()
        why = error.strerror or str(error)
        see = "LOQUENT_HOST and LOQUENT_PORT, which go before HOST and PORT: other programs set these, too"
        raise Misconfigured(f"cannot listen on {where}: {why}; see {see}") from None
