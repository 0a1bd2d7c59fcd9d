"""The shell: how this program is called there, for messages to operators that name one of its commands."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "loquent"
COMMANDS = ("serve", "worker", "generate", "summarize", "doctor", "models", "users", "store")
NAMED = re.compile(rf"(?<![\w./-])(?<!-m ){NAME} (?=(?:{'|'.join(COMMANDS)})\b)")
"""A command in a message that does not know who reads it: ``loquent models pull``."""


def as_called(text: str) -> str:
    """The message with its commands as they work here."""
    return NAMED.sub(lambda _: f"{called()} ", text)


def called() -> str:
    """How it is called: by its name where the shell finds this very program so, else as it was called now."""
    now = Path(sys.argv[0])
    if now.parts[-2:] == (NAME, "__main__.py"):
        return f"{shlex.quote(sys.orig_argv[0])} -m {NAME}"
    if now.name != NAME or not now.is_file():
        return NAME  # by somebody else's program, as Celery's
    found = shutil.which(NAME)
    if found is not None and now.samefile(found):
        return NAME
    return shlex.quote(str(now) if len(now.parts) > 1 else f"./{now}")
