"""A large set-up under fire, in short; ``make chaos`` does the same at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from journeys import broker_outages, database_outages, killings, poison
from journeys.cluster import cluster
from postgres_server import PostgresServer, postgres_server
from redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.journey, pytest.mark.timeout(240)]


async def test_60_jobs_outlive_6_kills_of_servers_and_workers(
    tmp_path: Path, postgres: PostgresServer, redis: RedisServer
) -> None:
    async with cluster(tmp_path, postgres, redis, **killings.QUICK) as running:
        report = await killings.Rig(killings.Plan(jobs=60, kills=6), running).run()
    print(report)
    report.check()
    assert report.kills == 6
    assert report.recoveries, "no kill cost anything"
    assert max(report.recoveries) <= killings.SOON


async def test_a_broker_that_is_killed_frozen_and_emptied_holds_nobody_up(
    tmp_path: Path, postgres: PostgresServer, redis: RedisServer
) -> None:
    async with cluster(tmp_path, postgres, redis, **broker_outages.QUICK) as running:
        report = await broker_outages.Rig(broker_outages.Plan(), running).run()
    print(report)
    report.check()


async def test_jobs_that_kill_their_workers_end_after_three_runs_and_harm_no_other(
    tmp_path: Path, postgres: PostgresServer, redis: RedisServer
) -> None:
    async with cluster(tmp_path, postgres, redis, apis=1, **poison.QUICK) as running:
        report = await poison.poisoned(running, good=50)
        thaw = await poison.frozen(running)
    print(report, thaw, sep="\n")
    report.check(good=50)
    thaw.check()


async def test_a_database_that_is_restarted_under_traffic_costs_503s_and_nothing_else(
    tmp_path: Path, redis: RedisServer
) -> None:
    with postgres_server() as postgres:
        async with cluster(tmp_path, postgres, redis, **database_outages.QUICK) as running:
            report = await database_outages.Rig(database_outages.Plan(), running).run()
    print(report)
    report.check()
    assert report.slowest(503), "no request met a gap"
