"""Limits: how often somebody may do something, by rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loquent.domain.errors import Limited
from loquent.ports.limiter import Limiter, Rate, State
from loquent.services import metrics

GENERATIONS, SUMMARIES, LOGINS = "generations", "summaries", "logins"


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
            metrics.limited.labels(rule).inc()
            rate = state.rate
            raise Over(f"over the limit of {rate.count} {rule} in {rate.seconds} seconds", state)
        return state

    async def give_back(self, rule: str, whom: str) -> None:
        """Uncount one that did not happen."""
        if rates := self.rules[rule]:
            await self.limiter.give_back(f"{rule}:{whom}", rates)
