"""What people ask and are answered, on the log: only where LOG_CONTENT is on (see domain/log.py)."""

from __future__ import annotations

import logging

from loquent.domain.generations import Content, Generation, Outcome
from loquent.domain.log import CONTENT, Log

log = Log(CONTENT)


def asked(generation: Generation, content: Content) -> None:
    """A run begins."""
    if log.says(logging.INFO):
        log.info("asked", **_about(generation), input=content.input)


def answered(generation: Generation, outcome: Outcome) -> None:
    """It has come to its end."""
    if log.says(logging.INFO):
        log.info("answered", **_about(generation), status=outcome.status, output=outcome.output)


def _about(generation: Generation) -> dict[str, str]:
    return {"generation": generation.id, "kind": generation.kind, "surface": generation.surface}
