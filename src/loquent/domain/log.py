"""The log, as the rest of the house writes to it: an event and its fields, over the standard library's loggers."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

request: ContextVar[str] = ContextVar("request", default="")
"""The id of the request that this work belongs to; every line carries it."""

CONTENT = "loquent.content"
"""The log of what people write and are answered: silent, whatever the level, but where LOG_CONTENT is on."""


class Log:
    """A named log. An event is a few fixed words; what differs from time to time goes into fields."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def says(self, level: int) -> bool:
        """Whether a line of that level goes anywhere: to ask before something dear is put together."""
        return self._logger.isEnabledFor(level)

    def debug(self, event: str, **fields: Any) -> None:
        """For whoever looks for a fault."""
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """The ordinary course of things."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is away or was dropped, and it goes on."""
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that should not be."""
        self._say(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """The same, with the traceback of the exception that is being handled."""
        self._say(logging.ERROR, event, fields, exc_info=True)

    def _say(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields}, exc_info=exc_info)
