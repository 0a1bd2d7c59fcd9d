"""SQS as kombu speaks it, save that whoever polls a queue goes on when an answer is none.

kombu's own poll ends for good at the first error (a restart, a vanished queue, a key that has run out), and a new
connection does not begin it again, since Celery's worker has forgotten the loop that it would run in.
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError
from kombu.transport import SQS
from vine import promise

from loquent.domain.log import Log

log = Log("loquent.queue")

REST = 2.0  # seconds after a poll that failed


class Channel(SQS.Channel):  # type: ignore[misc]  # kombu has no types
    """Polls, and after a failure looks for the queue anew, which makes it where it is gone."""

    _is_away = False

    def _schedule_queue(self, queue: str) -> None:
        try:
            super()._schedule_queue(queue)
        except Exception as error:  # whatever it is, it must not be the last time
            self._again(self.canonical_queue_name(queue), error)

    def _get_from_sqs(
        self, queue_name: str, queue_url: str, connection: Any, count: int = 1, callback: Any = None
    ) -> Any:
        heard = promise(callback, on_error=lambda error: self._again(queue_name, error))
        return super()._get_from_sqs(queue_name, queue_url, connection, count, heard)

    def _on_messages_ready(self, queue: str, qname: str, messages: Any) -> Any:
        if not isinstance(messages, dict):  # kombu makes an empty list of a timeout and of a status over 499
            raise ConnectionError("no answer")
        self._is_away = False
        return super()._on_messages_ready(queue, qname, messages)

    def _again(self, name: str, error: BaseException) -> None:
        """Ask again for what SQS calls so."""
        if not self._is_away:
            self._is_away = True
            log.warning("SQS does not answer; it is asked again and again", queue=name, why=str(error), every=REST)
        if not self.predefined_queues:
            self._queue_cache.pop(name, None)
        for queue in self._active_queues:
            if self.canonical_queue_name(queue) == name:
                self.hub.call_later(REST, self._schedule_queue, queue)


class Transport(SQS.Transport):  # type: ignore[misc]  # kombu has no types
    """Tries again where a key is refused, too: it may be let in later."""

    Channel = Channel
    connection_errors = (*SQS.Transport.connection_errors, ClientError)
