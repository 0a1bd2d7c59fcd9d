"""From tokens to the text that may be shown: characters come whole, and nothing of a stop string comes at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"  # what a tokenizer says for bytes that are not yet, or never, a character
PATIENCE = 8  # tokens that may be waited for until bytes become a character: it has four at the most


class Saying:
    """One answer's text, token by token.

    A token's text can depend on the one before it (a space, the first half of a character), so each is decoded
    together with its neighbours; ``before`` are the last tokens of the prompt, where the text goes on from it.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], stops: Sequence[str] = (), before: Sequence[int] = ()
    ) -> None:
        self.is_stopped = False  # a stop string has come: nothing comes after it
        self._decode, self._stops = decode, [stop for stop in stops if stop]
        self._tokens = list(before)  # the neighbours, then those whose text has not come yet
        self._shown = len(self._tokens)  # how many of them are neighbours
        self._held = ""  # it may be the beginning of a stop string

    def take(self, token: int) -> str:
        """What can be shown now."""
        self._tokens.append(token)
        text = self._fresh()
        waited = len(self._tokens) - self._shown
        if not text or (text.endswith(BROKEN) and waited < PATIENCE):
            return ""
        self._tokens, self._shown = self._tokens[self._shown :], waited
        return self._showable(text)

    def end(self) -> str:
        """What was held back and can be shown after all; half a character is not."""
        text = self._showable(self._fresh().rstrip(BROKEN))
        rest, self._held = self._held, ""
        return text + rest

    def _fresh(self) -> str:
        return self._decode(self._tokens)[len(self._decode(self._tokens[: self._shown])) :]

    def _showable(self, text: str) -> str:
        if self.is_stopped:
            return ""
        text = self._held + text
        if ends := [place for stop in self._stops if (place := text.find(stop)) >= 0]:
            self.is_stopped, self._held = True, ""
            return text[: min(ends)]
        kept = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[kept:]
        return text[:kept]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
