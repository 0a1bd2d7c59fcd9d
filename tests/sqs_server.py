"""SQS for a test, as ministack has it: a process that is killed, frozen and started anew, without a queue then."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from botocore.session import get_session

from ministack_server import MinistackServer

KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}


class SqsServer(MinistackServer):
    """Its keys are in ``environ``, as on a machine of Amazon's."""

    environ = KEYS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.endpoint = f"http://{self.address}"
        self.url = f"sqs://?endpoint={self.endpoint}&region=eu-central-1"
        self.client = get_session().create_client(
            "sqs",
            endpoint_url=self.endpoint,
            region_name="eu-central-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )

    def queues(self) -> list[str]:
        """The URLs of all that there are."""
        return list(self.client.list_queues().get("QueueUrls", []))

    def empty(self) -> None:
        """Let it forget all messages."""
        for url in self.queues():
            self.client.purge_queue(QueueUrl=url)

    def waiting(self) -> int:
        """How many messages there are; nobody's hold on one is touched."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = [self.client.get_queue_attributes(QueueUrl=url, AttributeNames=names) for url in self.queues()]
        return sum(int(each["Attributes"][name]) for each in told for name in names)

    def rings(self) -> list[dict[str, Any]]:
        """The headers of the messages that wait, in any order."""
        found = []
        for url in self.queues():
            told = self.client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
            found += [json.loads(base64.b64decode(each["Body"]))["headers"] for each in told.get("Messages", [])]
        return found


@contextmanager
def sqs_server(folder: Path) -> Iterator[SqsServer]:
    """One that runs."""
    server = SqsServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.client.close()
        server.kill()
