"""How the server's process is set up, beyond what it answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, os, threading
from loquent.cli import serve

async def main():
    serve.STARTED = 0.05
    serve.wake_gently(asyncio.get_running_loop())
    found = []
    look = lambda: found.append(os.sched_getscheduler(0))
    thread = threading.Thread(target=lambda: (look(), gate.wait(5), look()))
    gate = threading.Event()
    thread.start()
    while os.sched_getscheduler(0) == os.SCHED_BATCH:
        await asyncio.sleep(0.01)
    gate.set()
    thread.join()
    assert found == [os.SCHED_BATCH, os.SCHED_BATCH], found
    assert os.sched_getscheduler(0) == os.SCHED_OTHER

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has batch scheduling")
def test_threads_of_the_start_are_woken_gently_and_the_loop_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
