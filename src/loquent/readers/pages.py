"""Pages of lines made into one text: without running heads and page numbers, with its paragraphs whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

EDGE = 2  # lines at the top and at the bottom of a page where a running head may stand
LONG = 200  # characters of a line that are looked at; no running head has more
OFTEN = 0.4  # of the pages that a running head stands on, and at least three; left and right pages may differ

_NUMBERED = re.compile(r"^\W*\d+\W*|\W*\d+\W*$")
_NUMBER = re.compile(
    r"(?:page|seite|p\.)?\s*[-–—\[(]?\s*(?:\d{1,4}|[ivxlc]{1,6})\s*[-–—\])]?(?:\s*(?:of|von|/|de)\s*\d+)?", re.I
)
_MARKER = re.compile(r"(?:[-*+•‣▪●◦·–—o]|\(?(?:\d{1,3}|[A-Za-z])[.)])\s")
_SECTION = re.compile(
    r"(?:\d{1,2}(?:\.\d{1,2}){0,4}\.?|[A-Z](?:\.\d{1,2})+|chapter \d+|appendix [A-Z])\s+[^\W\d_a-z]", re.I
)
_LEADERS = re.compile(r"(?:\. ?){4,}\d*$")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_FINAL = tuple('.!?:;…。！？؟।”"’)')


def paragraphs(pages: list[str]) -> str:
    """The text of the pages, one paragraph, heading or list item a line, with empty lines between paragraphs."""
    split = [[" ".join(line.split()) for line in page.splitlines()] for page in pages]
    lines = [line for page in _without_heads(split) for line in (*page, None)]
    known = Counter(word.lower() for line in lines if line for word in _WORD.findall(line))
    return "".join(_joined(lines, known)).strip()


def _without_heads(pages: list[list[str]]) -> Iterator[list[str]]:
    """The pages without the lines at their edges that stand on many of them, but for the first time (it may be the
    title), and without bare page numbers."""
    trimmed = [_trimmed(page) for page in pages]
    seen = Counter(look for page in trimmed for look in {_look(line) for line in page[:EDGE] + page[-EDGE:]})
    least = max(3, OFTEN * len(pages))
    passed: set[str] = set()
    for page in trimmed:
        kept = []
        for place, line in enumerate(page):
            is_edge = not EDGE <= place < len(page) - EDGE
            is_head = is_edge and seen[_look(line)] >= least and _look(line) in passed
            if not is_head and not (is_edge and _NUMBER.fullmatch(line)):
                kept.append(line)
            if is_edge:
                passed.add(_look(line))
        yield kept


def _trimmed(page: list[str]) -> list[str]:
    """Without empty lines at both ends."""
    filled = [place for place, line in enumerate(page) if line]
    return page[filled[0] : filled[-1] + 1] if filled else []


def _look(line: str) -> str:
    """A line as a running head looks on every page: without the page's number before or after it."""
    return _NUMBERED.sub("", line[:LONG].lower())


def _joined(lines: list[str | None], known: Counter[str]) -> Iterator[str]:
    """The lines with what stands between them: nothing, a space, a line's end or an empty line. None ends a page."""
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[len(lengths) * 9 // 10] if lengths else 0
    before = ""
    gap = ""  # what the lines passed over since then ask for
    for line in lines:
        if not line:
            gap = gap or ("page" if line is None else "empty")
            continue
        if before:
            between = "\n\n" if gap == "empty" else _between(before, line, width)
            hyphen = (
                between == " " and before.endswith(("-", "\u00ad")) and before[-2:-1].isalpha() and line[0].islower()
            )
            if hyphen:
                yield _hyphened(before, line, known)
            else:
                yield before + between
        before, gap = line, ""
    yield before


def _between(before: str, line: str, width: int) -> str:
    """Whether the next line goes on with the paragraph, is a line of its own, or begins a paragraph."""
    if _LEADERS.search(before[-LONG:]) or _LEADERS.search(line[-LONG:]):
        return "\n"
    is_short = len(before) < 0.75 * width
    if is_short and _SECTION.match(line):
        return "\n\n"
    if _MARKER.match(line):
        return "\n"
    if is_short and before.endswith(_FINAL):
        return "\n\n"
    if len(before) < 0.6 * width and not line[0].islower() and not before.endswith((",", "-", "–")):
        return "\n\n"
    return " "


def _hyphened(before: str, line: str, known: Counter[str]) -> str:
    """The line before without the hyphen that its end made, or with it where the word has one elsewhere."""
    head = _WORD.findall(before[:-1])[-1:] or [""]
    tail = _WORD.match(line)
    whole = f"{head[0]}-{tail[0] if tail else ''}".lower()
    return before if before[-1] == "-" and known[whole] else before[:-1]
