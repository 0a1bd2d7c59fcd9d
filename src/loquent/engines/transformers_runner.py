"""The thread that runs a model: answers wait in line for a slot, are read one after the other, and said all at once."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from typing import Any

from loquent.domain.errors import LoquentError, Unavailable
from loquent.engines.transformers_batch import Answer, Batch, Choosing, failed
from loquent.engines.transformers_text import Saying


class Runner:
    """One model's thread. Every method but ``close`` returns at once; whoever leaves is let go at the next token."""

    def __init__(self, model: Any, name: str, slots: int) -> None:
        self.typical = 2.0  # seconds that an answer has a slot, lately
        self._batch = Batch(model)
        self._name, self._slots = name, slots
        self._bell = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._reading: deque[Answer] = deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"transformers-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        atexit.register(self.close)  # or the interpreter would go away under a thread in native code

    def submit(self, answer: Answer) -> None:
        """Run this one as soon as there is a slot."""
        with self._bell:
            if not self._is_closed:
                self._waiting.append(answer)
                self._bell.notify()
                return
        answer.relay.fail(self._closed())

    def close(self) -> None:
        """End what runs, and let go of the model. May take as long as a token does."""
        with self._bell:
            self._is_closed = True
            self._bell.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            with self._bell:
                self._is_closed = True  # however it came to its end: nobody may wait for it any more
            self._fail_all(self._closed(), [*self._waiting])
            del self._batch

    def _turn(self) -> bool:
        """A stretch of one prompt and a token of each answer; False where all is over."""
        if not self._admitted():
            return False
        self._batch.drop_left()
        joining = self._read()
        try:
            for answer in joining:
                self._batch.join(answer)
            if self._batch.answers:
                self._note(self._batch.step())
        except Exception as fault:  # short memory above all; what is known of the others is torn then
            self._fail_all(failed(fault), joining)
        return True

    def _read(self) -> list[Answer]:
        """A stretch of the prompt that came first; the answer, where it has been read and goes on."""
        while self._reading and self._reading[0].relay.left:
            self._reading.popleft()
        if not self._reading:
            return []
        answer = self._reading[0]
        try:
            self._batch.read(answer)
        except Exception as fault:
            answer.relay.fail(failed(fault))
            return []
        if not answer.is_read:
            return []
        self._reading.popleft()
        return [] if answer.is_over else [answer]

    def _admitted(self) -> bool:
        """Wait for something to do, and give free slots to those who wait longest; False where all is over."""
        with self._bell:
            while not (self._is_closed or self._waiting or self._reading or self._batch.answers):
                self._bell.wait()
            self._waiting = deque(answer for answer in self._waiting if not answer.relay.left)
            while self._waiting and len(self._reading) + len(self._batch.answers) < self._slots:
                self._waiting[0].begun = time.monotonic()
                self._reading.append(self._waiting.popleft())
            return not self._is_closed

    def _note(self, ended: list[Answer]) -> None:
        for answer in ended:
            self.typical += 0.1 * (time.monotonic() - answer.begun - self.typical)

    def _fail_all(self, fault: LoquentError, others: list[Answer]) -> None:
        for answer in (*self._batch.answers, *self._reading, *others):
            answer.relay.fail(fault)
        self._reading.clear()
        self._batch.clear()

    def _closed(self) -> Unavailable:
        return Unavailable(f"model {self._name} is closed")


class _Nobody:
    """Listens to a trial."""

    left = False

    def put(self, *pieces: Any) -> None:
        """Nobody hears it."""

    def fail(self, fault: LoquentError) -> None:
        """It ends here."""
        raise fault


def tried(model: Any) -> None:
    """Two answers of unequal length in one batch: a model that cannot do that says so now, not to a caller."""
    batch, nobody = Batch(model), _Nobody()
    for prompt in ([0, 0], [0]):
        said = Saying(lambda tokens: "")
        answer = Answer(nobody, prompt, 3, frozenset(), Choosing(0, 1, 0, 0), said, streamed=True)
        batch.read(answer)
        batch.join(answer)
    batch.step()
