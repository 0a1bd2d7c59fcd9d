"""The ways to reach models: one file an engine, a table of them, and ``connect``, which imports only the one used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loquent.domain.errors import Misconfigured
from loquent.domain.models import Model
from loquent.ports.engine import Engine
from loquent.ports.extras import install

ENGINES: Mapping[str, str] = {
    "llama": "loquent.engines.llama:Llama",
    "openai": "loquent.engines.openai:OpenAI",
    "anthropic": "loquent.engines.anthropic:Anthropic",
    "transformers": "loquent.engines.transformers:Transformers",
    "http_image": "loquent.engines.http_image:HttpImage",
    "ocr": "loquent.engines.ocr:Ocr",
    "extractive": "loquent.engines.extractive:Extractive",
    "http_text": "loquent.engines.http_text:HttpText",
    "echo": "loquent.engines.echo:Echo",
}
"""What a row's ``engine`` may say, and the class that it means, built as ``Class(model, options)`` for each row."""

EXTRAS: Mapping[str, str] = {"llama": "llama", "transformers": "transformers", "ocr": "ocr"}
"""The engines that need more than the plain install, and the extra that brings it."""

HOMES: Mapping[str, str] = {"anthropic": "https://api.anthropic.com", "transformers": "https://huggingface.co"}
"""Where an engine calls, with a row's key, when the row names no URL; transformers calls nowhere else."""

PACKAGES: Mapping[str, tuple[str, ...]] = {"llama": ("xllamacpp",), "ocr": ("rapidocr", "onnxruntime", "PIL")}
"""What the engines of the shipped rows import of it."""


@dataclass(frozen=True)
class Options:
    """What the deployment says to every engine; each takes what concerns it."""

    models_dir: Path  # where weights lie
    slots: int = 4  # answers that an embedded model works on at once
    threads: int | None = None  # of an embedded model; None: it chooses
    context: int = 8192  # tokens for each slot of an embedded model
    memory: int | None = None  # bytes that embedded models take together; 0: any; None: a share of the machine's
    at_start: Callable[[str], bool] = lambda name: True  # whether the row of that name is loaded before it is asked
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)  # a row's key_env or key_file -> the secret
    tells: Callable[[Model], bool] = lambda model: False  # whether its server is told of the trace of a call
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # what rows of one engine share

    def key_of(self, model: Model) -> str:
        """The secret that goes with a row; empty where there is none."""
        return self.keys.get(model.key_env or model.key_file or "", "")


def host_of(model: Model) -> str:
    """The host that a row's key goes to; empty where its engine calls nobody, or its URL names none."""
    return _place_of(model)[1]


def places_of(model: Model) -> tuple[str, ...]:
    """The words by which a key may have been paired with the place that this row's goes to: that place exactly, and its
    host alone where nobody on the way can read the key."""
    scheme, host, port = _place_of(model)
    if not host:
        return ()
    is_private = scheme == "https" or host in ("localhost", "::1") or host.startswith("127.")
    return (f"{scheme}://{host}:{port}", *([host] if is_private else []))


def _place_of(model: Model) -> tuple[str, str, int]:
    """Scheme, host and port of whom its engine calls; empty where that is nobody."""
    home = HOMES.get(model.engine, "")
    try:
        parts = urlsplit(home if model.engine == "transformers" else model.url or home)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:  # the engine itself says so where it is opened
        return "", "", 0
    return parts.scheme, (parts.hostname or "").rstrip("."), port


def is_installed(engine: str) -> bool:
    """Whether what stands in PACKAGES for it is there."""
    return all(find_spec(package) for package in PACKAGES.get(engine, ()))


def lacks(model: Model, models_dir: Path) -> list[str]:
    """The commands that bring what this row needs and what is not on this machine."""
    commands = []
    if not is_installed(model.engine):
        commands.append(install(EXTRAS[model.engine]))
    if model.engine == "llama" and not (models_dir / model.id).is_file():
        commands.append(f"loquent models pull {model.name}")
    return commands


def connect(model: Model, options: Options) -> Engine:
    """The engine of this row, not yet opened. Raises Misconfigured where it is unknown or not installed."""
    if model.engine not in ENGINES:
        raise Misconfigured(
            f"model {model.name}: engine {model.engine!r} is not one of {', '.join(ENGINES)}", field="engine"
        )
    module, _, name = ENGINES[model.engine].partition(":")
    try:
        engine: Engine = getattr(import_module(module), name)(model, options)
    except ImportError as missing:
        if model.engine not in EXTRAS:
            raise  # a broken install, not a missing extra
        raise Misconfigured(
            f"model {model.name}: engine {model.engine} needs {missing.name or 'a package'}, which is not installed: "
            + install(EXTRAS[model.engine]),
            field="engine",
        ) from missing
    return engine
