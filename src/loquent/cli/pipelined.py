"""uvicorn's reading of HTTP, mended where requests are sent behind one that is not answered yet."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Pipelined(HttpToolsProtocol):
    """A connection whose end all its requests hear of.

    uvicorn tells the last one alone. Whoever answers an earlier one would work on for nobody, and then fail: it is no
    fault of ours what stands behind a good request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._earlier: list[RequestResponseCycle] = []  # than the last, and perhaps not answered yet

    def on_headers_complete(self) -> None:
        """See httptools."""
        former = self.cycle
        super().on_headers_complete()
        if self.pipeline:  # this one waits for that
            self._earlier = [*(each for each in self._earlier if not each.response_complete), former]

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        for each in self._earlier:
            each.disconnected = True
            each.message_event.set()
        super().connection_lost(exc)
