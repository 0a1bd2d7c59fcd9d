"""Loquent as tests have it: built by the same wiring, on the shipped fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loquent import settings
from loquent.domain.principals import Principal
from loquent.services.passwords import Passwords
from loquent.services.wanted import Wanted
from loquent.settings import Settings
from loquent.wiring import Services, build

ROWS = """
[[model]]
name = "echo"
engine = "echo"
id = "echo"
abilities = ["text", "chat", "tools", "embeddings", "logprobs"]
context = 1000
price = {input = 1.5, output = 2}

[[model]]
name = "extractive"
engine = "extractive"
id = "extractive"
abilities = ["summary"]

[[model]]
name = "prompt-only"
engine = "echo"
id = "echo"
abilities = ["text"]

[[model]]
name = "seer"
engine = "echo"
id = "echo"
abilities = ["vision"]
"""
ANN, BOB = Principal("default", "usr_ann", "ann"), Principal("default", "usr_bob", "bob")
ANN_ELSEWHERE = Principal("other", "usr_ann", "ann")


def settings_for(folder: Path, **environ: str) -> Settings:
    """Settings on the memory store, with echo and extractive models, quick where things are slow by default."""
    rows = folder / "models.toml"
    rows.write_text(ROWS)
    return settings.read(
        {
            "LOQUENT_DATA_DIR": str(folder / "data"),
            "LOQUENT_STORE": "memory:",
            "LOQUENT_MODELS": str(rows),
            "LOQUENT_SWEEP_SECONDS": "0.1",
            "LOQUENT_CHECKPOINT_SECONDS": "0.1",
            **environ,
        }
    )


def built(found: Settings) -> Services:
    """The services, not open; passwords are hashed as ever, but in no time: hundreds of tests log somebody in."""
    return build(found, passwords=Passwords(threads=found.password_threads, memory_kib=8, passes=1))


@asynccontextmanager
async def opened(folder: Path, *, works: bool = True, **environ: str) -> AsyncIterator[Services]:
    """Services, open; ``works``: jobs are run."""
    services = built(settings_for(folder, **environ))
    await services.open(works=works)
    try:
        yield services
    finally:
        await services.close()


def shared(folder: Path) -> dict[str, str]:
    """Settings of processes that share a store."""
    return {"LOQUENT_STORE": f"sqlite:///{folder / 'shared.db'}"}


@asynccontextmanager
async def two(folder: Path, **environ: str) -> AsyncIterator[tuple[Services, Services]]:
    """Two processes on one store, as far as they can tell; only the second takes jobs."""
    for name in ("one", "other"):
        (folder / name).mkdir()
    settings = {**shared(folder), **environ}
    async with (
        opened(folder / "one", works=False, **settings) as one,
        opened(folder / "other", **settings) as other,
    ):
        yield one, other


def wanted(prompt: str, **more: object) -> Wanted:
    """A plain wish: that prompt, as one message."""
    known = {"kind": "text", "surface": "api", "input": {"prompt": prompt}, "text": prompt, **more}
    return Wanted(**known)  # type: ignore[arg-type]
