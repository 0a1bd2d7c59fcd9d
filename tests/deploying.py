"""What the tests of ``deploy/`` share: the tools that read it, and what the program knows of it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from loquent.cli.serve import LAST_WORDS
from loquent.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
CLOSING = 5  # seconds in which a server that has drained ends


def tool(name: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """What a program of the development set says, with no settings but those given."""
    command = [Path(sys.executable).with_name(name), *arguments]
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def known() -> set[str]:
    """Every variable that the program reads."""
    return {name for each in fields(Settings) for name in (each.metadata["env"], *each.metadata["aliases"])}


def longest_stop(settings: Settings) -> float:
    """The most seconds that a stop takes."""
    return settings.stop_delay + settings.stop_seconds + LAST_WORDS + CLOSING
