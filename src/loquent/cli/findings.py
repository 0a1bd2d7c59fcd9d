"""What the doctor looks at: each part says what it found, and changes nothing."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.util import find_spec
from urllib.parse import urlsplit

from loquent import stores
from loquent.checks import SERVE, WORKER, doubts, refuse
from loquent.cli.listening import bound
from loquent.cli.marks import BAD, DOUBT, OK
from loquent.domain.errors import LoquentError, Misconfigured, ModelLoading
from loquent.domain.urls import without_password
from loquent.ports.extras import install
from loquent.services.models import Offer
from loquent.services.room import nearest
from loquent.settings import Settings
from loquent.settings.environment import environment
from loquent.wiring import build
from loquent.wiring.folders import room_of
from loquent.wiring.models import build_models, unknown_models
from loquent.wiring.rows import left_out, model_rows

LOAD_SECONDS = 60.0  # that a model may take to load
ANSWER_SECONDS = 5.0  # that anything else may take to answer
LITTLE_SPACE = 1_000_000_000  # bytes
CLOCK_SECONDS = 60  # by which the newest record may lie ahead
NEEDED = {"pypdf": (".pdf files", "documents"), "PIL": ("pictures", "images")}
"""What reads uploads, what it reads, and the extra that brings it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: how it stands, and what can be done."""

    mark: str
    what: str
    do: str = ""


def installed() -> list[Finding]:
    """The parts that an extra brings and no model needs; an engine's own is told with its model."""
    lacks = [said for module, said in NEEDED.items() if find_spec(module) is None]
    if not lacks:
        return [Finding(OK, "files of every kind can be read")]
    return [Finding(DOUBT, f"{what} cannot be read", install(extra)) for what, extra in lacks]


def configured(found: Settings) -> list[Finding]:
    """The settings that are set, where, to what (secrets hidden); and what is told of them when a server starts."""
    merged = environment()
    said: list[Finding] = []
    for each in fields(Settings):
        names = (each.metadata["env"], *each.metadata["aliases"])
        name = next((name for name in names if merged.get(name, "").strip()), None)
        if name is None:
            continue
        where = "environment" if name in os.environ else ".env"
        value = "(hidden)" if each.metadata["secret"] else without_password(merged[name].strip())
        said.append(Finding(OK, f"{name} = {value}, from {where}"))
    with suppress(Misconfigured):  # of the file of models, which is looked at by itself
        for doubt in doubts(found, SERVE):
            said.append(Finding(DOUBT, doubt.what, doubt.do))  # noqa: PERF401  (those before it has to be given up)
    return said or [Finding(OK, "all as shipped")]


def start(found: Settings) -> list[Finding]:
    """What would keep the server, or a worker, from starting: it is put together as it would be, and not opened."""
    said = []
    try:
        refuse(found, SERVE)
        build(found, writes=False).passwords.close()
    except (LoquentError, OSError) as error:
        said.append(Finding(BAD, f"{SERVE} would not start: {error}"))
    try:
        refuse(found, WORKER)
    except Misconfigured as error:
        said.append(Finding(DOUBT, f"{WORKER} would not start: {error.message}"))
    return said or [Finding(OK, "nothing keeps it from starting")]


def folder(settings: Settings) -> list[Finding]:
    """The data folder: whether it can be written, has room, keeps its secret to itself, and is not of tomorrow."""
    path = settings.data_dir.absolute()
    place = nearest(path)
    if not os.access(place, os.W_OK | os.X_OK):
        return [Finding(BAD, f"{place} cannot be written", "give it to this user, or set LOQUENT_DATA_DIR")]
    free = shutil.disk_usage(place).free
    room = f"{path}: {'can be written' if path.exists() else 'will be made'}, {free / 1e9:.1f} GB free"
    found = [Finding(DOUBT if free < LITTLE_SPACE else OK, room, "make room" if free < LITTLE_SPACE else "")]
    found += full(settings)
    secret = path / "secret"
    if not settings.secret and secret.exists() and secret.stat().st_mode & 0o077:
        found.append(Finding(DOUBT, f"others can read {secret}, which signs access tokens", f"chmod 600 {secret}"))
    newest = max((each.stat().st_mtime for each in path.glob("loquent.db*")), default=0.0)
    if newest > time.time() + CLOCK_SECONDS:
        found.append(Finding(DOUBT, "the clock stands before the newest record", "set this machine's clock"))
    return found


def full(settings: Settings) -> list[Finding]:
    """The disks of database and uploads that have less room than is kept free: a server begins nothing new then."""
    return [
        Finding(BAD, f"{place}: {left / 1e6:.1f} MB free, so that nothing new is begun (507)", "make room there")
        for place, left in room_of(settings).short().items()
    ]


