"""Tokens and money: what a generation used, and what a day adds up to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from loquent.domain.clock import SECOND, Moment, day
from loquent.domain.fixed import fixed

DAY = 86_400 * SECOND


@fixed
class Usage:
    """Tokens in and out. ``estimated`` where we counted because the engine did not say."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    cached_tokens: int = 0  # of the prompt's, those that the engine had read before
    reasoning_tokens: int = 0  # of the completion's, those that nobody is shown
    cost: int | None = None  # in millionths, at the price of whoever answered; None: not yet known

    @property
    def total_tokens(self) -> int:
        """Always the sum."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: Usage) -> Usage:
        """Both together. A cost that is not known stays so."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            None if self.cost is None or other.cost is None else self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens, in millionths of the currency unit (2.5 dollars are 2_500_000)."""

    input: int = 0
    output: int = 0
    cached: int | None = None  # for a token of the prompt that the engine had read before; None: as any other

    def of(self, usage: Usage) -> int:
        """The cost in millionths, rounded up, so that many small calls are never free."""
        again = min(usage.cached_tokens, usage.prompt_tokens)
        new = usage.prompt_tokens - again
        cached = self.input if self.cached is None else self.cached
        return -(-(new * self.input + again * cached + usage.completion_tokens * self.output) // 1_000_000)


@fixed
class UsageDay:
    """What one owner used of one model on one UTC day: counters only, added to by each finish."""

    id: str
    tenant: str
    owner: str
    day: str
    model: str
    generations: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0


def usage_day(tenant: str, owner: str, model: str, moment: Moment) -> UsageDay:
    """The counter, at zero, that a use at that moment is added to."""
    on = _day(moment // DAY)
    return UsageDay(f"use_{on}/{tenant}/{owner}/{model}", tenant, owner, on, model)


@lru_cache(maxsize=4)
def _day(number: int) -> str:
    return day(Moment(number * DAY))


def estimate_tokens(text: str) -> int:
    """Tokens that a text is likely to be: a quarter of its UTF-8 bytes, the usual rule of thumb, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // 4)
