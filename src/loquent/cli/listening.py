"""The socket that a server listens on: made first, so that a port that is taken is told before anything is loaded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def _told(made: socket.socket, where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        made.close()
        why = error.strerror or str(error)
        raise Misconfigured(f"cannot listen on {where}: {why}; see HOST and PORT") from None
