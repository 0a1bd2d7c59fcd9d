"""Builds everything from the settings: the one place that knows every concrete thing."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tomllib
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from dotenv.parser import Binding, parse_stream

from loquent import blobs, caches, engines, limiters, queues, readers, settings, stores, tracers
from loquent.domain import failpoints
from loquent.domain.errors import Misconfigured, NotFound
from loquent.domain.kinds import SECRET_BYTES
from loquent.domain.log import Log
from loquent.domain.models import BOOLEAN, CHAT, JSON_SCHEMA, TEXT, VISION, Model, Timeouts, from_rows
from loquent.domain.requests import Parameters
from loquent.ports.blobs import Blobs
from loquent.ports.limiter import Rate
from loquent.ports.outages import outage_of
from loquent.ports.queue import Queue
from loquent.ports.store import Store
from loquent.ports.tracer import Tracer
from loquent.services import limits
from loquent.services.accounts import Accounts
from loquent.services.answers import Answers
from loquent.services.backlog import Backlog, Bounds
from loquent.services.documents import Documents
from loquent.services.embeddings import Embeddings
from loquent.services.feedback import Feedbacks
from loquent.services.gate import Gate
from loquent.services.generations import Generations
from loquent.services.health import Health
from loquent.services.history import History
from loquent.services.images import Images, about_images
from loquent.services.jobs import Worker
from loquent.services.kept import Kept
from loquent.services.limits import Limits
from loquent.services.models import Models, Offer
from loquent.services.pace import Pace
from loquent.services.passwords import Passwords
from loquent.services.presets import Presets
from loquent.services.recipes import RECIPES, about_documents, answer
from loquent.services.registry import Registry
from loquent.services.retention import Retention, Rules
from loquent.services.revocations import Revocations
from loquent.services.room import Room
from loquent.services.runner import Runner
from loquent.services.sessions import Sessions
from loquent.services.summaries import Summaries
from loquent.services.tokens import Tokens
from loquent.services.traces import TracedGenerations, TracedRunner, told_tries, told_writes
from loquent.services.turns import Turns
from loquent.services.watch import Watch
from loquent.settings import Settings

log = Log("loquent.settings")

AWS = {"aws_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_key": "AWS_SECRET_ACCESS_KEY"}
"""Settings that the AWS library wants to find in the environment, under these names."""

PREDICTOR = "image-predictor"
"""What the model of IMAGE_MODEL_URL is called."""

ML, ML_SECONDS = "ml", 50.0
"""What the model of ML_URL is called, and the seconds that it has: the documents family's own."""


def load_settings(environ: Mapping[str, str] | None = None, folder: Path = Path()) -> Settings:
    """The settings of this process: its environment, over a ``.env`` file in the folder. Raises Misconfigured."""
    known = environment(environ, folder)
    found = settings.read(known)
    if found.store.startswith("dynamodb:") or found.blobs.startswith("s3:"):
        for name in ("aws_key_id", "aws_secret_key"):  # the AWS library reads the process's own environment alone
            if value := getattr(found, name):
                os.environ.setdefault(AWS[name], value)
    for name in known:
        if name.startswith("OTEL_") and found.traces != "off":  # as does OpenTelemetry
            os.environ.setdefault(name, known[name])
    return found


def left_out(found: Settings) -> list[str]:
    """A line for the shipped models that would answer where none is named, and lack something: how to get it."""
    lacks = lacking(found)
    if not lacks:
        return []
    rows = model_rows(found, every=True)
    chosen = ((CHAT, found.model), (VISION, found.image_model or found.image_model_url))
    firsts = {next((row.name for row in rows if ability in row.abilities), "") for ability, name in chosen if not name}
    told = "; ".join(f"{name} (get it by: {how})" for name, how in lacks.items() if name in firsts)
    return [f"models are left out until the next start: {told}"] if told else []


def lacking(found: Settings) -> dict[str, str]:
    """Shipped models for which something is not here, and what would bring it."""
    if found.models is not None:
        return {}
    rows = model_rows(found, every=True)
    return {row.name: " and ".join(how) for row in rows if (how := _lacks(found, row))}


def _lacks(found: Settings, row: Model) -> list[str]:
    """What would bring what a shipped row needs; nothing for one that a setting names: that has to tell of it."""
    named = (found.model, found.summary_model, found.image_model, found.document_model, found.text_model, found.llm_id)
    return [] if row.name in named or row.id in named else engines.lacks(row, found.weights_dir)


