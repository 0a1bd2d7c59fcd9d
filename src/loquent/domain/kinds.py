"""Sorts of values that settings take: how each is read from text, and what it says of itself to people."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Windows = tuple[tuple[int, int], ...]  # (count, seconds) of each sliding window
Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

SECRET_BYTES = 32
MAKE_SECRET = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105  (a command)
BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
YES, NO = frozenset(("1", "true", "yes", "on")), frozenset(("0", "false", "no", "off"))
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one sort of value is read; ``takes`` says so to people. ``read`` raises ValueError."""

    takes: str
    read: Callable[[str], Any]
    schemes: tuple[str, ...] = ()  # of a URL that names a backend


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


def url(*schemes: str, word: str = "") -> Kind:
    """A URL that names a backend by its scheme; a driver behind a plus sign is allowed (``sqlite+aiosqlite:``).

    ``word``: what may stand in place of one.
    """

    def read(text: str) -> str:
        if word and text.lower() == word:
            return word
        scheme, colon, _ = text.partition(":")
        if not colon or scheme.lower().partition("+")[0] not in schemes:
            raise ValueError
        return text

    takes = "a URL that begins with " + " or ".join(f"{scheme}:" for scheme in schemes)
    return Kind(f"{word}, or {takes}" if word else takes, read, schemes)


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


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?) *([kmgt]?b)?", text.lower())
    if not match:
        raise ValueError
    return int(float(match[1]) * BYTES[match[2] or ""])


def _names(text: str) -> tuple[str, ...]:
    """Names parted by commas; a JSON-like list, as some frameworks write it, is read too."""
    return tuple(filter(None, (part.strip(" \"'[]") for part in text.split(","))))


def _hosts(text: str) -> tuple[str, ...]:
    """Host names as Django takes them, parted by commas or spaces: ``*`` is any, ``.example.org`` all within it."""
    is_list = re.match(r"[\[(](?![0-9a-fA-F:.]+\])", text)  # but not an IPv6 address
    found = [part.strip("\"'").lower() for part in re.split(r"[,\s]+", text[1:-1] if is_list else text)]
    found = [re.sub(r"^([^:\[\]]+):\d+$", r"\1", name) for name in found]
    if any(re.search(r"[/@*]", name) and name != "*" for name in found):
        raise ValueError
    return tuple(f"[{name}]" if ":" in name and not name.startswith("[") else name for name in found if name)


def _key_hosts(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in _names(text):
        name, _, host = (each.strip() for each in part.partition("="))
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or not re.fullmatch(r"[\w.-]+|\[?[0-9a-fA-F:.]+\]?", host):
            raise ValueError
        found.append((name, host.strip("[]").rstrip(".").lower()))
    return tuple(found)


def _level(text: str) -> str:
    """A level by its name, in any case, or by its number; WARN and FATAL are names of old."""
    known = logging.getLevelNamesMapping() | {str(number): number for number in range(10, 60, 10)}
    name = logging.getLevelName(known.get(text.upper(), -1))
    if name not in LEVELS:
        raise ValueError
    return str(name)


def _levels(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in _names(text):
        name, _, level = part.partition("=")
        if not name.strip():
            raise ValueError
        found.append((name.strip(), _level(level.strip())))
    return tuple(found)


def _networks(text: str) -> Networks:
    return tuple(ipaddress.ip_network(part, strict=False) for part in _names(text))


def _database_name(text: str) -> str:
    if not text.isprintable() or re.search(r"[?#]|://|/$", text):
        raise ValueError
    return text


TEXT = Kind("text on one line", _text)
FLAG = Kind("true or false", _flag)
FILE = Kind("the path of a file that exists", _file)
FOLDER = Kind("a folder, made where it is missing", _folder)
SECRET = Kind(f"at least {SECRET_BYTES} bytes; make one with: {MAKE_SECRET}", _secret)
WINDOWS = Kind("counts in windows, like 10/minute, 100/hour; or off", _windows)
SIZE = Kind("a size in bytes, or like 512MB, 1.5GB", _size)
NAMES = Kind("names parted by commas", _names)
HOSTS = Kind("host names parted by commas; .example.org is all within it, * is any", _hosts)
KEY_HOSTS = Kind("variables with the hosts of their keys, like OPENROUTER_API_KEY=openrouter.ai", _key_hosts)
LEVEL = Kind("one of " + ", ".join(LEVELS), _level)
LOGGERS = Kind("loggers with their levels, like loquent.runner=DEBUG, loquent.sql=DEBUG", _levels)
NETWORKS = Kind("addresses and networks, like 10.0.0.1, 192.168.0.0/16, fd00::/8", _networks)
DATABASE = Kind("the name of a database or of its file", _database_name)
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
