"""Where settings are read from: this process's environment, over a ``.env`` file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from loquent.domain.errors import Misconfigured
from loquent.settings import Settings, read

if TYPE_CHECKING:
    from dotenv.parser import Binding

AWS = {"aws_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_key": "AWS_SECRET_ACCESS_KEY"}
"""Settings that the AWS library wants to find in the environment, under these names."""


def load_settings(environ: Mapping[str, str] | None = None, folder: Path = Path()) -> Settings:
    """The settings of this process: its environment, over a ``.env`` file in the folder. Raises Misconfigured."""
    known = environment(environ, folder)
    try:
        found = read(known)
    except Misconfigured as error:
        raise Misconfigured(f"{error.message}{_whose(error.field, known, folder)}", field=error.field) from None
    if found.store.startswith("dynamodb:") or found.blobs.startswith("s3:"):
        for name in ("aws_key_id", "aws_secret_key"):  # the AWS library reads the process's own environment alone
            if value := getattr(found, name):
                os.environ.setdefault(AWS[name], value)
    for name in known:
        if name.startswith("OTEL_") and found.traces != "off":  # as does OpenTelemetry
            os.environ.setdefault(name, known[name])
    return found


def _whose(name: str, known: Mapping[str, str], folder: Path) -> str:
    """A word on a variable that nobody may have set for Loquent: one of the environment alone, of a name of anybody's.

    It stops the start like any other, since it may well be meant: ``HOST`` and ``DEBUG`` are the families' names.
    """
    if not name or name.startswith("LOQUENT_") or written(folder)[0].get(name) == known[name]:
        return ""
    [own] = {
        each.metadata["env"] for each in fields(Settings) if name in (each.metadata["env"], *each.metadata["aliases"])
    }
    do = f"{own}, which goes before it, sets Loquent's" if own != name else "for Loquent it can be left empty"
    return f" (perhaps another program has set it: {do})"


def environment(environ: Mapping[str, str] | None = None, folder: Path = Path()) -> dict[str, str]:
    """The variables that count: the environment's, over those of a ``.env`` file. Raises Misconfigured."""
    return {**written(folder)[0], **(os.environ if environ is None else environ)}


def written(folder: Path = Path()) -> tuple[dict[str, str], list[int]]:
    """What a ``.env`` file in the folder says, and the numbers of its lines that say nothing. Raises Misconfigured."""
    file = folder / ".env"
    try:
        text = file.read_text("utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"the file {file} cannot be read: {error}") from error
    if not text:
        return {}, []
    from dotenv.parser import parse_stream  # only where there is something to read

    said = list(parse_stream(StringIO(text)))
    values = {each.key: each.value for each in said if each.key is not None and each.value is not None}
    starts = ((each.original.line, each.original.string) for each in said if _says_nothing(each))
    return values, [line + string[: len(string) - len(string.lstrip())].count("\n") for line, string in starts]


def _says_nothing(line: Binding) -> bool:
    """Whether it cannot be read, or names a variable without giving it a value; a comment is neither."""
    return line.error or (line.key is not None and line.value is None)
