"""What a kept answer costs: the same server answers a question whose answer it has, one that it has to pass on to the
mock upstream, and its health, which is a route and nothing else. One client at a time, then 32. Records are in memory:
what a durable one costs is the disk's time, the same for all answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

from bench.load import BODY
from bench.rounds import CHAT, Result, Rig, load
from bench.rows import IN_MEMORY
from bench.servers import Server

CLIENTS = (1, 32)
HEALTH = "/api/v1/health"


def run(folder: Path, rounds: int, seconds: float, say: Callable[[str], None]) -> tuple[list[Result], list[str]]:
    """The three, in turn; the results and what was wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    bodies = {}
    for name, temperature in (("kept", 0), ("passed on", 0.7)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps([BODY | {"temperature": temperature}]))
        bodies[name] = path
    wrong: list[str] = []
    results: list[Result] = []
    with closing(Rig([IN_MEMORY], folder, starts=1, chunks=1, say=say)) as rig:
        server = rig.servers["loquent"]
        for clients in CLIENTS:
            for number in range(1, rounds + 1):
                for row in ("health", "kept", "passed on"):
                    told = _asked(server, row, bodies, clients=clients, seconds=seconds)
                    told["cpu_ms"] = round(told["cpu_seconds"] * 1000 / max(told["ok"], 1), 4)
                    results.append({"part": "cache", "row": row, "clients": clients, "round": number} | told)
                    wrong += [f"{row}: {told['errors']} in a round of the cache"] if told["errors"] else []
                    say(
                        f"{clients:4} clients, round {number}  {row:16} {told['per_second']:9,.0f} requests/s"
                        f"   p50 {told['p50_ms']:8.3f} ms   {told['cpu_ms']:6.3f} CPU ms each   {told['errors'] or ''}"
                    )
        asked = sum(each["ok"] for each in results if each["row"] == "kept")
        if (hits := _hits(server)) < asked - 1:  # the first was made
            wrong.append(f"of {asked} answers that should have been kept ones {hits} were")
    return results, wrong


def _asked(server: Server, row: str, bodies: dict[str, Path], **options: object) -> Result:
    if row == "health":
        return load(server, "reads", path=HEALTH, **options)
    return load(server, "requests", path=CHAT, bodies=bodies[row], **options)


def _hits(server: Server) -> int:
    """Kept answers that were told, by the server's own count."""
    with urlopen(f"{server.url}/metrics", timeout=30) as page:  # noqa: S310  (our own server)
        lines = page.read().decode().splitlines()
    counts = {name: float(count) for name, _, count in (line.rpartition(" ") for line in lines if line[:1] != "#")}
    return sum(int(counts.get(f'loquent_cached_answers_total{{outcome="{how}"}}', 0)) for how in ("hit", "shared"))
