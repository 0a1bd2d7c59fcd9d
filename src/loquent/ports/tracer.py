"""Traces: what was done for one request or job, as a tree of spans that may reach over several processes.

Nobody asks for a tracer who does not have one: where traces are off, what tells of spans is not built at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Protocol

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]
Carried = Mapping[str, str]
"""Where a tree goes on elsewhere, as text: the headers of a request, or what a record carries of it."""

INTERNAL, SERVER, CLIENT, CONSUMER = "internal", "server", "client", "consumer"
"""What kind of work a span is: our own; answering a request; asking a server; a job that was left for later."""


class Span(Protocol):
    """A piece of work with a beginning and an end, under another or the first of its tree. Nothing here ever raises."""

    is_kept: bool  # False: nobody will see it, so nothing need be put together for it

    def call(self, name: str) -> None:
        """Another name, where it is known only now."""

    def tell(self, attributes: Attributes) -> None:
        """What is known of it."""

    def fail(self, code: str, message: str = "") -> None:
        """It went wrong: by our code, or by the HTTP status."""

    def end(self) -> None:
        """It is over, and is told. Once."""

    def carried(self) -> Carried:
        """What a record keeps, so that another process goes on under this span: at most a few hundred characters."""
        ...

    def headers(self) -> str:
        """The same as whole lines of an HTTP request."""
        ...


class Tracer(Protocol):
    """Where spans are told. It is never waited for: what cannot be handed over is dropped."""

    heard: frozenset[bytes]  # names of the headers, in small letters, by which a caller says which tree is his

    async def open(self) -> None:
        """Begin to take spans. Raises Misconfigured."""

    async def check(self) -> None:
        """Hand over nothing, now, for people who ask: in seconds. Raises Unavailable with the reason."""

    async def close(self) -> None:
        """Hand over what there is, within some seconds. May be called twice."""

    def begin(self, name: str, kind: str, under: Span | Carried | None, attributes: Attributes) -> Span:
        """A span that begins now; under nothing, or under what cannot be read, it is the first of a new tree."""
        ...


current: ContextVar[Span | None] = ContextVar("span", default=None)
"""The span that this work belongs to."""


def told() -> str:
    """The headers by which whoever is asked now learns of the tree; none outside of any."""
    span = current.get()
    return span.headers() if span is not None else ""
