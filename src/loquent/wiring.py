"""Builds everything from the settings: the one place that knows every concrete thing."""

from __future__ import annotations

import fcntl
import os
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

from dotenv import dotenv_values

from loquent import engines, limiters, queues, readers, settings, stores
from loquent.domain import failpoints
from loquent.domain.errors import Misconfigured
from loquent.domain.kinds import SECRET_BYTES
from loquent.domain.models import CHAT, JSON_SCHEMA, TEXT, Model, from_rows
from loquent.domain.requests import Parameters
from loquent.ports.limiter import Rate
from loquent.ports.queue import Queue
from loquent.ports.store import Store
from loquent.services import limits
from loquent.services.accounts import Accounts
from loquent.services.generations import Generations
from loquent.services.health import Health
from loquent.services.jobs import Worker
from loquent.services.limits import Limits
from loquent.services.models import Models, Offer
from loquent.services.passwords import Passwords
from loquent.services.recipes import RECIPES
from loquent.services.runner import Pace, Runner
from loquent.services.summaries import Summaries
from loquent.services.tokens import Tokens
from loquent.settings import Settings


def load_settings(environ: Mapping[str, str] | None = None, folder: Path = Path()) -> Settings:
    """The settings of this process: its environment, over a ``.env`` file in the folder. Raises Misconfigured."""
    return settings.read(environment(environ, folder))


def environment(environ: Mapping[str, str] | None = None, folder: Path = Path()) -> dict[str, str]:
    """The variables that count: the environment's, over those of a ``.env`` file. Raises Misconfigured."""
    file = folder / ".env"
    try:
        written = dotenv_values(file, interpolate=False) if file.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"the file {file} cannot be read: {error}") from error
    values = {name: value for name, value in written.items() if value is not None}
    return {**values, **(os.environ if environ is None else environ)}


@dataclass(slots=True)
class Services:
    """What the product does, ready to be called. ``open`` before, ``close`` after."""

    settings: Settings
    store: Store
    queue: Queue
    models: Models
    accounts: Accounts
    tokens: Tokens
    passwords: Passwords
    limits: Limits
    runner: Runner
    generations: Generations
    summaries: Summaries
    worker: Worker
    health: Health
    _lock: IO[bytes] | None = None

    async def open(self, *, works: bool = True) -> None:
        """Connect, load models in the background, and (``works``) begin to take jobs."""
        alone = self._lock_folder()
        await self.store.open()
        await self.queue.open()
        await self.limits.limiter.open()
        await self.models.open()
        await self.runner.open()
        if works:
            await self.worker.open(alone=alone)

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, hand back those that run, and let the rest end within that many seconds."""
        await self.worker.close()
        await self.runner.drain(seconds)

    async def close(self) -> None:
        """Take no more work, end what runs, write what there is, let go."""
        await self.worker.close()
        await self.runner.close()
        await self.models.close()
        await self.limits.limiter.close()
        await self.queue.close()
        await self.store.close()
        self.passwords.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _lock_folder(self) -> bool:
        """Say that this process uses the data folder; whether it is the only one that does."""
        scheme, _, path = self.settings.store_url.partition(":///")
        is_file = scheme.startswith("sqlite")  # then the lock lies beside it, whoever's data folder that is
        place = Path(f"{path.partition('?')[0]}.in-use") if is_file else self.settings.data_dir / "in-use"
        place.parent.mkdir(parents=True, exist_ok=True)
        self._lock = place.open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return alone and not self.settings.store_url.startswith("dynamodb")


def build(found: Settings) -> Services:
    """Everything, put together; nothing is opened yet. Raises Misconfigured."""
    try:
        found.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"LOQUENT_DATA_DIR holds {str(found.data_dir)!r}; it takes a folder: {error}") from error
    failpoints.arm(found.failpoints)
    store = stores.connect(found.store_url, data_dir=found.data_dir)
    queue = queues.connect(found.queue)
    models = build_models(found)
    tokens = Tokens(found.secret or _own_secret(found.data_dir), minutes=found.token_minutes)
    passwords = Passwords(threads=found.password_threads)
    rules = Limits(limiters.connect(found.limiter), _rules(found))
    pace = Pace(lease=found.lease_seconds, checkpoint=found.checkpoint_seconds, max_attempts=found.max_attempts)
    runner = Runner(store, RECIPES, pace)
    generations = Generations(store, models, rules, runner, queue)
    reader = readers.connect(max_bytes=found.max_upload, max_characters=found.max_file_text)
    bounds = (found.min_text, found.max_text)
    return Services(
        settings=found,
        store=store,
        queue=queue,
        models=models,
        accounts=Accounts(store, tokens, passwords, takes_anonymous=found.takes_anonymous),
        tokens=tokens,
        passwords=passwords,
        limits=rules,
        runner=runner,
        generations=generations,
        summaries=Summaries(generations, models, rules, reader, bounds=bounds, most_in_file=found.max_file_text),
        worker=Worker(store, runner, models, queue, slots=found.job_slots, sweep_seconds=found.sweep_seconds),
        health=Health(store, models),
    )


def model_rows(found: Settings) -> list[Model]:
    """The rows of the operator's file, or the shipped ones; and one that an OPENAI_API_KEY makes by itself."""
    if found.models is not None:
        where, text = str(found.models), found.models.read_text("utf-8")
    else:
        where, text = "models.toml", resources.files("loquent").joinpath("models.toml").read_text("utf-8")
    try:
        rows: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{where} is not TOML: {error}") from error
    models = from_rows(rows, where)
    if found.openai_api_key and all(model.name != found.openai_model for model in models):
        models.insert(0, _openai_row(found))
    return models


