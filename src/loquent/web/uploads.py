"""Uploads: a file of a form, as a file of our own for as long as a request needs it, and what it is called."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

from fastapi import UploadFile
from starlette.concurrency import run_in_threadpool

from loquent.domain.errors import Invalid, Unavailable
from loquent.services.uploads import unnamed

BLOCK = 1 << 20
LONGEST_NAME, LONGEST_ENDING = 200, 20  # characters that are kept


@asynccontextmanager
async def kept(file: UploadFile) -> AsyncIterator[tuple[Path, bytes]]:
    """``async with kept(file) as (path, digest)``: a copy of our own, with its SHA-256; gone afterwards.

    Raises Invalid where the form gives the file no name, Unavailable where there is no room for it.
    """
    if not file.filename:
        raise Invalid("the form's file has no name", field="file")
    with ExitStack() as stack:
        try:
            copy, path = stack.enter_context(unnamed())
            digest = await run_in_threadpool(_copy, file, copy)
        except OSError as error:
            raise Unavailable(f"the file cannot be kept now: {error.strerror}", retry_after=60) from error
        yield path, digest


def called(file: UploadFile) -> str:
    """What its sender calls it, fit to be shown: no folders, nothing that cannot be seen, not too long.

    Raises Invalid where nothing is left. No path is ever made of it.
    """
    last = (file.filename or "").replace("\\", "/").rpartition("/")[2]
    name = "".join(each for each in last if each.isprintable()).strip()
    if not name.strip(". "):
        raise Invalid("the form's file has no name", field="file")
    stem, dot, ending = name.rpartition(".")
    if len(name) > LONGEST_NAME and stem and len(ending) <= LONGEST_ENDING:
        return stem[: LONGEST_NAME - len(ending) - 1] + dot + ending
    return name[:LONGEST_NAME]


def _copy(file: UploadFile, copy: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while block := file.file.read(BLOCK):
        copy.write(block)
        digest.update(block)
    copy.flush()
    return digest.digest()
