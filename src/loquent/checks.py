"""Checks: what a program refuses, and what it warns of, before it starts; the doctor tells the same beforehand."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from loquent.domain.errors import Misconfigured
from loquent.domain.log import Log
from loquent.ports.shell import as_called
from loquent.settings import Settings, passed_over
from loquent.settings.environment import written
from loquent.wiring import Services
from loquent.wiring.models import unknown_models
from loquent.wiring.rows import OPENAI, left_out, made_by_key, model_rows

log = Log("loquent.settings")
SERVE, WORKER = "loquent serve", "loquent worker"
OURS = "LOQUENT_"
OWN = ("memory", "sqlite")
"""Stores that no process on another machine can use."""
LINKED = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)|_PORT$")
"""How variables are called that Kubernetes makes of a service named loquent-…; nobody has misspelt these."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that may not be what is wanted, and what to do about it."""

    what: str
    do: str = ""


def check(
    found: Settings, program: str = SERVE, environ: Mapping[str, str] | None = None, folder: Path = Path()
) -> None:
    """Before a program starts, once: raise Misconfigured where it could not do its work, log what may not be meant."""
    refuse(found, program)
    for doubt in doubts(found, program, environ, folder):
        log.warning(as_called(f"{doubt.what}; {doubt.do}" if doubt.do else doubt.what))


def warn(services: Services) -> None:
    """Log what only the models can tell."""
    for line in (*unknown_models(services.settings, services.models), *left_out(services.settings)):
        log.warning(as_called(line))
    default = services.models.offers.get(services.models.default)
    if default is not None and made_by_key(services.settings, default.model):
        log.info(f"{OPENAI} is set, so {default.model.name} answers who names no model; LOQUENT_MODEL names another")


def refuse(found: Settings, program: str) -> None:
    """Raise Misconfigured where these settings together cannot be meant for that program."""
    if not found.is_in_memory:
        return
    if program == WORKER:
        raise Misconfigured(
            "LOQUENT_STORE holds memory, which no other process sees: a worker would never find a job there; "
            "leave LOQUENT_STORE out, name a PostgreSQL, or let loquent serve run the jobs"
        )
    if found.has_siblings:
        raise Misconfigured(
            f"LOQUENT_WORKERS holds {found.workers} and LOQUENT_STORE memory: each process would have records of its "
            "own; leave LOQUENT_STORE out, or name a PostgreSQL"
        )


def doubts(
    found: Settings, program: str, environ: Mapping[str, str] | None = None, folder: Path = Path()
) -> Iterator[Doubt]:
    """What is to be told of them all the same. Raises Misconfigured where the file of models cannot be read."""
    said, unread = written(folder)
    known = {**said, **(os.environ if environ is None else environ)}
    yield from (Doubt(line) for line in passed_over(known))
    yield from _misspelt(known)
    for number in unread:
        yield Doubt(f"line {number} of {folder / '.env'} cannot be read and is passed over", "it takes NAME=value")
    if program == SERVE:
        yield from _of_several(found)


def _misspelt(known: Mapping[str, str]) -> Iterator[Doubt]:
    """Each name that looks like a setting of ours and is none."""
    names = {name for each in fields(Settings) for name in (each.metadata["env"], *each.metadata["aliases"])}
    for name in sorted(known):
        if name.startswith(OURS) and name not in names and not LINKED.search(name):
            from difflib import get_close_matches  # only where there is something to look for

            short = {each.removeprefix(OURS): each for each in sorted(names, key=lambda each: each.startswith(OURS))}
            near = get_close_matches(name.removeprefix(OURS), short, n=1)  # all are near by what all begin with
            do = f"perhaps {short[near[0]]} is meant" if near else "docs/settings.md lists them all"
            yield Doubt(f"{name} is set, and is no setting", do)


def _of_several(found: Settings) -> Iterator[Doubt]:
    """What server processes of one deployment do not share, on this machine or on several."""
    if not found.secret and not found.store_url.startswith(OWN):
        yield Doubt(
            f"LOQUENT_SECRET is not set: {found.data_dir / 'secret'} signs access tokens, and a server with another "
            "data folder would refuse them",
            "set one and the same LOQUENT_SECRET for all servers on this store",
        )
    if not found.has_siblings:
        return
    count = found.workers
    if found.limiter.startswith("memory"):
        yield Doubt(
            f"each of {count} processes counts rates for itself, so callers may have {count} times the limits",
            "set LOQUENT_LIMITER to a Redis to share them",
        )
    for row in model_rows(found):
        if row.engine in ("llama", "transformers"):
            yield Doubt(
                f"each of {count} processes loads {row.name} for itself where it is used: {count} times its memory, "
                "and as many threads",
                "LOQUENT_WORKERS is for models that run elsewhere",
            )
