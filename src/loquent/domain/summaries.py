"""Summaries: how long they are, and how a model is asked for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LENGTHS: Mapping[str, int] = {"short": 80, "medium": 180, "long": 400}
"""Tokens that a summary of each length may have, at most."""

IN_WORDS: Mapping[str, str] = {
    "short": "one or two sentences",
    "medium": "one short paragraph",
    "long": "several paragraphs",
}
MOST_CHARACTERS = 12_000  # of one piece: small models lose the thread of more, though it fits
ROOM = 600  # tokens of a context that the instruction and the answer need


def brief(length: str) -> int:
    """Tokens that a summary of that length may have."""
    return LENGTHS[length]


def piece_characters(context: int | None, *, beside: int = 0) -> int:
    """Characters of one piece of a text, for a model with so many tokens of context (None: not known).

    Two characters a token: scripts differ, and a piece that does not fit would fail the whole. ``beside``: characters
    of somebody's own instruction, which goes with each piece.
    """
    return max(500, min(MOST_CHARACTERS, ((context or 4_096) - ROOM) * 2) - beside)


def instruction(language: str | None, length: str, text: str, *, whole: bool = True) -> str:
    """What a chat model is asked."""
    what = "the text" if whole else "these notes on the parts of one text, as one text,"
    into = f" Write in {language}." if language else ""
    return (
        f"Summarize {what} below in {IN_WORDS[length]}. Use only what it says; keep names and numbers as they are."
        f"{into} Answer with the summary alone.\n\n{text}"
    )


def joining(parts: Sequence[str]) -> str:
    """Summaries of pieces, made one text again."""
    return "\n\n".join(part.strip() for part in parts if part.strip())
