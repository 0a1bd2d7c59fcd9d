"""Settings: one typed place, read from the environment and ``.env``; every one has a default that works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from loquent.domain.errors import Misconfigured
from loquent.domain.urls import without_password
from loquent.settings.access import Access
from loquent.settings.data import Data
from loquent.settings.jobs import Jobs
from loquent.settings.limits import Limits
from loquent.settings.models import Models
from loquent.settings.retention import Retention
from loquent.settings.seeing import Seeing
from loquent.settings.server import Server

LATER = frozenset(("mongodb",))
"""Backends that a family's own variable may name though this version does not carry them: told, and passed over."""
WRITTEN = {"AWS_BUCKET_NAME": "s3://{}"}
"""What stands in such a variable, as a URL."""
ELSEWHERE = {"CELERY_RESULT_BACKEND": "results are kept with the records"}
"""Variables of the families that have no place here, and why they need none."""


# The last group stands first: so a dataclass orders its fields. Some are secrets, or URLs with a password: no repr.
@dataclass(frozen=True, repr=False)
class Settings(Seeing, Retention, Jobs, Limits, Models, Access, Data, Server):
    """Everything that can be set, by field: all groups together, each declared in its own file."""

    @property
    def log_path(self) -> Path | None:
        """The file that is logged to; None where there is none."""
        if self.log_file.lower() == "off":
            return None
        return Path(self.log_file).expanduser() if self.log_file else self.data_dir / "app.log"

    @property
    def weights_dir(self) -> Path:
        """Where model weights are kept, the default worked out."""
        return self.models_dir or self.data_dir / "models"

    @property
    def takes_anonymous(self) -> bool:
        """Whether callers without an account are served."""
        is_private = self.is_loopback and not self.trusted_proxies
        return self.anonymous == "on" or (self.anonymous == "auto" and is_private)


def read(environ: Mapping[str, str]) -> Settings:
    """The settings that an environment holds; the native name goes before its aliases, an empty value is none.

    Raises Misconfigured with one line: which variable, what it holds (a secret is not shown), what it takes.
    """
    values: dict[str, Any] = {}
    for each in fields(Settings):
        for name, text in _said(each, environ):
            if not _is_for_later(each, name, text):
                values[each.name] = _value(name, text, each.metadata)
                break
    found = Settings(**values)
    if found.min_text > found.max_text:
        raise Misconfigured(
            f"MIN_TEXT_LENGTH holds {found.min_text}; it takes at most MAX_TEXT_LENGTH, {found.max_text}"
        )
    return found


def passed_over(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable of a family that names what this version does not carry: what is used in its place."""
    found = read(environ)
    used = {
        "store": f"records are kept in {found.store_url.partition('?')[0]}",
        "queue": f"workers are told of jobs by {without_password(found.queue)}",
        "limiter": f"rates are counted in {found.limiter}",
        "blobs": f"uploaded files are kept in {found.blobs_url}",
    }
    return [
        f"{name} names {_scheme(text)}, which this version does not carry; instead {used[each.name]}"
        for each in fields(Settings)
        for name, text in _said(each, environ)
        if _is_for_later(each, name, text)
    ] + [f"{name} is not used: {why}" for name, why in ELSEWHERE.items() if environ.get(name, "").strip()]


def _said(field: Field[Any], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names of a setting that hold something, with what they hold."""
    for name in (field.metadata["env"], *field.metadata["aliases"]):
        if text := environ.get(name, "").strip():
            yield name, WRITTEN.get(name, "{}").format(text)


def _is_for_later(field: Field[Any], name: str, text: str) -> bool:
    meta, scheme = field.metadata, _scheme(text)
    schemes: tuple[str, ...] = meta["kind"].schemes
    return bool(schemes) and name != meta["env"] and scheme in LATER and scheme not in schemes


def _scheme(text: str) -> str:
    return text.partition(":")[0].partition("+")[0].lower()


def _value(name: str, text: str, meta: Mapping[str, Any]) -> Any:
    try:
        return meta["kind"].read(text)
    except ValueError:
        shown = f"a value of {len(text.encode())} bytes" if meta["secret"] else repr(without_password(text)[:200])
        raise Misconfigured(f"{name} holds {shown}; it takes {meta['takes']}", field=name) from None
