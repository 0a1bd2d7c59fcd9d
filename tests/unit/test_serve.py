"""How the server's process is set up, beyond what it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loquent.cli.place import Place
from loquent.cli.serve import CLOSING, grace
from loquent.settings import Settings

SCRIPT = """
import os, threading
from loquent.cli import serve

own = serve.wake_gently()
found = []
look = lambda: found.append(os.sched_getscheduler(0))
gate = threading.Event()
thread = threading.Thread(target=lambda: (look(), gate.wait(5), look()))
thread.start()
own()
gate.set()
thread.join()
assert found == [os.SCHED_BATCH, os.SCHED_BATCH], found
assert os.sched_getscheduler(0) == os.SCHED_OTHER
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has batch scheduling")
def test_threads_of_the_start_are_woken_gently_and_the_loop_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("workers", "delay", "waits"), [(1, 0, False), (1, 1, True), (2, 0, False)])
def test_what_runs_is_waited_for_where_a_stop_is_told_first(workers: int, delay: float, waits: bool) -> None:
    settings = replace(Settings(), workers=workers, stop_delay=delay, stop_seconds=20)
    assert (grace(settings, None) > 20) == waits
    assert waits or grace(settings, None) == CLOSING
    assert grace(settings, Place(0, 3, Path())) > 20, "whatever is set by now: a parent had it started"


LEAVES = """
import os, socket, sys
from loquent.cli.listening import leave_to_others

ours = socket.socket(fileno=int(sys.argv[1]))
ours.setblocking(False)
twin = socket.socket(fileno=os.dup(ours.fileno()))  # as a server may hold it, too
leave_to_others(ours.fileno())
for each in (ours, twin):
    try:
        each.accept()
    except BlockingIOError:
        print("nobody comes")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the numbers of a socket")
def test_who_leaves_a_port_to_others_takes_nobody_who_comes_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        number = listening.fileno()
        done = subprocess.run(
            [sys.executable, "-c", LEAVES, str(number)],
            capture_output=True, text=True, timeout=30, check=False, pass_fds=[number],
        )  # fmt: skip
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "nobody comes\n" * 2)
        listening.settimeout(5)
        listening.accept()[0].close()
