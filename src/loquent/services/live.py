"""A generation that runs in this process now: its text so far, who follows it, and the way to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from msgspec import field

from loquent.domain.clock import Moment, now
from loquent.domain.errors import LoquentError
from loquent.domain.evolve import evolve
from loquent.domain.fixed import loose
from loquent.domain.generations import BACKGROUND, COMPLETED, Content, Generation, Outcome
from loquent.domain.requests import Parameters, ToolCall, stored_call
from loquent.domain.usage import Usage, estimate_tokens
from loquent.ports.engine import Ask, CallPiece, Chunk
from loquent.services.models import Offer
from loquent.services.routing import stream
from loquent.services.tries import Try, priced, told

MOST_TRIES = 50  # that a record tells of
NO_CALL = ToolCall("", "", "")
CANCELLED, INTERRUPTED, FENCED, RELEASED, REVOKED = "cancelled", "interrupted", "fenced", "released", "revoked"
"""Why it was stopped: somebody asked; the server stops; another worker has it; the server stops and hands it back; its
caller's token was revoked."""

NEVER = Moment(0)


@loose
class Live:
    """What one run knows. ``generation`` and ``content`` are as last written, or as begun where not yet ``saved``."""

    offer: Offer
    generation: Generation
    content: Content
    parameters: Parameters
    streamed: bool
    saved: bool
    saving: asyncio.Task[None] | None = None
    since: Moment = NEVER  # when the token was given by which its caller asks
    is_ending: bool = False
    stopped: str | None = None
    first_at: Moment | None = None
    steps: int = 0
    steps_done: int = 0
    finish_reason: str | None = None
    usage: Usage | None = None
    turns_left_out: int | None = None
    asked_tokens: int | None = None  # by our own count, where the recipe asks more than the input says
    spans: list[tuple[int, int]] = field(default_factory=list)
    trail: list[Try] = field(default_factory=list)  # whom its calls asked, in order
    details: dict[str, Any] = field(default_factory=dict)
    answered_by: str | None = None  # of an answer that was kept: who made it
    calls: dict[int, ToolCall] = field(default_factory=dict)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    waits: bool = False  # for the engine, as the runner says: only there a stop may cancel the task
    _chunks: list[Chunk] = field(default_factory=list)  # taken, not yet taken apart
    _texts: list[str] = field(default_factory=list)
    _task: asyncio.Task[Any] | None = None
    _changed: asyncio.Event | None = None

    @property
    def is_job(self) -> bool:
        """Whether nobody's request waits for it."""
        return self.generation.mode == BACKGROUND

    @property
    def text(self) -> str:
        """The text so far."""
        self._take_apart()
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]
        return self._texts[0] if self._texts else ""

    def stream(self, ask: Ask, *, is_part: bool = False) -> AsyncGenerator[Chunk, None]:
        """Ask the model, or whoever answers for it: see routing. The one way from a recipe to an engine.

        ``is_part``: it is one of many calls, of which others are under way.
        """
        return stream(self.offer, ask, self.trail, asker=self.generation.owner, is_patient=is_part or self.is_job)

    def take(self, chunk: Chunk) -> None:
        """Keep a piece of the answer. It is taken apart when somebody looks."""
        if self.first_at is None:
            self.first_at = now()
        self._chunks.append(chunk)
        if self._changed is not None:
            self._changed.set()

    def step(self, done: int, steps: int) -> None:
        """Tell how far work in several calls has come."""
        self.steps_done, self.steps = done, steps
        if self._changed is not None:
            self._changed.set()

    async def is_quiet(self, seconds: float) -> bool:
        """Wait until there is more to see (False), or that many seconds (True)."""
        event = self._changed = self._changed or asyncio.Event()
        event.clear()
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return True
        return False

    def wake(self) -> None:
        """Tell followers to look again: it is over."""
        if self._changed is not None:
            self._changed.set()

    def stop(self, why: str) -> None:
        """End the run as soon as it can be; the first reason holds."""
        if self.stopped is None:
            self.stopped = why
            if self.waits and self._task is not None:
                self._task.cancel()

    def cut(self) -> None:
        """End a run that its caller holds up, because he does not take what is sent to him."""
        if self._task is not None and self._task is not asyncio.current_task() and not self.is_ending:
            self._task.cancel()

    def runs_in(self, task: asyncio.Task[Any] | None) -> None:
        """Told by the runner which task a stop is to cancel."""
        self._task = task

    def mends(self) -> bool:
        """Whether the cancellation that just came was our own stop; then it is taken back."""
        return self.stopped is not None and self._task is not None and self._task.uncancel() == 0

    def outcome(self, status: str, *, error: LoquentError | None = None, finish_reason: str | None = None) -> Outcome:
        """What came of it, usage counted by us where the engine did not say."""
        text = self.text
        usage = self.usage or self._estimate(text, status)
        return Outcome(
            status=status,
            output=text,
            finish_reason=finish_reason or self.finish_reason or ("stop" if status == COMPLETED else None),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            usage_estimated=usage.estimated,
            cost=priced(usage, self.trail, self.offer.model),
            error=error,
            sources={"spans": self.spans} if self.spans else None,
            steps_done=self.steps_done,
            steps=self.steps,
            turns_left_out=self.turns_left_out,
            answered_by=self.trail[-1].offer.label if self.trail else self.answered_by,
            details=self._details(usage),
            more=self._more() if self.calls or self.reasoning or self.logprobs else None,
        )

    def written(self, generation: Generation, content: Content) -> None:
        """Both are in the store now, as given but for the version that the store counts on."""
        self.saved = True
        if self.is_ending:  # no write comes after this one, so the versions matter no more
            self.generation, self.content = generation, content
            return
        self.generation = evolve(generation, version=generation.version + 1)
        self.content = evolve(content, version=content.version + 1) if content is not self.content else content

    def _estimate(self, text: str, status: str) -> Usage:
        if status != COMPLETED and self.first_at is None:
            return Usage(0, 0, estimated=True)  # the engine never began
        if self.asked_tokens is not None:
            return Usage(self.asked_tokens, estimate_tokens(text), estimated=True)
        asked = self.content.input
        said = next((asked[name] for name in ("prompt", "text", "message") if name in asked), None)
        if said is None:
            said = " ".join(each["content"] for each in asked.get("messages", ()))
        return Usage(estimate_tokens(said), estimate_tokens(text), estimated=True)

    def _details(self, usage: Usage) -> dict[str, Any] | None:
        """What few have: more tries than one, or one that failed; tokens that the engine counts apart."""
        is_plain = len(self.trail) == 1 and self.trail[0].code is None
        if is_plain and not (self.details or usage.cached_tokens or usage.reasoning_tokens):
            return None  # as nearly always
        found = {
            **self.details,
            **({} if is_plain or not self.trail else {"tries": told(self.trail[-MOST_TRIES:])}),
            **({"cached_tokens": usage.cached_tokens} if usage.cached_tokens else {}),
            **({"reasoning_tokens": usage.reasoning_tokens} if usage.reasoning_tokens else {}),
        }
        return found or None

    def _more(self) -> dict[str, Any]:
        calls = [stored_call(self.calls[index]) for index in sorted(self.calls)]
        return {
            **({"calls": calls} if calls else {}),
            **({"reasoning": "".join(self.reasoning)} if self.reasoning else {}),
            **({"logprobs": self.logprobs} if self.logprobs else {}),
        }

    def _take_call(self, piece: CallPiece) -> None:
        known = self.calls.get(piece.index, NO_CALL)
        self.calls[piece.index] = ToolCall(
            known.id or piece.id.replace("\0", ""),
            known.name or piece.name.replace("\0", ""),
            known.arguments + piece.arguments.replace("\0", ""),
        )

    def _take_apart(self) -> None:
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            for part in chunk.parts():
                if text := part.text.replace("\0", ""):  # no store keeps NUL
                    self._texts.append(text)
                if part.source is not None:
                    self.spans.append(part.source)
                if part.usage is not None:
                    self.usage = part.usage if self.usage is None else self.usage.plus(part.usage)
                if part.calls:
                    for piece in part.calls:
                        self._take_call(piece)
                if part.reasoning:
                    self.reasoning.append(part.reasoning.replace("\0", ""))
                if part.logprobs:
                    self.logprobs += part.logprobs
                self.finish_reason = part.finish_reason or self.finish_reason
