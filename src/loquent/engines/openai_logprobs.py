"""How likely each token was, on OpenAI's wire: in chats a row a token, in completions by columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Token(msgspec.Struct):
    """A token, and others that might have stood in its place."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[Token] = []

    def told(self) -> dict[str, Any]:
        """As a chat says it."""
        others = [other.plain() for other in self.top_logprobs]
        return {**self.plain(), "top_logprobs": others}

    def plain(self) -> dict[str, Any]:
        """Without the others."""
        return {"token": self.token, "logprob": self.logprob, "bytes": self.bytes}


class Logprobs(msgspec.Struct):
    """What stands in a choice, in either form."""

    content: list[Token] | None = None
    refusal: list[Token] | None = None
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None

    def told(self) -> tuple[Mapping[str, Any], ...]:
        """As a chat says it, a token each."""
        if self.content or self.refusal:
            return tuple(token.told() for token in (*(self.content or ()), *(self.refusal or ())))
        others = self.top_logprobs or [None] * len(self.tokens)
        return tuple(
            # the first token of a prompt has no likelihood: nothing comes before it
            Token(
                token, logprob or 0.0, _bytes(token), [Token(*each, _bytes(each[0])) for each in (row or {}).items()]
            ).told()
            for token, logprob, row in zip(self.tokens, self.token_logprobs, others, strict=False)
        )


def _bytes(token: str) -> list[int]:
    return list(token.encode("utf-8", "replace"))
