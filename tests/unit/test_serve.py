"""How the server's process is set up, beyond what it answers."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

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
