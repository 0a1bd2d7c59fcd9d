"""What the figures are held against: the aims of the project, each a ratio from the same run."""

from __future__ import annotations

from collections.abc import Iterable

from bench.report import CORES_FOR_TWO, Report, Result, Spread, difference, ratio


def verdicts(report: Report) -> Iterable[tuple[str, bool]]:
    """Each aim that this run measured, in words, and whether the median meets it."""
    loquent = "loquent"
    requests, streams = {"part": "requests", "clients": 32}, {"part": "streams"}
    one, embedded = {"part": "requests", "clients": 1}, {"part": "embedded"}
    yield from _least(
        "requests/s of bare, 32 clients", 0.6, report.against(loquent, "bare", "per_second", ratio, **requests)
    )
    yield from _least("chunks/s of direct", 0.85, report.against(loquent, "direct", "per_second", ratio, **streams))
    yield from _most("ms added p50, 1 client", 1.0, report.against(loquent, "direct", "p50_ms", difference, **one))
    tokens = report.against(loquent, "llama.cpp", "tokens_per_second", ratio, **embedded)
    yield from _least("tokens/s of llama.cpp's own server", 0.9, tokens)
    naive = report.against(loquent, "naive", "tokens_per_second", ratio, **embedded)
    yield from _least("tokens/s of a naive service on transformers, bfloat16", 6, naive)
    for clients, field, what in ((1, "p50_ms", "ms of p50, 1 client"), (32, "cpu_ms", "ms of processor, 32 clients")):
        added = report.against("kept", "health", field, difference, part="cache", clients=clients)
        yield from _most(f"{what}, that a kept answer takes more than a bare route", 1.0, added)
    kept = report.against("postgresql", "sqlite", "per_second", ratio, part="postgres")
    yield from _least("requests/s on PostgreSQL, of SQLite's", 0.7, kept)
    yield from _replicas(report)
    jobs = report.against(loquent, "celery prefork", "per_second", ratio, part="jobs")
    yield from _least("jobs/s of Celery with two processes, one worker", 60, jobs)
    yield from _most("MB resident, idle, no model", 120, report.figure(loquent, "idle_mb", part="start"))
    for where, what in (("first", "the first page"), ("anywhere", "a page from anywhere")):
        page = report.against("1,000,000", "10,000", "p50_ms", ratio, part="history", where=where)
        yield from _most(f"of {what} among 10,000 generations, among 1,000,000", 1.2, page)
    turn = report.against("200", "2", "p50_ms", ratio, part="turn")
    yield from _most("of a turn after 2 earlier ones, after 200", 1.2, turn)
    yield from _imports(report.results)


def _replicas(report: Report) -> Iterable[tuple[str, bool]]:
    """Only where there are cores for two; elsewhere the table says what the cores allowed."""
    if any(each.get("cores", 0) >= CORES_FOR_TWO for each in report.results if each["part"] == "replicas"):
        twice = report.against("2 replicas", "1 replica", "per_second", ratio, part="replicas")
        yield from _least("requests/s of one replica, two", 1.8, twice)


def _least(what: str, aim: float, found: Spread | None) -> Iterable[tuple[str, bool]]:
    if found:
        yield f"{found:.2f} {what}: at least {aim}", found.middle >= aim


def _most(what: str, aim: float, found: Spread | None) -> Iterable[tuple[str, bool]]:
    if found:
        yield f"{found:.2f} {what}: at most {aim}", found.middle <= aim


def _imports(results: list[Result]) -> Iterable[tuple[str, bool]]:
    for each in results:
        if each["part"] == "import":
            middle = sorted(each["ms"])[len(each["ms"]) // 2]
            yield f"{middle:.0f} ms to import {each['row']}: at most 700", middle <= 700
            yield f"{len(each['heavy'])} heavy libraries imported by it: none", not each["heavy"]
