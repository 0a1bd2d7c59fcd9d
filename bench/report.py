"""Turns the results of all rounds into medians, ratios within each round, tables and a verdict on the aims."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

Result = dict[str, Any]
GROWTH = (
    ("history", "first", "the first page of 50, among generations"),
    ("history", "anywhere", "a page of 50 from anywhere, among generations"),
    ("turn", "earlier turns", "a chat's next turn, after earlier ones"),
)
"""What is measured on little and on much, and what its table is called."""
STORES = (
    ("postgres", "one replica, by where its records are kept"),
    ("replicas", "replicas on one PostgreSQL"),
)
CORES_FOR_OWN = 4  # from here on each replica has a core of its own
CORES_FOR_TWO = 5  # two replicas, PostgreSQL, upstream and load: with fewer they cannot be twice one
QUIET = 0.05  # of the servers' core that other work may take


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    middle: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.middle:{form}} ({self.low:{form}}-{self.high:{form}})"


def spread(values: Iterable[float]) -> Spread | None:
    """The median, the least and the most; None of nothing."""
    found = sorted(values)
    return Spread(median(found), found[0], found[-1]) if found else None


class Report:
    """What the results say."""

    def __init__(self, results: list[Result]) -> None:
        self.results = results

    def figure(self, row: str, field: str, **where: Any) -> Spread | None:
        """A field of a row, over the rounds."""
        return spread(each[field] for each in self._found(row=row, **where))

    def against(
        self, row: str, other: str, field: str, how: Callable[[float, float], float], **where: Any
    ) -> Spread | None:
        """A row's field against another row's in the same round, over the rounds."""
        others = {each["round"]: each[field] for each in self._found(row=other, **where)}
        mine = self._found(row=row, **where)
        return spread(how(each[field], others[each["round"]]) for each in mine if others.get(each["round"]))

    def names(self, **where: Any) -> list[str]:
        """The rows that took part."""
        return list(dict.fromkeys(each["row"] for each in self._found(**where)))

    def _found(self, **where: Any) -> list[Result]:
        return [each for each in self.results if all(each.get(name) == value for name, value in where.items())]

    def lines(self) -> list[str]:
        """Everything, as plain text."""
        parts = [self._requests, self._streams, self._stores, self._jobs, self._servers, self._disk, self._cache]
        parts += [self._embedded, self._growth, self._imports, self._noise]
        return [line for part in parts for line in part()]

    def _requests(self) -> Iterable[str]:
        for count in dict.fromkeys(each["clients"] for each in self._found(part="requests")):
            where = {"part": "requests", "clients": count}
            table = [
                ["requests/s", "of bare", "of direct", "p50 ms", "p99 ms", "added p50 ms", "CPU ms each", "answers"]
            ]
            for row in self.names(**where):
                answers = sum(each["ok"] for each in self._found(row=row, **where))
                table.append(
                    [
                        show(self.figure(row, "per_second", **where), ",.0f"),
                        show(self.against(row, "bare", "per_second", ratio, **where), ".2f"),
                        show(self.against(row, "direct", "per_second", ratio, **where), ".2f"),
                        show(self.figure(row, "p50_ms", **where), ".2f"),
                        show(self.figure(row, "p99_ms", **where), ".2f"),
                        show(self.against(row, "direct", "p50_ms", difference, **where), ".2f"),
                        "" if row == "direct" else show(self.figure(row, "cpu_ms", **where), ".3f"),
                        f"{answers:,}",
                    ]
                )
            yield from drawn(f"requests, {count} clients", self.names(**where), table)

    def _streams(self) -> Iterable[str]:
        where = {"part": "streams"}
        if not (found := self._found(**where)):
            return
        table = [["chunks/s", "of direct", "TTFT p50 ms", "TTFT p99 ms", "seconds", "CPU ms a stream", "whole"]]
        for row in self.names(**where):
            mine = self._found(row=row, **where)
            table.append(
                [
                    show(self.figure(row, "per_second", **where), ",.0f"),
                    show(self.against(row, "direct", "per_second", ratio, **where), ".2f"),
                    show(self.figure(row, "p50_ms", **where), ".1f"),
                    show(self.figure(row, "p99_ms", **where), ".0f"),
                    show(self.figure(row, "seconds", **where), ".1f"),
                    "" if row == "direct" else show(self.figure(row, "cpu_ms", **where), ".2f"),
                    f"{sum(each['ok'] for each in mine):,} of {sum(each['streams'] for each in mine):,}",
                ]
            )
        yield from drawn(f"{found[0]['streams']:,} streams", self.names(**where), table)

    def _stores(self) -> Iterable[str]:
        for part, title in STORES:
            if not (names := self.names(part=part)):
                continue
            [first, second] = names
            clients = self._found(part=part)[0]["clients"]
            shares = f"of {first}"
            table = [["requests/s", shares, "p50 ms", "p99 ms", "CPU ms each", shares, "database's CPU ms", "answers"]]
            table += [
                [
                    show(self.figure(row, "per_second", part=part), ",.0f"),
                    show(self.against(row, first, "per_second", ratio, part=part), ".2f"),
                    show(self.figure(row, "p50_ms", part=part), ".2f"),
                    show(self.figure(row, "p99_ms", part=part), ".2f"),
                    show(self.figure(row, "cpu_ms", part=part), ".3f"),
                    show(self.against(row, first, "cpu_ms", ratio, part=part), ".2f"),
                    show(self.stored(row, part), ".3f"),
                    f"{sum(each['ok'] for each in self._found(row=row, part=part)):,}",
                ]
                for row in names
            ]
            yield from drawn(f"{title}, {clients} clients", names, table)
            if part == "replicas":
                yield from self._allowed(first, second)

    def stored(self, row: str, part: str) -> Spread | None:
        """Milliseconds of its database server's processor that an answer took."""
        return spread(each["database_ms"] for each in self._found(row=row, part=part) if "database_ms" in each)

    def _allowed(self, first: str, second: str) -> Iterable[str]:
        """What the machine could show of two, and what the processor's time of an answer says of the rest."""
        cores = self._found(part="replicas")[0]["cores"]
        times = show(self.against(second, first, "per_second", ratio, part="replicas"), ".2f")
        scales = show(self.against(second, first, "cpu_ms", lambda two, one: 2 * one / two, part="replicas"), ".2f")
        place = "one for each replica" if cores >= CORES_FOR_OWN else "one for both replicas"
        unseen = "" if cores >= CORES_FOR_TWO else ", so the aim for two cannot be measured here"
        yield f"  cores allowed: {cores}, {place}{unseen}: two answer {times} times what one does"
        yield f"  by the processor's time of an answer: {scales} times, where each has a core and PostgreSQL enough"

    def _servers(self) -> Iterable[str]:
        if not (found := self._found(part="start")):
            return
        table = [["start to health ms", "resident idle MB", "after the load MB"]]
        for each in found:
            after = [one["resident_mb"] for one in self._found(row=each["row"]) if "resident_mb" in one]
            start, most = show(spread(each["start_ms"]), ".0f"), f"{max(after):.0f}" if after else ""
            table.append([start, f"{each['idle_mb']:.0f}", most])
        yield from drawn("servers", [each["row"] for each in found], table)

    def _disk(self) -> Iterable[str]:
        if found := self.figure("disk", "p50_ms", part="disk"):
            yield from ("", f"a durable SQLite commit on this disk, alone: p50 {found:.2f} ms; no record is quicker")

    def _cache(self) -> Iterable[str]:
        for count in dict.fromkeys(each["clients"] for each in self._found(part="cache")):
            where = {"part": "cache", "clients": count}
            table = [["requests/s", "p50 ms", "added p50 ms", "p99 ms", "CPU ms each", "added CPU ms"]]
            table += [
                [
                    show(self.figure(row, "per_second", **where), ",.0f"),
                    show(self.figure(row, "p50_ms", **where), ".3f"),
                    show(self.against(row, "health", "p50_ms", difference, **where), ".3f"),
                    show(self.figure(row, "p99_ms", **where), ".2f"),
                    show(self.figure(row, "cpu_ms", **where), ".3f"),
                    show(self.against(row, "health", "cpu_ms", difference, **where), ".3f"),
                ]
                for row in self.names(**where)
            ]
            yield from drawn(f"kept answers, {count} clients", self.names(**where), table)

    def _jobs(self) -> Iterable[str]:
        where = {"part": "jobs"}
        if names := self.names(**where):
            table = [["jobs/s", f"of {names[-1]}"]]
            table += [
                [
                    show(self.figure(row, "per_second", **where), ",.1f"),
                    show(self.against(row, names[-1], "per_second", ratio, **where), ".1f"),
                ]
                for row in names
            ]
            yield from drawn("jobs of 0.2 s", names, table)

    def _embedded(self) -> Iterable[str]:
        where = {"part": "embedded"}
        if not (found := self._found(**where)):
            return
        table = [["tokens/s", "of llama.cpp", "TTFT p50 ms", "tokens", "resident MB"]]
        table += [
            [
                show(self.figure(row, "tokens_per_second", **where), ".1f"),
                show(self.against(row, "llama.cpp", "tokens_per_second", ratio, **where), ".2f"),
                show(self.figure(row, "p50_ms", **where), ".0f"),
                show(self.figure(row, "completion_tokens", **where), ".0f"),
                show(self.figure(row, "resident_mb", **where), ".0f"),
            ]
            for row in self.names(**where)
        ]
        yield from drawn(f"{found[0]['streams']} embedded generations at once", self.names(**where), table)

    def _growth(self) -> Iterable[str]:
        for part, where, title in GROWTH:
            names = self.names(part=part, where=where)
            if not names:
                continue
            table = [["p50 ms", f"of {names[0]}", "p99 ms"]]
            table += [
                [
                    show(self.figure(row, "p50_ms", part=part, where=where), ".2f"),
                    show(self.against(row, names[0], "p50_ms", ratio, part=part, where=where), ".2f"),
                    show(self.figure(row, "p99_ms", part=part, where=where), ".2f"),
                ]
                for row in names
            ]
            yield from drawn(title, names, table)

    def _imports(self) -> Iterable[str]:
        for each in self._found(part="import"):
            yield from (
                "",
                f"importing {each['row']}: {show(spread(each['ms']), '.0f')} ms, {each['modules']} modules",
                f"  heavy ones among them: {', '.join(each['heavy']) or 'none'}",
                f"  dearest: {', '.join(f'{name} {ms:.0f} ms' for name, ms in each['dearest'])}",
            )

    def _noise(self) -> Iterable[str]:
        found = spread(each["others"] for each in self.results if "others" in each and each["row"] != "direct")
        if found and found.middle > QUIET:
            yield from ("", f"NOT QUIET: other work took {found:.0%} of the servers' core; trust the ratios only")


def ratio(mine: float, other: float) -> float:
    """How many times the other."""
    return mine / other


def difference(mine: float, other: float) -> float:
    """How much more than the other."""
    return mine - other


def show(figure: Spread | None, form: str) -> str:
    """A figure and its range, or nothing."""
    return format(figure, form) if figure else ""


def drawn(title: str, names: list[str], table: list[list[str]]) -> Iterable[str]:
    """A table of aligned columns; its first row is the heading."""
    lines = [[title, *table[0]], *([name, *cells] for name, cells in zip(names, table[1:], strict=True))]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    yield ""
    for line in lines:
        first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join([first.strip().ljust(widths[0]), *rest])
