"""The worker: everything built from the settings, and nothing but jobs run, until told to stop."""

from __future__ import annotations

import asyncio

from loquent.settings import Settings
from loquent.wiring import build


async def work(settings: Settings, told: asyncio.Event) -> None:
    """Take jobs until the event is set; then hand back what is not over within the settings' bound."""
    services = build(settings)
    await services.open()
    try:
        await told.wait()
        await services.drain(settings.stop_seconds)
    finally:
        await services.close()