def unknown_models(found: Settings, models: Models) -> list[str]:
    """A line for each variable of the textgen family that names no model of this deployment."""
    try:
        used = f"{models.text_offer().model.name} goes on from prompts instead"
    except NotFound:
        used = "no model goes on from prompts"
    return [
        f"{name} holds {value!r}, which is no model here; {used}"
        for name, value in (("MODEL_NAME", found.text_model), ("LLM_ID", found.llm_id))
        if value and not _called(models.rows(), value)
    ]


def environment(environ: Mapping[str, str] | None = None, folder: Path = Path()) -> dict[str, str]:
    """The variables that count: the environment's, over those of a ``.env`` file. Raises Misconfigured."""
    return {**written(folder)[0], **(os.environ if environ is None else environ)}


def written(folder: Path = Path()) -> tuple[dict[str, str], list[int]]:
    """What a ``.env`` file in the folder says, and the numbers of its lines that say nothing. Raises Misconfigured."""
    file = folder / ".env"
    try:
        text = file.read_text("utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"the file {file} cannot be read: {error}") from error
    said = list(parse_stream(StringIO(text)))
    values = {each.key: each.value for each in said if each.key is not None and each.value is not None}
    starts = ((each.original.line, each.original.string) for each in said if _says_nothing(each))
    return values, [line + string[: len(string) - len(string.lstrip())].count("\n") for line, string in starts]


def _says_nothing(line: Binding) -> bool:
    """Whether it cannot be read, or names a variable without giving it a value; a comment is neither."""
    return line.error or (line.key is not None and line.value is None)


@dataclass(slots=True)
class Services:
    """What the product does, ready to be called. ``open`` before, ``close`` after."""

    settings: Settings
    store: Store
    blobs: Blobs
    queue: Queue
    models: Models
    accounts: Accounts
    tokens: Tokens
    passwords: Passwords
    presets: Presets
    limits: Limits
    answers: Answers
    runner: Runner
    generations: Generations
    embeddings: Embeddings
    summaries: Summaries
    documents: Documents
    images: Images
    sessions: Sessions
    history: History
    feedbacks: Feedbacks
    retention: Retention
    worker: Worker
    health: Health
    watch: Watch
    registry: Registry
    room: Room
    revocations: Revocations
    tracer: Tracer | None = None
    _lock: IO[bytes] | None = None

    async def open(self, *, works: bool = True, chosen: Callable[[], Awaitable[list[Offer]]] | None = None) -> None:
        """Connect, load models in the background, and (``works``) begin to take jobs.

        ``chosen``: with these models alone, for one command: another's weights are not loaded.
        """
        if self.tracer is not None:
            await self.tracer.open()
        alone = await to_thread(self._lock_folder)
        if alone and not works:
            self._share_folder()
        await self.room.open()
        await self.store.open()
        await self.blobs.open()
        await self.queue.open()
        await self.limits.limiter.open()
        if self.answers.kept is not None:
            await self.answers.kept.open()
        await self.registry.load(opens=chosen is None)
        if chosen is not None:
            self.models.offers = {offer.model.name: offer for offer in await chosen()}
        await self.models.open()
        if chosen is None:
            self.registry.open()
            await self.revocations.open()
            self.watch.open()
        await self.runner.open()
        if works:
            await self.worker.open(alone=alone)
            self._share_folder()
            await self.retention.open()

    async def leave(self, *, says_so: bool = True) -> None:
        """Say that others are to be asked, take no more jobs and hand back those that run; requests are served on."""
        self.health.is_leaving = says_so
        await self.retention.close()
        await self.worker.close()
        self.runner.release()

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, hand back those that run, and let the rest end within that many seconds."""
        await self.retention.close()
        await self.worker.close()
        await self.runner.drain(seconds)

    async def close(self) -> None:
        """Take no more work, end what runs, write what there is, let go."""
        await self.watch.close()
        await self.retention.close()
        await self.worker.close()
        await self.runner.close()
        await self.registry.close()
        await self.revocations.close()
        await self.models.close()
        if self.answers.kept is not None:
            await self.answers.kept.close()
        await self.limits.limiter.close()
        await self.queue.close()
        await self.blobs.close()
        await self.store.close()
        await self.room.close()
        if self.tracer is not None:
            await self.tracer.close()
        self.passwords.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _lock_folder(self) -> bool:
        """Say that this process uses the data folder; whether it is the only one that does.

        Others wait until that one has taken up what nobody runs any more: what they take then is not its to take.
        """
        scheme, _, path = self.settings.store_url.partition(":///")
        is_file = scheme.startswith("sqlite")  # then the lock lies beside it, whoever's data folder that is
        place = Path(f"{path.partition('?')[0]}.in-use") if is_file else self.settings.data_dir / "in-use"
        place.parent.mkdir(parents=True, exist_ok=True)
        self._lock = place.open("ab")
        if scheme.startswith(("sqlite", "memory")):  # any other is shared by who knows whom
            with suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        self._share_folder()
        return False

    def _share_folder(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_SH)


def build(found: Settings, *, queue: Queue | None = None, writes: bool = True) -> Services:
    """Everything, put together; nothing is opened yet. ``queue``: one that stands already. Raises Misconfigured.

    ``writes``: the data folder is made, and a secret in it; without, this only tells whether all would fit together.
    """
    try:
        if writes:
            found.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"LOQUENT_DATA_DIR holds {str(found.data_dir)!r}; it takes a folder: {error}") from error
    failpoints.arm(found.failpoints)
    tracer = tracers.connect(found.traces, found.traces_endpoint)
    store: Store = stores.connect(found.store_url, data_dir=found.data_dir)
    outage = outage_of(store)
    if tracer is not None:
        store = told_writes(store, tracer, _system(found))
    files = blobs.connect(found.blobs_url)
    queue = queue or queues.connect(found.queue_url)
    rows = model_rows(found)
    connect = connector(found, rows, lambda name: name in models.used)
    if tracer is not None:
        connect = told_tries(connect, tracer)
    models = _models(found, rows, connect)
    secret = found.secret or _own_secret(found.data_dir, writes=writes)
    tokens = Tokens(secret, minutes=found.token_minutes)
    answers = _answers(found, store, secret)
    passwords = Passwords(threads=found.password_threads)
    rules = Limits(limiters.connect(found.limiter), _rules(found))
    pace = Pace(lease=found.lease_seconds, checkpoint=found.checkpoint_seconds, max_attempts=found.max_attempts)
    turns = Turns(store, lambda id: runner.lives.get(id))
    room = _room(found)
    uploads = {"document": about_documents(store), "image": about_images(store, files)}
    kept = {"text": answers.before(answer), "chat": answers.before(turns.answer)}
    recipes = {**RECIPES, **uploads, **kept}
    backlog = Backlog(store, Bounds(found.max_pending, found.max_pending_tenant, found.max_pending_caller))
    if tracer is None:
        runner = Runner(store, recipes, pace)
        generations = Generations(store, models, rules, runner, queue, answers, backlog, tokens)
    else:
        runner = TracedRunner(store, recipes, pace, tracer=tracer, tells_content=found.log_content)
        generations = TracedGenerations(store, models, rules, runner, queue, answers, backlog, tokens)
    registry = Registry(
        store,
        models,
        connect,
        lambda: runner.lives.values(),
        key_hosts=_key_hosts(found, rows),
        places_of=engines.places_of,
        outage=outage,
    )
    reader = readers.connect(max_bytes=found.max_upload, max_characters=found.max_file_text)
    pictures = readers.picture_cleaner(max_bytes=found.max_upload, max_pixels=found.max_pixels)
    bounds = (found.min_text, found.max_text)
    worker = Worker(
        store,
        runner,
        models,
        queue,
        slots=found.job_slots,
        sweep_seconds=found.sweep_seconds,
        look=registry.look,
        room=room,
        outage=outage,
    )
    health = Health(store, files, rules.limiter, queue, models, answers.kept, room)
    return Services(
        settings=found,
        store=store,
        blobs=files,
        queue=queue,
        models=models,
        accounts=Accounts(store, tokens, passwords, takes_anonymous=found.takes_anonymous),
        tokens=tokens,
        passwords=passwords,
        presets=Presets(store),
        limits=rules,
        answers=answers,
        runner=runner,
        generations=generations,
        embeddings=Embeddings(generations, models),
        summaries=Summaries(generations, models, rules, reader, bounds=bounds, most_in_file=found.max_file_text),
        documents=Documents(store, files, reader, generations, models, rules, model=_document_model(found, models)),
        images=Images(store, files, pictures, generations, models, rules),
        sessions=Sessions(store, models, rules, generations, minutes=found.session_minutes),
        history=History(store),
        feedbacks=Feedbacks(store),
        retention=_retention(found, store, files, answers),
        worker=worker,
        registry=registry,
        room=room,
        revocations=Revocations(store, tokens, runner, outage),
        tracer=tracer,
        health=health,
        watch=Watch(store, queue, models, answers.kept, runner, worker, health, room),
    )


def _room(found: Settings) -> Room:
    """The folders of this machine that the settings have us write to."""
    scheme, _, database = found.store_url.partition("?")[0].partition(":///")
    rows = Path(database).absolute().parent if scheme.startswith("sqlite") else None
    files = Path(urlsplit(found.blobs_url).path) if found.blobs_url.startswith("file:") else None
    return Room(rows, files, data=found.data_dir, reserve=found.free_space)


def model_rows(found: Settings, *, every: bool = False) -> list[Model]:
    """The rows of the operator's file, or the shipped ones; and one that an OPENAI_API_KEY makes by itself.

    ``every``: also shipped ones for which something is not here.
    """
    if found.models is not None:
        where, text = str(found.models), found.models.read_text("utf-8")
    else:
        where, text = "models.toml", resources.files("loquent").joinpath("models.toml").read_text("utf-8")
    try:
        rows: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{where} is not TOML: {error}") from error
    models = from_rows(rows, where)
    if found.models is None and not every:
        models = [model for model in models if not _lacks(found, model)]
    if found.image_model_url and all(model.name != PREDICTOR for model in models):
        models.append(_predictor_row(found))
    if found.openai_api_key and all(model.name != found.openai_model for model in models):
        models.insert(0, _openai_row(found))
    if found.ml_url and all(model.name != ML for model in models):
        models.append(_ml_row(found))
    return models


def build_models(found: Settings) -> Models:
    """The models of the settings with their engines. Raises Misconfigured naming the row."""
    rows = model_rows(found)
    models = _models(found, rows, connector(found, rows, lambda name: name in models.used))
    return models


def connector(found: Settings, rows: Sequence[Model], is_used: Callable[[str], bool]) -> Callable[[Model], Offer]:
    """What makes an offer of a row: one of these, or one that is added later. Raises Misconfigured."""
    options = engines.Options(
        models_dir=found.weights_dir,
        slots=found.llama_slots,
        threads=found.llama_threads or None,
        context=found.llama_context,
        memory=found.llama_memory,
        at_start=is_used,
        keys=_keys(found, rows),
        tells=lambda row: _is_named(engines.host_of(row), found.traces_to),
    )
    return lambda row: Offer(row, engines.connect(row, options), gate=_gate(row, found))


def _is_named(host: str, names: Sequence[str]) -> bool:
    """Whether a list of hosts, as a setting has it, names this one."""
    name = f"[{host}]" if ":" in host else host
    return bool(name) and any(each in ("*", name) or (each[0] == "." and name.endswith(each)) for each in names)


def _system(found: Settings) -> str:
    """What OpenTelemetry calls the database."""
    scheme = found.store_url.partition(":")[0].partition("+")[0]
    return {"postgres": "postgresql", "dynamodb": "aws.dynamodb"}.get(scheme, scheme)


def _models(found: Settings, rows: list[Model], connect: Callable[[Model], Offer]) -> Models:
    offers = [connect(row) for row in rows]
    text = _called(rows, found.text_model) or _called(rows, found.llm_id)
    image = _image_model(found, rows)
    is_left_out = found.summary_model == "extractive" and all(row.name != "extractive" for row in rows)
    summary = "" if is_left_out else found.summary_model  # its own default: a file of rows may do without it
    # who left out a shipped model is not answered by the fake that is shipped beside it
    unasked = frozenset(row.name for row in rows if row.engine == "echo") if found.models is None else frozenset()
    models = Models(offers, default=found.model, summary=summary, text=text, image=image, unasked=unasked)
    for name, env in ((found.model, "LOQUENT_MODEL"), (summary, "LOQUENT_SUMMARY_MODEL")):
        if name and name not in models.offers:
            raise Misconfigured(f"{env} holds {name!r}; it takes one of: {', '.join(models.offers)}")
    return models


def _key_hosts(found: Settings, rows: Sequence[Model]) -> dict[str, frozenset[str]]:
    """The hosts that the operator has paired each key's variable with: by a row, or by LOQUENT_KEY_HOSTS."""
    settled = [(row.key_env, places[0]) for row in rows if row.key_env and (places := engines.places_of(row))]
    pairs = [*found.key_hosts, *settled]
    return {name: frozenset(host for known, host in pairs if known == name) - {""} for name, _ in pairs}


def _keys(found: Settings, rows: Sequence[Model]) -> dict[str, str]:
    """The secrets that rows may name, by variable or by file. Raises Misconfigured."""
    names = set(_key_hosts(found, rows))
    known = environment() if names else {}
    keys = {name: known.get(name, "") for name in names}
    if found.openai_api_key:
        keys["OPENAI_API_KEY"] = found.openai_api_key
    return keys | {row.key_file: _key_in(row.key_file, row.name) for row in rows if row.key_file}


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


def _gate(row: Model, found: Settings) -> Gate | None:
    """Where an engine makes so many answers at once, the line before it is ours: there nobody is passed over."""
    if row.concurrency is None and row.engine in ("llama", "transformers"):
        return Gate(row.name, found.llama_slots)
    return None


def _called(rows: list[Model], wanted: str) -> str:
    """The name of the row that goes by that name or id; empty where there is none."""
    return next((row.name for row in rows if wanted and wanted in (row.name, row.id)), "")


def _image_model(found: Settings, rows: list[Model]) -> str:
    """The model that sees images where none is named; empty: the first row that can."""
    name = found.image_model
    able = [row.name for row in rows if VISION in row.abilities]
    if name and name not in able:
        some = f"it takes one of: {', '.join(able)}" if able else "there is no model with the ability vision"
        raise Misconfigured(f"LOQUENT_IMAGE_MODEL holds {name!r}; {some}")
    return name or (PREDICTOR if found.image_model_url else "")


def _predictor_row(found: Settings) -> Model:
    abilities = frozenset((VISION, BOOLEAN))
    return Model(name=PREDICTOR, engine="http_image", id=PREDICTOR, abilities=abilities, url=found.image_model_url)


def _ml_row(found: Settings) -> Model:
    abilities = frozenset((TEXT,))
    return Model(
        name=ML, engine="http_text", id=ML, abilities=abilities, url=found.ml_url, timeouts=Timeouts(total=ML_SECONDS)
    )


def _document_model(found: Settings, models: Models) -> str:
    """The model that answers about documents where none is named."""
    name = found.document_model
    if name and name not in models.offers:
        raise Misconfigured(f"LOQUENT_DOCUMENT_MODEL holds {name!r}; it takes one of: {', '.join(models.offers)}")
    return name or (ML if found.ml_url else models.summary)


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


def _answers(found: Settings, store: Store, secret: str) -> Answers:
    if found.cache == "off":
        return Answers(None, secret=secret)
    return Answers(Kept(caches.connect(found.cache, size=found.cache_size), store, found.cache_seconds), secret=secret)


def _retention(found: Settings, store: Store, files: Blobs, answers: Answers) -> Retention:
    rules = Rules(
        sessions=found.keep_sessions,
        generations=found.keep_generations,
        uploads=found.keep_uploads,
        logs=found.keep_logs,
        session_minutes=found.session_minutes,
        blob_grace=found.blob_grace_seconds,
        share=found.sweep_share,
    )
    seconds = found.retention_seconds
    return Retention(store, files, rules, answers=answers, log_path=found.log_path, seconds=seconds)


def _rules(found: Settings) -> dict[str, tuple[Rate, ...]]:
    """The rates of each rule; the two plain variables, where set, are the minute and the hour of both kinds of work."""
    plain = {seconds: count for count, seconds in ((found.rate_per_minute, 60), (found.rate_per_hour, 3600)) if count}
    own = {
        limits.GENERATIONS: found.limit_generations,
        limits.SUMMARIES: found.limit_summaries,
        limits.LOGINS: found.limit_logins,
        limits.SESSIONS: found.limit_sessions,
        limits.MESSAGES: found.limit_messages,
    }
    ruled = (limits.GENERATIONS, limits.SUMMARIES)
    return {
        rule: tuple(
            Rate(count, seconds)
            for seconds, count in ({each[1]: each[0] for each in windows} | (plain if rule in ruled else {})).items()
        )
        for rule, windows in own.items()
    }


def _own_secret(data_dir: Path, *, writes: bool) -> str:
    """The secret of this data folder, made at random where there is none yet, readable by its owner alone."""
    path = data_dir / "secret"
    if not path.exists() or not path.stat().st_size:
        if not writes:
            return secrets.token_urlsafe(48)
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
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
