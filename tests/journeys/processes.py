"""Commands of ours as processes that a test starts, kills and waits for; serving.py has a plain server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import httpx2

from forking import begun

ECHO = '[[model]]\nname = "echo"\nengine = "echo"\nid = "echo"\n'
PATIENCE = 150.0  # seconds that a start or an end may take; a slow machine is no fault


def start(folder: Path, command: str, *, module: str = "loquent", **environ: str) -> subprocess.Popen[bytes]:
    """A command on the echo model, with that folder for all it keeps; its log goes on in ``{command}.log``.

    ``module``: whose command it is.
    """
    models = folder / "models.toml"
    if not models.exists():  # or another command would find it empty for a moment
        models.write_text(ECHO, "utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOQUENT_", "OPENAI_"))}
    own = {"LOQUENT_DATA_DIR": str(folder / "data"), "LOQUENT_MODELS": str(models), "LOQUENT_HOST": "127.0.0.1"}
    settings = {**kept, **own, "LOQUENT_FREE_SPACE": "1MB", "LOQUENT_LIMIT_GENERATIONS": "off", **environ}
    log, anew = folder / f"{command}.log", "PYTHONPATH" in environ
    return begun(module, *command.split(), folder=folder, environ=settings, log=log, anew=anew)


async def is_up(process: subprocess.Popen[bytes], address: str) -> bool:
    """True as soon as the server answers; False where its process ends before."""
    until = time.monotonic() + PATIENCE
    async with httpx2.AsyncClient(verify=False) as client:  # to read the system's certificates takes it 40 ms
        while process.poll() is None and time.monotonic() < until:
            try:
                if (await client.get(f"{address}/api/v1/health/live", timeout=5)).is_success:
                    return True
            except httpx2.HTTPError:
                await asyncio.sleep(0.02)
    return False


async def end_of(process: subprocess.Popen[bytes], seconds: float = PATIENCE) -> int:
    """Its exit code, once it has ended. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while (code := process.poll()) is None:
            await asyncio.sleep(0.01)
    return code
