"""Builds everything from the settings: the one place that knows every concrete thing."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loquent import blobs, caches, engines, limiters, queues, readers, stores, tracers
from loquent.domain import failpoints
from loquent.ports.blobs import Blobs
from loquent.ports.outages import outage_of
from loquent.ports.queue import Queue
from loquent.ports.store import Store
from loquent.ports.tracer import Tracer
from loquent.services.accounts import Accounts
from loquent.services.answers import Answers
from loquent.services.backlog import Backlog
from loquent.services.documents import Documents
from loquent.services.embeddings import Embeddings
from loquent.services.feedback import Feedbacks
from loquent.services.generations import Generations
from loquent.services.health import Health
from loquent.services.history import History
from loquent.services.images import Images
from loquent.services.jobs import Worker
from loquent.services.kept import Kept
from loquent.services.limits import Limits
from loquent.services.models import Models, Offer
from loquent.services.passwords import Passwords
from loquent.services.presets import Presets
from loquent.services.registry import Registry
from loquent.services.retention import Retention
from loquent.services.revocations import Revocations
from loquent.services.room import Room
from loquent.services.runner import Runner
from loquent.services.sessions import Sessions
from loquent.services.summaries import Summaries
from loquent.services.tokens import Tokens
from loquent.services.traces import TracedGenerations, told_tries
from loquent.services.watch import Watch
from loquent.settings import Settings
from loquent.wiring.folders import Lock, make_folder, room_of
from loquent.wiring.models import connector, document_model, offered
from loquent.wiring.rows import model_rows
from loquent.wiring.rules import bounds, keeping, rates
from loquent.wiring.running import runner_of, telling
from loquent.wiring.secrets import key_hosts, signing_secret


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
    lock: Lock
    tracer: Tracer | None = None

    async def open(self, *, works: bool = True, chosen: Callable[[], Awaitable[list[Offer]]] | None = None) -> None:
        """Connect, load models in the background, and (``works``) begin to take jobs.

        ``chosen``: with these models alone, for one command: another's weights are not loaded.
        """
        if self.tracer is not None:
            await self.tracer.open()
        alone = await to_thread(self.lock.take)
        if alone and not works:
            self.lock.share()
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
            self.lock.share()
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
        self.lock.close()


def build(
    found: Settings, *, queue: Queue | None = None, passwords: Passwords | None = None, writes: bool = True
) -> Services:
    """Everything, put together; nothing is opened yet. Raises Misconfigured.

    ``queue``, ``passwords``: what stands already.
    ``writes``: the data folder is made, and a secret in it; without, this only tells whether all would fit together.
    """
    if writes:
        make_folder(found.data_dir)
    failpoints.arm(found.failpoints)
    tracer = tracers.connect(found.traces, found.traces_endpoint)
    store: Store = stores.connect(found.store_url, data_dir=found.data_dir)
    outage = outage_of(store)
    store = telling(found, store, tracer)
    files = blobs.connect(found.blobs_url)
    queue = queue or queues.connect(found.queue_url)
    rows = model_rows(found)
    connect = connector(found, rows, lambda name: name in models.used)
    if tracer is not None:
        connect = told_tries(connect, tracer)
    models = offered(found, rows, connect)
    secret = signing_secret(found, writes=writes)
    tokens = Tokens(secret, minutes=found.token_minutes)
    kept = None
    if found.cache != "off":
        kept = Kept(caches.connect(found.cache, size=found.cache_size), store, found.cache_seconds)
    answers = Answers(kept, secret=secret)
    passwords = passwords or Passwords(threads=found.password_threads)
    rules = Limits(limiters.connect(found.limiter), rates(found))
    room = room_of(found)
    runner = runner_of(found, store, files, answers, tracer)
    made = Generations if tracer is None else TracedGenerations
    generations = made(store, models, rules, runner, queue, answers, Backlog(store, bounds(found)), tokens)
    registry = Registry(
        store,
        models,
        connect,
        lambda: runner.lives.values(),
        key_hosts=key_hosts(found, rows),
        places_of=engines.places_of,
        outage=outage,
    )
    reader = readers.connect(max_bytes=found.max_upload, max_characters=found.max_file_text)
    pictures = readers.picture_cleaner(max_bytes=found.max_upload, max_pixels=found.max_pixels)
    texts = (found.min_text, found.max_text)
    retention = Retention(
        store, files, keeping(found), answers=answers, log_path=found.log_path, seconds=found.retention_seconds
    )
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
        summaries=Summaries(generations, models, rules, reader, bounds=texts, most_in_file=found.max_file_text),
        documents=Documents(store, files, reader, generations, models, rules, model=document_model(found, models)),
        images=Images(store, files, pictures, generations, models, rules),
        sessions=Sessions(store, models, rules, generations, minutes=found.session_minutes),
        history=History(store),
        feedbacks=Feedbacks(store),
        retention=retention,
        worker=worker,
        registry=registry,
        room=room,
        revocations=Revocations(store, tokens, runner, outage),
        lock=Lock(found),
        tracer=tracer,
        health=health,
        watch=Watch(store, queue, models, answers.kept, runner, worker, health, room),
    )
