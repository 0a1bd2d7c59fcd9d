"""Checkpoints: what lasts is put on the record while it runs, and what the record says of it is heeded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from loquent.domain import failpoints
from loquent.domain.clock import Moment, later, now
from loquent.domain.errors import Fenced, LoquentError, Unavailable
from loquent.domain.evolve import evolve
from loquent.domain.generations import Generation, extended
from loquent.domain.log import Log
from loquent.ports.store import Store
from loquent.services import live as lives
from loquent.services.live import Live
from loquent.services.pace import Pace
from loquent.services.writes import Writes

log = Log("loquent.runner")


class Checkpoints:
    """Looks after all that runs in this process, twice in each checkpoint."""

    def __init__(self, store: Store, writes: Writes, running: Mapping[str, Live], pace: Pace) -> None:
        self._store = store
        self._writes = writes
        self._lives = running
        self._pace = pace
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to look."""
        self._keeper = asyncio.create_task(self._keep(), name="keeper")

    @property
    def is_open(self) -> bool:
        """Whether it goes on looking."""
        return self._keeper is not None and not self._keeper.done()

    async def close(self) -> None:
        """Look no more."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep(self) -> None:
        is_half = False
        while True:
            await asyncio.sleep(self._pace.checkpoint / 2)
            is_half = not is_half
            try:
                await self.look(is_half=is_half)
            except Unavailable as error:  # whoever asks for jobs or for revocations tells that the store is away
                log.debug("checkpoint failed", why=error.message)
            except Exception:
                log.exception("checkpoint failed")

    async def look(self, *, is_half: bool = False) -> None:
        """Save what has run for a checkpoint or longer, and stop what was cancelled or taken over elsewhere.

        ``is_half``: half a checkpoint has gone by. What is on the record is looked at all the same, so that a cancel
        is heard within a checkpoint; jobs are saved all the same, for those who follow them in other processes.
        """
        whole, half = later(now(), -self._pace.checkpoint), later(now(), -self._pace.checkpoint / 2)
        running = [
            live
            for live in self._lives.values()
            if (live.generation.started_at or 0) <= (half if live.saved else whole)
        ]
        known = [live.generation.id for live in running if live.saved]
        current = {record.id: record for record in await self._store.get(Generation, *known)} if known else {}
        for live in running:
            if live.is_ending or live.stopped is not None:
                continue  # it has ended, or will, while we looked: its last write is not ours to follow
            if live.generation.id in known and self._lost(live, current.get(live.generation.id)):
                continue
            if not live.is_job and (is_half or (live.generation.started_at or 0) > whole):
                continue  # what is short is written once
            live.saving = asyncio.create_task(self._checkpoint(live))
        if saving := [live.saving for live in running if live.saving is not None]:
            await asyncio.wait(saving)

    def _lost(self, live: Live, record: Generation | None) -> bool:
        """Stop it where the record says that it is no longer ours, or no longer wanted."""
        if record is None or record.is_over or record.fence != live.generation.fence:
            if not failpoints.is_armed(failpoints.UNFENCED):
                live.stop(lives.FENCED)
            return True
        if record.cancel_requested:
            live.stop(lives.CANCELLED)
            return True
        return False

    async def _checkpoint(self, live: Live) -> None:
        try:
            text = live.text
            lease: Moment = later(now(), self._pace.lease)
            fresh = live.saved and (live.generation.due_at or 0) > later(now(), self._pace.lease * 2 / 3)
            same = text == live.content.output
            if fresh and same and live.steps_done == live.generation.steps_done:
                return
            content = live.content if same and live.saved else evolve(live.content, output=text)
            await self._writes.once(
                live,
                lambda record: extended(
                    record, lease, steps_done=live.steps_done, steps=live.steps, characters=len(text)
                ),
                content,
            )
        except Fenced:
            live.stop(lives.FENCED)
        except Unavailable as error:
            log.debug("checkpoint failed", generation=live.generation.id, why=error.message)
        except LoquentError as error:
            log.warning("checkpoint failed", generation=live.generation.id, why=error.message)
        except Exception:
            log.exception("checkpoint failed", generation=live.generation.id)
        finally:
            live.saving = None
