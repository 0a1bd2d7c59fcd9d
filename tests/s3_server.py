"""A real S3 server for tests: SeaweedFS, as a package carries it, on free ports of loopback, gone with the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from daemon import free_ports

KEYS = {  # the ones of Amazon's own examples
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}
BUCKET = "doc-reader-uploads"
START = 60.0  # seconds that a start may take
PORTS = (
    *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc"),
    *("volume.port", "volume.port.grpc", "admin.port", "admin.port.grpc"),
)
OFF = ("admin.ui=false", "webdav=false", "master.telemetry=false", "s3.autoCreateBucket=false")


class S3Server:
    """One with a bucket, which can be stopped, killed, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        self._client = get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="eu-central-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
        )

    def url(self, bucket: str = BUCKET, **options: str) -> str:
        """Where an empty place of one's own in the bucket is."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"s3://{bucket}/t{uuid4().hex}?endpoint={self.endpoint}&region=eu-central-1{more}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        given = [f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports, *(f"-{each}" for each in OFF)]
        given += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "S3_BUCKET": BUCKET, **KEYS}
        with (self._folder / "server.log").open("ab") as log:
            command = [str(Path(sys.executable).with_name("weed")), "mini", *given]
            self._process = subprocess.Popen(command, cwd=self._folder, env=environment, stdout=log, stderr=log)
        until = time.monotonic() + START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self._folder / "server.log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None
        self._client.close()
        for port in self._ports.values():
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # its own, wherever it is started
                socket_file.unlink(missing_ok=True)

    def signal(self, what: signal.Signals) -> None:
        """Freeze it with SIGSTOP, or let it go on with SIGCONT."""
        if self._process is not None:
            self._process.send_signal(what)

    def _answers(self) -> bool:
        """Whether it has its bucket and room in it."""
        try:
            self._client.put_object(Bucket=BUCKET, Key="started", Body=b"x")
        except (BotoCoreError, ClientError):
            return False
        return True


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """One that runs; what it kept goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="loquent-s3-"))
    try:
        server = S3Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def with_keys(monkeypatch: pytest.MonkeyPatch, keys: Mapping[str, str] = KEYS) -> None:
    """The library finds these keys, and nothing else that a machine may hold for it."""
    for name in {*KEYS, *(name for name in os.environ if name.startswith("AWS_"))}:
        monkeypatch.setenv(name, "")  # so that what is set meanwhile goes with the test
        monkeypatch.delenv(name)
    for name, value in {**keys, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
