"""The large set-up under fire, at length: ``python -m journeys.outages`` (from ``tests/``) runs all, or those named.

test_cluster_chaos.py has the short forms.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from journeys import broker_outages, database_outages, killings, poison
from journeys.cluster import cluster
from postgres_server import PostgresServer, postgres_server
from redis_server import RedisServer, redis_server

Form = Callable[[Path, PostgresServer, RedisServer, int], Awaitable[None]]
BY_DEFAULT = 75.0  # seconds in which a killed worker's jobs run elsewhere, as the program is shipped


async def kills(folder: Path, postgres: PostgresServer, redis: RedisServer, seed: int) -> None:
    """500 jobs at 20 a second, more until there were 40 kills."""
    async with cluster(folder, postgres, redis, **killings.QUICK) as running:
        report = await killings.Rig(killings.Plan(jobs=500, rate=20, kills=40, seed=seed), running).run()
    say(report)
    report.check()
    assert max(report.recoveries) <= killings.SOON
    assert report.at_failpoints >= 5


async def defaults(folder: Path, postgres: PostgresServer, redis: RedisServer, _: int) -> None:
    """One worker killed once, with the settings as shipped."""
    async with cluster(folder, postgres, redis, LOQUENT_SERVE_JOBS="off") as running:
        took = await killings.recovery(running, BY_DEFAULT + 15)
    say(f"a killed worker's jobs ran elsewhere after {min(took):.1f} to {max(took):.1f} s, with settings as shipped")
    assert max(took) <= BY_DEFAULT


async def broker(folder: Path, postgres: PostgresServer, redis: RedisServer, _: int) -> None:
    """Redis gone, frozen for a minute, restarted empty five times in three seconds."""
    async with cluster(folder, postgres, redis, **broker_outages.QUICK) as running:
        report = await broker_outages.Rig(broker_outages.Plan(rate=20, away=10, frozen=60), running).run()
    say(report)
    report.check()


async def database(folder: Path, postgres: PostgresServer, redis: RedisServer, _: int) -> None:
    """PostgreSQL restarted every ten seconds for two minutes."""
    async with cluster(folder, postgres, redis, **database_outages.QUICK) as running:
        plan = database_outages.Plan(restarts=12, every=10, away=2, clients=4)
        report = await database_outages.Rig(plan, running).run()
    say(report)
    report.check()


async def poisons(folder: Path, postgres: PostgresServer, redis: RedisServer, _: int) -> None:
    """Five jobs that kill, among fifty that do not."""
    async with cluster(folder, postgres, redis, **poison.QUICK) as running:
        report = await poison.poisoned(running, good=50, poisons=5)
        say(report)
        report.check(good=50, poisons=5)
        thaw = await poison.frozen(running)
    say(thaw)
    thaw.check()


FORMS: dict[str, Form] = {each.__name__: each for each in (kills, defaults, broker, database, poisons)}


def say(what: object) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def run(names: list[str], seed: int) -> None:
    """One after the other, each with servers of its own."""
    for name in names:
        with (
            tempfile.TemporaryDirectory() as folder,
            postgres_server() as postgres,
            redis_server(Path(folder)) as redis,
        ):
            await FORMS[name](Path(folder), postgres, redis, seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="FORM", help=f"of {', '.join(FORMS)}; all where none is named")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    chosen = asked.names or list(FORMS)
    if unknown := set(chosen) - set(FORMS):
        parser.error(f"no such form: {', '.join(sorted(unknown))}")
    asyncio.run(run(chosen, asked.seed))