async def models(settings: Settings) -> list[Finding]:
    """Every model: whether it would answer. One that is nobody's default may be away."""
    try:
        rows, offered = model_rows(settings), build_models(settings)
    except Misconfigured as error:
        return [Finding(BAD, error.message)]
    unkeyed = [
        Finding(DOUBT, f"{row.name}: {row.key_env} is not set, and the row says that its key is there")
        for row in rows
        if row.key_env and row.key_env != "OPENAI_API_KEY" and not os.environ.get(row.key_env)
    ]
    unkeyed += [Finding(DOUBT, line) for line in unknown_models(settings, offered)]
    needed = {offered.default, offered.summary}
    unkeyed += [Finding(DOUBT, line) for line in left_out(settings)]
    if not offered.default:
        unkeyed.append(Finding(BAD, "no model can chat", _more_models(settings)))
    try:
        asked = await asyncio.gather(*(_ask(offer, offer.model.name in needed) for offer in offered.offers.values()))
    finally:
        await offered.close()
    return [*asked, *unkeyed]


def _more_models(settings: Settings) -> str:
    """What brings a model that can chat."""
    if settings.models is not None:
        return f"add a row to {settings.models}"
    return f"loquent models pull, into {settings.weights_dir.absolute()}; or name a file of rows in LOQUENT_MODELS"


async def added(settings: Settings) -> list[Finding]:
    """The models that were added to the store, as far as that is there and up to date: nothing is made or changed."""
    said: list[Finding] = []
    try:
        checked = await stores.check(settings.store_url, settings.data_dir)
        if checked.current is None or checked.findings:
            return []  # which is told of the store itself
        services = build(settings, writes=False)
    except (LoquentError, OSError):
        return []
    try:
        await services.store.open()
        await services.registry.load(opens=False)
        offers = [each for each in services.registry.offered() if each.is_added]
        said = list(
            await asyncio.gather(*(_ask(offer, offer.model.name == services.models.default) for offer in offers))
        )
        said += [Finding(DOUBT, f"{each.record.name}: {each.problem}") for each in services.registry.left_out()]
    except LoquentError as error:
        said.append(Finding(DOUBT, f"the added models cannot be read: {error.message}"))
    finally:
        await services.registry.close()
        await services.models.close()
        await services.store.close()
        services.passwords.close()
    return said


async def _ask(offer: Offer, is_needed: bool) -> Finding:
    name = f"{offer.model.name} ({offer.model.engine}{', added' if offer.is_added else ''})"
    started = time.monotonic()
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            await offer.engine.open()
            await _ready(offer)
    except LoquentError as error:
        where = f", at {without_password(offer.model.url)}" if offer.model.url else ""
        return Finding(BAD if is_needed else DOUBT, f"{name}{where}: {error.message}")
    except TimeoutError:
        return Finding(BAD if is_needed else DOUBT, f"{name}: no answer in {time.monotonic() - started:.0f} seconds")
    role = ", a default" if is_needed else ""
    return Finding(OK, f"{name}{role}: answers, after {time.monotonic() - started:.1f} s")


async def _ready(offer: Offer) -> None:
    """Wait while it loads. Raises what Engine.ready does, and TimeoutError where it says nothing."""
    while True:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await offer.engine.ready()
        except ModelLoading:
            await asyncio.sleep(0.1)
        else:
            return


async def port(settings: Settings) -> list[Finding]:
    """Whether the server could listen, or does already."""
    where = f"{settings.host} port {settings.port}"
    try:
        bound(settings.host, settings.port).close()
    except Misconfigured as error:
        if await asyncio.to_thread(_is_loquent, settings.host, settings.port):
            return [Finding(OK, f"a Loquent answers on {where}")]
        return [
            Finding(
                BAD, error.message, "end what listens there, or name another place in LOQUENT_HOST and LOQUENT_PORT"
            )
        ]
    return [Finding(OK, f"{where} is free")]


def _is_loquent(host: str, port: int) -> bool:
    """Whether what listens there says that it is one of us."""
    asked = http.client.HTTPConnection("127.0.0.1" if host in ("0.0.0.0", "::") else host.strip("[]"), port, timeout=2)  # noqa: S104
    try:
        asked.request("GET", "/api/v1/health", headers={"Host": "localhost"})
        return b'"service":"loquent"' in asked.getresponse().read(1_000)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()


def exposed(settings: Settings) -> list[Finding]:
    """What is open that perhaps should not be."""
    found = []
    if settings.takes_anonymous and not settings.is_loopback:
        what = f"anybody who reaches {settings.host} is served without an account"
        found.append(Finding(DOUBT, what, "set LOQUENT_ANONYMOUS=auto"))
    if settings.registration and not settings.is_loopback:
        what = f"anybody who reaches {settings.host} can make an account"
        found.append(Finding(DOUBT, what, "set LOQUENT_REGISTRATION=off; loquent users add makes accounts then"))
    if settings.log_content:
        found.append(Finding(DOUBT, "prompts and answers are logged", "set LOQUENT_LOG_CONTENT=off"))
    if settings.failpoints:
        found.append(Finding(BAD, "LOQUENT_FAILPOINTS makes the process die on purpose", "unset it"))
    urls = {settings.openai_base_url} if settings.openai_api_key else set()
    for url in sorted(urls):
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            found.append(Finding(DOUBT, f"the key for {parts.hostname} travels in the clear", "use https://"))
    return found or [
        Finding(
            OK, f"anonymous callers are {'served, on this machine only' if settings.takes_anonymous else 'refused'}"
        )
    ]
