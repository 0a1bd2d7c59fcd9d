"""How the server's process is set up, beyond what it answers."""

from __future__ import annotations

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
