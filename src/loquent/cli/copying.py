"""What ``loquent store copy`` opens: the places that were, and those that the settings name now."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

from loquent import blobs, stores
from loquent.domain.errors import Conflict, Misconfigured
from loquent.domain.urls import without_password
from loquent.services.copying import Copied, copy_files, copy_records
from loquent.settings import Settings
from loquent.wiring.folders import Lock


async def copied_from(records: str, files: str, settings: Settings) -> Copied:
    """Both, where they are named. Files come first: so a record is never without its own."""
    copied = Copied()
    if files:
        await _files(files, settings, copied)
    if records:
        await _records(records, settings, copied)
    return copied


async def _files(url: str, settings: Settings, copied: Copied) -> None:
    folder = blobs.folder_of(url)
    if folder is not None and not folder.is_dir():
        raise Misconfigured(f"--files: there is no folder {folder}")
    async with AsyncExitStack() as stack:
        source, target = blobs.connect(url), blobs.connect(settings.blobs_url)
        for each in (source, target):
            stack.push_async_callback(each.close)
            await each.open()
        await copy_files(source, target, copied)


async def _records(url: str, settings: Settings, copied: Copied) -> None:
    if settings.is_in_memory:
        raise Misconfigured("LOQUENT_STORE holds memory: what is copied there is gone when this command ends")
    checked = await stores.check(url, settings.data_dir)
    if checked.current is None:
        raise Misconfigured(f"--records: {without_password(url)} holds no records of Loquent")
    async with AsyncExitStack() as stack:
        lock = Lock(replace(settings, store=url))
        stack.callback(lock.close)
        if not lock.take() and stores.file_of(url) is not None:
            raise Conflict(f"{without_password(url)} is in use: stop the servers and workers on it, then copy")
        source, target = (stores.connect(each, data_dir=settings.data_dir) for each in (url, settings.store_url))
        for store in (source, target):
            stack.push_async_callback(store.close)
            await store.open()
        await copy_records(source, target, copied)
