"""A real RabbitMQ for tests: Debian's files, unpacked or installed, run on free ports and folders of their own.

No root, no service: Erlang's port mapper is started here, too, so that none stays behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from amqp.exceptions import NotFound
from kombu import Connection

from daemon import Daemon, free_port, says

PLACES = (Path(__file__).parents[1] / ".tools" / "rabbitmq", Path("/"))
LEAN = "-noinput +S 2:2 +SDio 2 +sbwt none +sbwtdcpu none +sbwtdio none"
"""Two threads that do not spin while they wait: this machine has other things to do."""


class RabbitmqServer(Daemon):
    """Keeps its messages on disk: they outlive a kill, as far as they were written."""

    def __init__(self, folder: Path) -> None:
        home, erlang = _found(folder)
        self.port, self.tls_port, mapper, distribution = free_port(), free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.certificate = _certified(folder)
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.certfile = {self.certificate}\nssl_options.keyfile = {folder / 'key.pem'}\n"
        )
        environment = {
            "PATH": f"{erlang / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_ALLOW_INPUT": "true",  # the server is the process itself, and no child of a shell
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": f"loquent-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": LEAN,
        }
        super().__init__(
            "rabbitmq", [str(home / "sbin" / "rabbitmq-server")], folder, answers=self._answers, environment=environment
        )
        [epmd] = erlang.glob("erts-*/bin/epmd")
        self._mapper = Daemon(
            "epmd",
            [str(epmd), "-address", "127.0.0.1", "-port", str(mapper)],
            folder,
            answers=lambda: says(mapper, b"\x00\x01n", b""),
            environment=environment,
        )

    def start(self) -> None:
        """Start it, in five seconds; its port mapper first, which goes on while it is killed and started anew."""
        self._mapper.start_once()
        super().start()

    def end(self) -> None:
        """Kill it and its port mapper."""
        self.kill()
        self._mapper.kill()

    def empty(self) -> None:
        """Let it forget the queue and what is in it."""
        with self._channel() as channel:
            channel.queue_delete("loquent")

    def waiting(self) -> int:
        """How many messages wait in Celery's queue."""
        with self._channel() as channel:
            try:
                return int(channel.queue_declare("loquent", passive=True).message_count)
            except NotFound:
                return 0

    def rings(self) -> list[dict[str, Any]]:
        """The headers of the messages that wait, oldest first; they go on waiting."""
        found = []
        with self._channel() as channel:
            try:
                while message := channel.basic_get("loquent"):
                    found.append(dict(message.headers))
            except NotFound:
                return []
        return found

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with closing(Connection(self.url)) as connection:
            yield connection.default_channel

    def _answers(self) -> bool:
        return says(self.port, b"AMQP\x00\x00\x09\x01", b"\x01")


@contextmanager
def rabbitmq_server() -> Iterator[RabbitmqServer]:
    """One that runs; what it kept goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="loquent-rabbitmq-"))
    try:
        server = RabbitmqServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _certified(folder: Path) -> Path:
    """A certificate for localhost, by that name alone, which signs itself; its key lies beside it."""
    made = folder / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2")
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key.pem"))
    subprocess.run(["openssl", "req", "-x509", *key, *subject, "-out", str(made)], check=True, capture_output=True)
    return made


def _found(folder: Path) -> tuple[Path, Path]:
    """Where the server lies, and Erlang: a folder made of links, since its own scripts know one place alone."""
    for place in PLACES:
        homes = sorted((place / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        erlang = place / "usr/lib/erlang"
        if homes and erlang.is_dir():
            break
    else:
        raise RuntimeError("RabbitMQ is not there: `make .tools/rabbitmq/.ready` (or `make test`) unpacks it")
    made = folder / "erlang"
    (made / "bin").mkdir(parents=True)
    for each in (*erlang.iterdir(), *(erlang / "bin").iterdir()):
        link = made / each.relative_to(erlang)
        if not link.exists() and each.name not in ("erl", "epmd"):
            link.symlink_to(each)
    [runtime] = erlang.glob("erts-*")
    (made / "bin" / "erl").write_text(
        "#!/bin/sh\n"
        f"export ROOTDIR='{made}' BINDIR='{made / runtime.name / 'bin'}' EMU=beam PROGNAME=erl\n"
        'exec "$BINDIR/erlexec" "$@"\n'
    )
    (made / "bin" / "erl").chmod(0o755)
    return homes[-1], made
