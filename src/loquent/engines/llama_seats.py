"""Who sits where in llama.cpp: it fills each batch with prompts in the order of its slots, the first one whole.

So a short prompt in the wrong slot would wait until all long ones before it are read. Here long prompts are read one
at a time, in the order in which they came, in the slot furthest back; short ones sit before it.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect

LONG = 2_000  # characters: what is longer, and not recalled, takes seconds to read
WORTH = 0.1  # of a prompt: a slot that recalls less of it is no better than another

Said = tuple[str, ...]


class Seats:
    """The slots of one model in memory, and what each of them recalls of its last prompt."""

    def __init__(self, slots: int) -> None:
        self.turn = asyncio.Lock()  # of those with a long prompt; it is had until that is read
        self._free = list(range(slots))  # the one that was left longest ago first
        self._unread: dict[int, bool] = {}  # where a prompt is being read, and whether it is long
        self._recalled: list[Said] = [()] * slots
        self._changed = threading.Condition()

    def is_long(self, said: Said) -> bool:
        """Whether to read it takes seconds."""
        whole = sum(map(len, said))
        return whole > LONG and all(whole - _alike(said, self._recalled[seat]) > LONG for seat in list(self._free))

    def take(self, said: Said, *, is_long: bool) -> int:
        """In a thread: a seat. It is waited for where rows share the model, and have more asks than it has slots; and
        by a long prompt until those behind it are read."""
        with self._changed:
            while not self._free or (is_long and max(self._unread, default=-1) > max(self._free)):
                self._changed.wait()
            seat = max(self._free) if is_long else self._before(said)
            self._free.remove(seat)
            self._unread[seat], self._recalled[seat] = is_long, said
            return seat

    def read(self, seat: int) -> None:
        """In a thread: the prompt there is read."""
        with self._changed:
            self._unread.pop(seat, None)
            self._changed.notify_all()

    def leave(self, seat: int) -> None:
        """In a thread: llama.cpp is done there."""
        with self._changed:
            self._unread.pop(seat, None)
            self._free.append(seat)
            self._changed.notify_all()

    def _before(self, said: Said) -> int:
        """A seat that is read before any long prompt: the one that recalls most of this one, or is oldest."""
        long = min((seat for seat, is_long in self._unread.items() if is_long), default=len(self._recalled))
        free = [seat for seat in self._free if seat < long] or self._free
        best = max(free, key=lambda seat: _alike(said, self._recalled[seat]))
        return best if _alike(said, self._recalled[best]) > WORTH * sum(map(len, said)) else free[0]


def _alike(one: Said, other: Said) -> int:
    """Characters with which both begin."""
    alike = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            ends = range(1, min(len(mine), len(theirs)) + 1)
            return alike + bisect(ends, False, key=lambda end: mine[:end] != theirs[:end])
        alike += len(mine)
    return alike
