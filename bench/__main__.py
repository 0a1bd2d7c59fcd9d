"""``python -m bench``: everything side by side in one run, rounds interleaved; tables, a verdict, and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench import cache, cold, embedded, history, jobs, postgres, replicas
from bench.aims import verdicts
from bench.report import Report, Result
from bench.rounds import Rig
from bench.rows import ROWS
from bench.servers import pin

PARTS = ("requests", "streams", "postgres", "replicas", "cache", "jobs", "embedded", "history", "cold")
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run what was asked for; 1 where an answer or a record was wrong, 2 where a part could not run."""
    asked = _asked()
    pin(None)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    parts: list[str] = asked.only or list(PARTS)
    results: list[Result] = []
    wrong: list[str] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="loquent-bench-", ignore_cleanup_errors=True) as folder:
        steps: dict[str, Callable[[], tuple[list[Result], list[str]]]] = {}
        if {"requests", "streams"} & set(parts):
            steps["rows"] = lambda: _rows(asked, parts, Path(folder), say)
        for name, part in (("postgres", postgres), ("replicas", replicas)):
            if name in parts:
                steps[name] = partial(part.run, Path(folder) / name, asked.rounds, asked.seconds, say)
        if "cache" in parts:
            steps["cache"] = lambda: cache.run(Path(folder) / "cache", asked.rounds, asked.seconds, say)
        if "jobs" in parts:
            steps["jobs"] = lambda: jobs.run(Path(folder), asked.rounds, say)
        if "embedded" in parts:
            steps["embedded"] = lambda: embedded.run(Path(folder), asked.rounds, say)
        if "history" in parts:
            steps["history"] = lambda: history.run(Path(folder), asked.rounds, say)
        if "cold" in parts:
            steps["cold"] = lambda: ([cold.imports()], [])
        for name, step in steps.items():
            try:
                found, faults = step()
            except (RuntimeError, subprocess.SubprocessError) as error:
                broken.append(f"{name} could not run: {error}")
                say(broken[-1])
                continue
            results += found
            wrong += faults
    _tell(results, wrong, broken)
    return 2 if broken else 1 if wrong else 0


def _asked() -> argparse.Namespace:
    ask = argparse.ArgumentParser(prog="python -m bench", description="measures Loquent side by side with others")
    ask.add_argument("--rounds", type=int, default=3, help="of each measurement (default 3)")
    ask.add_argument("--seconds", type=float, default=3, help="that a round of requests lasts (default 3)")
    ask.add_argument("--clients", type=_numbers, default=[1, 32, 256], help="at the same time (default 1,32,256)")
    ask.add_argument("--streams", type=int, default=1000, help="at the same time (default 1000)")
    ask.add_argument("--chunks", type=int, default=200, help="that a stream has, 50 a second (default 200)")
    ask.add_argument("--rows", type=_rows_named, default=list(ROWS), help=f"of {','.join(ROWS)} (default all)")
    ask.add_argument("--only", type=_parts_named, default=[], help=f"of {','.join(PARTS)} (default all)")
    return ask.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _rows_named(text: str) -> list[str]:
    return _of(text, ROWS)


def _parts_named(text: str) -> list[str]:
    return _of(text, PARTS)


def _of(text: str, known: Collection[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name}: one of {', '.join(known)}")
    return names


def _rows(
    asked: argparse.Namespace, parts: list[str], folder: Path, say: Callable[[str], None]
) -> tuple[list[Result], list[str]]:
    rows = [ROWS[name] for name in asked.rows]
    with closing(Rig(rows, folder, starts=asked.rounds, chunks=asked.chunks, say=say)) as rig:
        if "requests" in parts:
            rig.requests(asked.clients, asked.rounds, asked.seconds)
        if "streams" in parts:
            rig.streams(asked.streams, asked.rounds)
        rig.check_records()
        return rig.results, rig.wrong


def _tell(results: list[Result], wrong: list[str], broken: list[str]) -> None:
    report = Report(results)
    judged = list(verdicts(report))
    print("\nMedian over the rounds (least-most); ratios are taken within each round.", *report.lines(), sep="\n")
    print("\naims", *(f"  {'met   ' if is_met else 'MISSED'}  {what}" for what, is_met in judged), sep="\n")
    for fault in (*wrong, *broken):
        print(f"  WRONG   {fault}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    told = {"machine": machine, "results": results, "aims": judged, "wrong": wrong, "broken": broken}
    path.write_text(json.dumps(told, indent=1))
    print(f"\nall figures: {path}")


if __name__ == "__main__":
    sys.exit(main())
