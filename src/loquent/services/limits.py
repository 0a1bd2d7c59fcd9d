"""Limits: how often somebody may do something, by rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loquent.domain.errors import Limited
from loquent.ports.limiter import Limiter, Rate, State
from loquent.services import metrics

GENERATIONS, SUMMARIES, LOGINS = "generations", "summaries", "logins"
SESSIONS, MESSAGES = "sessions", "messages"


class Over(Limited):
    """Limited, with the state that the answer's headers tell."""

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message, retry_after=state.retry_after)
        self.state = state


@dataclass(frozen=True, slots=True)
class Limits:
    """The rules of this deployment over one limiter. A rule without rates lets everything through."""

    limiter: Limiter
    rules: Mapping[str, tuple[Rate, ...]]

    async def take(self, rule: str, whom: str) -> State | None:
        """Count one; the state for the headers, None where the rule has no rates. Raises Over."""
        rates = self.rules[rule]
        if not rates:
            return None
        state = await self.limiter.take(f"{rule}:{whom}", rates)
        if not state.allowed:
            raise _over(rule, state)
        return state

    async def give_back(self, rule: str, whom: str) -> None:
        """Uncount the newest one: what it was taken for did not happen."""
        if rates := self.rules[rule]:
            await self.limiter.give_back(f"{rule}:{whom}", rates)

    async def check(self, rule: str, whom: str) -> None:
        """Count nothing, but raise Over where one more would be: before work that is dear."""
        if rates := self.rules[rule]:
            state = await self.limiter.peek(f"{rule}:{whom}", rates)
            if not state.allowed:
                raise _over(rule, state)


def _over(rule: str, state: State) -> Over:
    metrics.limited.labels(rule).inc()
    return Over(f"over the limit of {state.rate.count} {rule} in {state.rate.seconds} seconds", state)
