"""What most write first: a Celery task that waits for its answer, run by Celery's own pool of processes."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

BROKER = os.environ.get("BENCH_BROKER", "")
SECONDS, TASK, DONE = 0.2, "naive.answer", "done"

app = Celery("naive", broker=BROKER)
app.conf.task_ignore_result = True
counter = redis.Redis.from_url(BROKER) if BROKER else None


@app.task(name=TASK)
def answer() -> None:
    """One job: the time that a model would take, and a record that it is done."""
    time.sleep(SECONDS)
    if counter is not None:
        counter.incr(DONE)
