"""Feedback: what somebody thought of an answer, or of a whole session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loquent.domain.clock import Moment
from loquent.domain.errors import Invalid
from loquent.domain.fixed import fixed

PREFIX = "fbk"
UP, DOWN, NOTED = "up", "down", "noted"
RATINGS = (UP, DOWN, NOTED)
"""What a generation shows of the feedback on it: a thumb, or that there is some without one."""
SCORES = range(1, 6)
COMMENT = 10_000  # characters
LABELS, LABEL = 20, 64  # labels, and characters of each


@fixed
class Feedback:
    """On one generation (then its owner has one feedback at most, the last), or on a session (any number)."""

    id: str
    version: int
    tenant: str
    owner: str
    surface: str
    generation: str | None
    session: str | None
    thumb: str | None  # up | down
    score: int | None  # 1 to 5
    comment: str
    labels: Mapping[str, Any]  # {"labels": [text, …]}
    created_at: Moment
    updated_at: Moment

    @property
    def rating(self) -> str:
        """What the generation shows of it, one of RATINGS."""
        return self.thumb or NOTED


def check(thumb: str | None, score: int | None, comment: str, labels: tuple[str, ...]) -> None:
    """Raise Invalid where this is no feedback."""
    if thumb is None and score is None and not comment.strip() and not labels:
        raise Invalid("feedback has a thumb, a score, a comment or labels")
    if thumb not in (None, UP, DOWN):
        raise Invalid("a thumb is up or down", field="thumb")
    if score is not None and score not in SCORES:
        raise Invalid("a score is a whole number from 1 to 5", field="score")
    if len(comment) > COMMENT:
        raise Invalid(f"a comment has at most {COMMENT} characters", field="comment")
    if len(labels) > LABELS or any(not 1 <= len(label) <= LABEL for label in labels):
        raise Invalid(f"there are at most {LABELS} labels of 1 to {LABEL} characters", field="labels")