def build_models(found: Settings) -> Models:
    """The models with their engines. Raises Misconfigured naming the row."""
    rows = model_rows(found)
    names = {row.key_env for row in rows if row.key_env}
    known = environment() if names else {}
    keys = {name: known.get(name, "") for name in names}
    if found.openai_api_key:
        keys["OPENAI_API_KEY"] = found.openai_api_key
    options = engines.Options(
        models_dir=found.weights_dir,
        slots=found.llama_slots,
        threads=found.llama_threads or None,
        context=found.llama_context,
        keys=keys,
    )
    offers = [Offer(row, engines.connect(row, options)) for row in rows]
    models = Models(offers, default=found.model, summary=found.summary_model)
    for name, env in ((found.model, "LOQUENT_MODEL"), (found.summary_model, "LOQUENT_SUMMARY_MODEL")):
        if name and name not in models.offers:
            if env == "LOQUENT_SUMMARY_MODEL" and name == "extractive":
                models.summary = models.default  # the default's own default: a file of rows may leave it out
                continue
            raise Misconfigured(f"{env} holds {name!r}; it takes one of: {', '.join(models.offers)}")
    return models


def _openai_row(found: Settings) -> Model:
    return Model(
        name=found.openai_model,
        engine="openai",
        id=found.openai_model,
        abilities=frozenset((CHAT, TEXT, JSON_SCHEMA)),
        defaults=Parameters(max_tokens=found.openai_max_tokens or None, temperature=found.openai_temperature),
        url=found.openai_base_url,
        key_env="OPENAI_API_KEY",
    )


def _rules(found: Settings) -> dict[str, tuple[Rate, ...]]:
    """The rates of each rule; the two plain variables, where set, rule both kinds of work."""
    plain = ((found.rate_per_minute, 60), (found.rate_per_hour, 3600))
    ruled = tuple(Rate(count, seconds) for count, seconds in plain if count)
    own = {
        limits.GENERATIONS: found.limit_generations,
        limits.SUMMARIES: found.limit_summaries,
        limits.LOGINS: found.limit_logins,
    }
    rules = {rule: tuple(Rate(count, seconds) for count, seconds in windows) for rule, windows in own.items()}
    return rules | ({limits.GENERATIONS: ruled, limits.SUMMARIES: ruled} if ruled else {})


def _own_secret(data_dir: Path) -> str:
    """The secret of this data folder, made at random where there is none yet, readable by its owner alone."""
    path = data_dir / "secret"
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_text("ascii").strip()
        if len(secret) < SECRET_BYTES:
            raise Misconfigured(f"{path} holds {len(secret)} bytes; remove it, and a new one is made") from None
        return secret
    with os.fdopen(made, "w") as file:
        secret = secrets.token_urlsafe(48)
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret
