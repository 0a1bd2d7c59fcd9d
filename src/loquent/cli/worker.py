"""``loquent worker``: a process that runs jobs and serves nothing, on the same store as the server."""

from __future__ import annotations

import asyncio

from loquent.cli.serve import run, until_told


def worker() -> None:
    """Run jobs. Several workers may share one store; one that dies is taken over when its lease runs out."""
    from loquent.checks import WORKER, check, warn
    from loquent.settings.environment import load_settings
    from loquent.web.observe import configure_logs
    from loquent.wiring import build
    from loquent.worker import work

    settings = load_settings()
    configure_logs(settings)
    check(settings, WORKER)
    services = build(settings)
    warn(services)

    async def until_stopped() -> None:
        await work(services, until_told(asyncio.get_running_loop()))

    run(until_stopped())
