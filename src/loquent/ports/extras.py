"""Extras: the command that brings what a part needs and the plain install leaves out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def install(extra: str) -> str:
    """The command, by the pip of the environment that runs: a shell's own belongs to another one and finds nothing.

    It names a place on this machine, so it is for operators, never for callers.
    """
    python = Path(sys.executable)
    here = Path.cwd()
    if here in python.parents[1:]:  # in its own folder a bare name would again be the shell's
        python = python.relative_to(here)
    pip = python.with_name("pip")
    asked = shlex.quote(str(pip)) if pip.is_file() else f"{shlex.quote(str(python))} -m pip"
    return f'{asked} install "loquent[{extra}]"'
