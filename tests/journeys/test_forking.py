"""A command that is forked does what the same command does that starts from nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from forking import SOURCE, begun
from journeys.processes import ECHO
from loquent import __version__

pytestmark = pytest.mark.journey


@pytest.mark.parametrize("anew", [False, True])
def test_a_command_has_what_it_is_given_and_tells_how_it_ended(tmp_path: Path, free_port: int, anew: bool) -> None:
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "LOQUENT_PORT": str(free_port)}
    log = tmp_path / "log"

    def begin(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        return begun("loquent", *arguments, folder=tmp_path, environ={**bare, **environ}, log=log, anew=anew)

    assert begin("--version").wait(60) == 0
    assert log.read_text() == f"loquent {__version__}\n"
    assert begin("serve", LOQUENT_MODELS="nowhere.toml").wait(60) == 2
    assert "nowhere.toml" in log.read_text()
    with begin("serve", LOQUENT_DATA_DIR="its-own", LOQUENT_FREE_SPACE="1MB", LOQUENT_LOG_FILE="off") as server:
        while "serving" not in log.read_text():
            assert server.poll() is None, log.read_text()
            time.sleep(0.02)
        assert psutil.Process(server.pid).cwd() == str(tmp_path)
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.05)
        server.kill()
        assert server.wait(60) == server.poll() == -signal.SIGKILL
    assert (tmp_path / "its-own").is_dir()
    assert not psutil.pid_exists(server.pid)


def test_commands_that_begin_on_a_folder_that_another_is_just_making_wait_for_its_secret(tmp_path: Path) -> None:
    bare = {"PATH": os.environ["PATH"], "LOQUENT_DATA_DIR": "data", "LOQUENT_FREE_SPACE": "1MB"}
    (tmp_path / "models.toml").write_text(ECHO)
    environ = {**bare, "LOQUENT_MODELS": "models.toml"}
    log, secret = tmp_path / "log", tmp_path / "data" / "secret"
    secret.parent.mkdir()
    with secret.open("w") as making:  # by one that is not as far as to have written it
        fcntl.flock(making, fcntl.LOCK_EX)
        asked = [begun("loquent", "generate", "hello", folder=tmp_path, environ=environ, log=log) for _ in range(3)]
        time.sleep(0.5)
        making.write("s" * 64)
    assert [each.wait(60) for each in asked] == [0] * 3, log.read_text()
    assert secret.read_text() == "s" * 64
