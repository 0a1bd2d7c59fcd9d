"""The worker: everything that was built, and nothing but jobs run, until told to stop."""

from __future__ import annotations

import asyncio

from loquent.wiring import Services


async def work(services: Services, told: asyncio.Event) -> None:
    """Take jobs until the event is set; then hand back what is not over within the settings' bound."""
    await services.open()
    try:
        await told.wait()
        await services.drain(services.settings.stop_seconds)
    finally:
        await services.close()
