"""Places where a process can die: tests name some in LOQUENT_FAILPOINTS and the process kills itself there.

``name`` dies at the first pass, ``name:7`` at the seventh. ``unfenced`` is no place to die: it takes the fence off
the finish, the negative control of the test that needs it.
"""

from __future__ import annotations

import os
import signal

UNFENCED = "unfenced"
_left: dict[str, int] = {}


def arm(text: str) -> None:
    """Set them from the setting's text: names parted by commas."""
    _left.clear()
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, passes = part.partition(":")
        _left[name] = int(passes or 1)


def is_armed(name: str) -> bool:
    """Whether that one is set."""
    return name in _left


def passing(name: str) -> None:
    """Die here, as kill -9 would, where this is the pass that was asked for."""
    if _left and name in _left:
        _left[name] -= 1
        if _left[name] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
