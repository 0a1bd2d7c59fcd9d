"""Sorts of values that settings take: how each is read from text, and what it says of itself to people."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Windows = tuple[tuple[int, int], ...]  # (count, seconds) of each sliding window

SECRET_BYTES = 32
MAKE_SECRET = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105  (a command)
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
YES, NO = frozenset(("1", "true", "yes", "on")), frozenset(("0", "false", "no", "off"))


@dataclass(frozen=True, slots=True)
class Kind:
    """How one sort of value is read; ``takes`` says so to people. ``read`` raises ValueError."""

    takes: str
    read: Callable[[str], Any]


def whole(low: int, high: int) -> Kind:
    """A whole number within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind(f"a whole number from {low} to {high}", read)


def number(low: float, high: float) -> Kind:
    """A number within bounds."""

    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a number from {low:g} to {high:g}", read)


def one_of(*values: str) -> Kind:
    """One of some words, in any case."""

    def read(text: str) -> str:
        for value in values:
            if value.lower() == text.lower():
                return value
        raise ValueError

    return Kind("one of " + ", ".join(values), read)


def url(*schemes: str) -> Kind:
    """A URL that names a backend by its scheme; a driver behind a plus sign is allowed (``sqlite+aiosqlite:``)."""

    def read(text: str) -> str:
        scheme, colon, _ = text.partition(":")
        if not colon or scheme.lower().partition("+")[0] not in schemes:
            raise ValueError
        return text

    return Kind("a URL that begins with " + " or ".join(f"{scheme}:" for scheme in schemes), read)


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError
    return text


def _flag(text: str) -> bool:
    if text.lower() not in YES | NO:
        raise ValueError
    return text.lower() in YES


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError
    return path


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise ValueError
    return path


def _secret(text: str) -> str:
    if len(text.encode()) < SECRET_BYTES:
        raise ValueError
    return text


def _windows(text: str) -> Windows:
    if text.lower() == "off":
        return ()
    found = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = re.fullmatch(r"(\d{1,12}) */ *(?:(\d{1,6}) *)?(second|minute|hour|day)s?", part)
        if not match or int(match[1]) < 1:
            raise ValueError
        found.append((int(match[1]), int(match[2] or 1) * UNITS[match[3]]))
    return tuple(found)


def _names(text: str) -> tuple[str, ...]:
    """Names parted by commas; a JSON-like list, as some frameworks write it, is read too."""
    return tuple(filter(None, (part.strip(" \"'[]") for part in text.split(","))))


TEXT = Kind("text on one line", _text)
FLAG = Kind("true or false", _flag)
FILE = Kind("the path of a file that exists", _file)
FOLDER = Kind("a folder, made where it is missing", _folder)
SECRET = Kind(f"at least {SECRET_BYTES} bytes; make one with: {MAKE_SECRET}", _secret)
WINDOWS = Kind("counts in windows, like 10/minute, 100/hour; or off", _windows)
NAMES = Kind("names parted by commas", _names)
HTTP = Kind("a URL that begins with http:// or https://", url("http", "https").read)


def setting(
    default: T,
    kind: Kind,
    about: str,
    *,
    env: str,
    aliases: tuple[str, ...] = (),
    group: str,
    secret: bool = False,
    shown_default: str | None = None,
) -> T:
    """A field that is read from the environment."""
    meta = {"kind": kind, "takes": kind.takes, "about": about, "env": env, "aliases": aliases, "group": group}
    meta |= {"secret": secret, "shown_default": shown_default}
    return field(default=default, metadata=meta)
