"""What a caller wants of a model, and what was begun of it."""

from __future__ import annotations

from loquent.domain.fixed import fixed, loose
from loquent.domain.generations import Content, Generation, Json
from loquent.domain.models import LOGPROBS, TOOLS, VISION
from loquent.domain.requests import NOTHING, Parameters
from loquent.ports.limiter import State
from loquent.ports.store import Change
from loquent.services import limits
from loquent.services.live import Live

BEYOND_TEXT = (("pictures", VISION), ("calls", TOOLS), ("call_id", TOOLS))
"""What a stored message may hold beside its text, and the ability that this calls for."""
NOTHING_MORE: frozenset[str] = frozenset()


@fixed
class Key:
    """An Idempotency-Key as it came, with the route and the body that it came with."""

    route: str
    key: str
    body: bytes


@fixed
class Wanted:
    """What a caller wants made. ``input`` is what is stored; ``text`` is its text, for previews and lengths."""

    kind: str
    surface: str
    input: Json
    text: str
    model: str | None = None
    parameters: Parameters = NOTHING
    streamed: bool = False
    key: Key | None = None
    rule: str = limits.GENERATIONS
    needs: tuple[str, ...] = ()  # abilities of which the model has one; nothing: what the input wants
    session: str | None = None  # of a turn: see Sessions
    turn: int | None = None
    upload: str | None = None  # the document or the image that it is about
    beside: tuple[Change, ...] = ()  # written with it, all or none, before it runs
    cache: bool | None = None  # whether a kept answer will do; None: where it would come out the same

    @property
    def is_kept_first(self) -> bool:
        """Whether it is on the record before it runs, for others to see; most answers are written at their end."""
        return self.key is not None or self.turn is not None or bool(self.beside)

    def called_for(self) -> frozenset[str]:
        """The abilities without which this input cannot be answered as it is asked, beside those to answer at all."""
        more = [each for each in self.input.get("messages", ()) if len(each) > 2]  # than a role and a text
        if not more and self.parameters.logprobs is None and "tools" not in self.input:
            return NOTHING_MORE
        called_for = {ability for each in more for name, ability in BEYOND_TEXT if name in each}
        called_for |= {TOOLS} if "tools" in self.input else set()
        return frozenset(called_for | ({LOGPROBS} if self.parameters.logprobs is not None else set()))


@loose
class Begun:
    """A generation that was accepted. ``live`` is there where the caller is to run it; not for jobs and repeats."""

    generation: Generation
    content: Content
    live: Live | None = None
    limit: State | None = None
    replayed: bool = False

    def now(self) -> tuple[Generation, Content]:
        """The record and the texts as they stand now."""
        return (self.live.generation, self.live.content) if self.live else (self.generation, self.content)
