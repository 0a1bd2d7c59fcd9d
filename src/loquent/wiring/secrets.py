"""Secrets: the one that signs access tokens, and the keys that rows of models may name."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from secrets import token_urlsafe

from loquent import engines
from loquent.domain.errors import Misconfigured
from loquent.domain.kinds import SECRET_BYTES
from loquent.domain.log import Log
from loquent.domain.models import Model
from loquent.settings import Settings
from loquent.settings.environment import environment

log = Log("loquent.settings")


def signing_secret(found: Settings, *, writes: bool) -> str:
    """That of the settings, or of the data folder: made at random where there is none, for its owner alone to read.

    Raises Misconfigured.
    """
    if found.secret:
        return found.secret
    path = found.data_dir / "secret"
    if not path.exists() or not path.stat().st_size:
        if not writes:
            return token_urlsafe(48)
        _make_secret(path)
    try:
        secret = path.read_text("ascii").strip()
    except UnicodeDecodeError:
        secret = ""
    if len(secret) < SECRET_BYTES:
        raise Misconfigured(f"{path} holds {len(secret)} bytes; remove it, and a new one is made")
    return secret


def _make_secret(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of two that begin at once the second takes what the first has made
        if not file.read():
            os.fchmod(file.fileno(), 0o600)  # somebody else may have made it, with nothing in it
            file.write(token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())


def key_hosts(found: Settings, rows: Sequence[Model]) -> dict[str, frozenset[str]]:
    """The hosts that the operator has paired each key's variable with: by a row, or by LOQUENT_KEY_HOSTS."""
    settled = [(row.key_env, places[0]) for row in rows if row.key_env and (places := engines.places_of(row))]
    pairs = [*found.key_hosts, *settled]
    return {name: frozenset(host for known, host in pairs if known == name) - {""} for name, _ in pairs}


def keys(found: Settings, rows: Sequence[Model]) -> dict[str, str]:
    """The secrets that rows may name, by variable or by file. Raises Misconfigured."""
    names = set(key_hosts(found, rows))
    known = environment() if names else {}
    values = {name: known.get(name, "") for name in names}
    if found.openai_api_key:
        values["OPENAI_API_KEY"] = found.openai_api_key
    return values | {row.key_file: _key_in(row.key_file, row.name) for row in rows if row.key_file}


def _key_in(file: str, model: str) -> str:
    """The key that a file holds; a word of warning where everybody on this machine can read it."""
    path = Path(file).expanduser()
    try:
        key = path.read_text("utf-8").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Misconfigured(f"model {model}: key_file {file} cannot be read: {why}", field="key_file") from None
    if not key or not key.isprintable():
        raise Misconfigured(f"model {model}: key_file {file} takes one line, the key", field="key_file")
    if mode & stat.S_IROTH:
        log.warning("everybody on this machine can read a key", file=file, model=model)
    return key
