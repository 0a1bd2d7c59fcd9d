"""The heart: one request to a model and what came of it, and the one state machine it lives by.

    pending ──claim──▶ processing ──finish──▶ completed | failed | cancelled
       ▲                   │
       └──────retry────────┘

``due_at`` is the one field by which work is found: the time to run while pending (or a turn: a moment that is past),
the end of the lease while processing, None when over. So a retry and a lease that ran out are the same thing to
whoever looks for work.
Only the functions below set ``status``, ``due_at``, ``attempts`` and ``fence``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loquent.domain import ids
from loquent.domain.clock import Moment, later, now
from loquent.domain.errors import Fenced, LoquentError
from loquent.domain.evolve import evolve
from loquent.domain.fixed import fixed
from loquent.domain.principals import Principal

Json = Mapping[str, Any]

PENDING, PROCESSING = "pending", "processing"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
STATUSES = (PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED)
OVER = frozenset((COMPLETED, FAILED, CANCELLED))

KINDS = ("text", "chat", "summary", "document", "image", "embedding")
FOREGROUND, BACKGROUND = "foreground", "background"

PREVIEW = 200  # characters of the input and of the output that a list shows
MESSAGE = 500  # characters of an error message that are kept


@fixed
class Generation:
    """One request to a model and what came of it, without the long texts (see Content)."""

    id: str
    version: int
    tenant: str
    owner: str
    kind: str  # one of KINDS
    surface: str  # the set of paths it came in by: api, openai, cli, page, …
    mode: str  # FOREGROUND: somebody waits for it now; BACKGROUND: a job
    status: str  # one of STATUSES
    model: str  # the name that callers use
    parameters: Json  # what was asked of the model: temperature, max_tokens, …
    input_preview: str
    output_preview: str
    input_characters: int
    output_characters: int
    created_at: Moment
    started_at: Moment | None = None
    completed_at: Moment | None = None
    due_at: Moment | None = None
    attempts: int = 0
    fence: int = 0
    lease_by: str | None = None
    cancel_requested: bool = False
    finish_reason: str | None = None  # stop, length, tool_calls, content_filter, cancelled, interrupted
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usage_estimated: bool = False
    cost: int = 0  # millionths of the currency unit that prices are in
    error_code: str | None = None
    error_message: str | None = None
    steps_done: int = 0  # progress of work in several calls: pieces of a long text
    steps: int = 0
    session: str | None = None  # the chat that it is a turn of, or was before it was made anew
    turn: int | None = None  # its number there, from 1; None where it is no turn, or another took its place
    turns_left_out: int | None = None  # of the chat's earlier turns: they did not fit the model's context
    upload: str | None = None  # the document or the image that it is about
    rating: str | None = None  # what its owner thought of it: one of feedback.RATINGS
    answered_by: str | None = None  # the row that did, or was the last to try; of equals: name, name#2, …
    details: Json | None = None  # what few have: {"tries": […], "cache": {…}, "trace": {…}, "cached_tokens", …}

    def is_of(self, tenant: str, owner: str) -> bool:
        """Whether it is theirs."""
        return (self.tenant, self.owner) == (tenant, owner)

    @property
    def is_over(self) -> bool:
        """Whether the end state is reached: nothing changes any more."""
        return self.status in OVER


@fixed
class Content:
    """The long texts of a generation, under its id; a record of its own so that lists never carry them."""

    id: str
    version: int
    tenant: str
    owner: str
    input: Json  # {"prompt"} | {"messages"} | {"text", …} | {"message", …} | {"document", …} | {"image", …}
    output: str  # the text so far, then the whole of it
    sources: Json | None = None  # where the output stands in the input: {"spans": [[start, end], …]}
    more: Json | None = None  # what the answer holds beside its text: {"calls": […], "reasoning": "…", "logprobs": […]}


@fixed
class Outcome:
    """What came of a run, as the finish wants it."""

    status: str
    output: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage_estimated: bool = False
    cost: int = 0
    error: LoquentError | None = None
    sources: Json | None = None
    steps_done: int = 0
    steps: int = 0
    turns_left_out: int | None = None
    answered_by: str | None = None
    details: Json | None = None
    more: Json | None = None


def begin(
    who: Principal,
    *,
    kind: str,
    surface: str,
    mode: str,
    model: str,
    parameters: Json,
    text: str,
    due_at: Moment | None,
    lease: float = 0.0,
    session: str | None = None,
    turn: int | None = None,
    upload: str | None = None,
) -> Generation:
    """A new generation: pending for a job, due when its turn is; processing at once where somebody waits for it.

    ``lease``: seconds after which one that somebody waits for is taken for lost, unless its run extends them.
    """
    created = now()
    is_job = mode == BACKGROUND
    if due_at is None:
        due_at = created if is_job else later(created, lease)
    return Generation(
        id=ids.new("gen", created),
        version=0,
        tenant=who.tenant,
        owner=who.owner,
        kind=kind,
        surface=surface,
        mode=mode,
        status=PENDING if is_job else PROCESSING,
        model=model,
        parameters=parameters,
        input_preview=text[:PREVIEW],
        output_preview="",
        input_characters=len(text),
        output_characters=0,
        created_at=created,
        started_at=None if is_job else created,
        due_at=due_at,
        attempts=0 if is_job else 1,
        fence=0 if is_job else 1,
        session=session,
        turn=turn,
        upload=upload,
    )


def claimed(lease_until: Moment, by: str) -> tuple[dict[str, Any], dict[str, int]]:
    """What a claim puts and adds (see Store.take): a lease, one attempt and the next fence; nothing is said yet."""
    put = {"status": PROCESSING, "due_at": lease_until, "lease_by": by, "started_at": now(), "output_characters": 0}
    return put, {"attempts": 1, "fence": 1}


def held(current: Generation, fence: int) -> Generation:
    """The record itself while the holder of that fence may still write to it; raises Fenced otherwise."""
    if current.status != PROCESSING or current.fence != fence:
        raise Fenced(f"{current.id} is no longer held by attempt {fence}")
    return current


def extended(current: Generation, lease_until: Moment, *, steps_done: int, steps: int, characters: int) -> Generation:
    """A heartbeat: the lease goes on, the progress is told. Raises Fenced where it is over: nothing revives it."""
    if current.status != PROCESSING:
        raise Fenced(f"{current.id} is not running")
    return evolve(current, due_at=lease_until, steps_done=steps_done, steps=steps, output_characters=characters)


def finished(current: Generation, outcome: Outcome) -> Generation:
    """The end state, whatever it is."""
    error = outcome.error
    return evolve(
        current,
        status=outcome.status,
        output_preview=outcome.output[:PREVIEW],
        output_characters=len(outcome.output),
        completed_at=now(),
        due_at=None,
        lease_by=None,
        finish_reason=outcome.finish_reason,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        usage_estimated=outcome.usage_estimated,
        cost=outcome.cost,
        error_code=error.code if error else None,
        error_message=error.message[:MESSAGE] if error else None,
        steps_done=outcome.steps if outcome.status == COMPLETED else outcome.steps_done,
        steps=outcome.steps,
        turns_left_out=outcome.turns_left_out,
        answered_by=outcome.answered_by,
        details=outcome.details,
    )


def retried(current: Generation, *, seconds: float, error: LoquentError, counts: bool = True) -> Generation:
    """Back to pending after a passing fault; the attempt stays counted where it was a run of the job's own."""
    return evolve(
        current,
        status=PENDING,
        due_at=later(now(), seconds),
        lease_by=None,
        attempts=current.attempts if counts else max(0, current.attempts - 1),
        error_code=error.code,
        error_message=error.message[:MESSAGE],
    )


def released(current: Generation, *, seconds: float = 0) -> Generation:
    """Handed back clean, by a stop: due at once, or in that many seconds; and the attempt does not count."""
    due_at = later(now(), seconds)
    return evolve(current, status=PENDING, due_at=due_at, lease_by=None, attempts=max(0, current.attempts - 1))


def postponed(current: Generation, *, seconds: float) -> Generation:
    """It goes on waiting, and is due to everybody in that many seconds."""
    return evolve(current, due_at=later(now(), seconds))


def restarted(current: Generation) -> Generation:
    """Nobody is at it any more, nor keeps it for later: it is due now, so that whoever looks takes it over."""
    return evolve(current, due_at=now())


def hurried(current: Generation, *, before: Moment) -> Generation:
    """It has run before, and goes before all that is due there or later: see services/backlog.py."""
    return evolve(current, due_at=Moment(before - 1))


def cancelled(current: Generation) -> Generation:
    """What asking to cancel makes of it: a pending one is over, a processing one is marked for its holder."""
    if current.is_over:
        return current
    if current.status == PENDING:
        return evolve(
            current, status=CANCELLED, due_at=None, completed_at=now(), finish_reason="cancelled", cancel_requested=True
        )
    return evolve(current, cancel_requested=True)
