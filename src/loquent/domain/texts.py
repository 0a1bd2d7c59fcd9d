"""Where a text may be cut: its sentences, in any language, and pieces of a bounded length.

Both are spans, (start, end) in characters, so that what is made of a text can say where in it it stands. Both take
time that grows with the length of the text and with nothing else, whatever the text is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

Span = tuple[int, int]

LONGEST = 1000  # characters of a sentence; what has no end by then is cut at a line, or a word
WRAPPED = 200  # a line longer than this is a paragraph of its own, not one line of a wrapped one
NEAR = 50  # characters before a cut in which a sentence is looked for first
BEFORE = 20  # characters that tell whether a sentence ends behind them

STRONG = "。！？｡؟۔।॥։።፧។៕။།༎‼⁇⁈⁉"  # end a sentence whatever follows
CLOSING = "」』】》〉）］｝”’»›\"')]}"
ASIDE = "とっなのはがをにでもや、，"  # after a Japanese quotation: the sentence goes on

_LINE = re.compile(r"[^\n\r\x0b\x0c\x85\u2028\u2029]+")
_END = re.compile(rf"[.!?…‽{STRONG}]+[{re.escape(CLOSING)}]*(?:\[\d{{1,3}}\])*")
_MARKER = re.compile(r"(?:[-*+•‣▪●◦·–—>|#](?:[\s#]|$)|\(?(?:\d{1,3}|[A-Za-z]|[ivx]{1,5})\)\s|\d{1,3}\.\s|[|=~`]{2})")
_HEADING = re.compile(r"#{1,6}\s")
_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s*")


def words_of(words: str) -> frozenset[str]:
    """A set of words, written as a line of them."""
    return frozenset(words.split())


# Words that a full stop belongs to. Never an end; an end unless a number follows; an end only before a usual opening.
_TITLES = words_of(
    """dr mr mrs ms prof rev hon messrs mme mlle gen sen rep gov capt lt col sgt sra dra hr fr cf e.g i.e eg ie viz
    vs approx ca vgl bzw z.b d.h u.a u.u sog evtl ggf inkl exkl resp p.ex par.ex т.е т.д напр др им"""
)
_NUMBERED = words_of("""fig figs no nos p pp vol vols sec secs eq eqs ch art abs nr núm num sect tab abb bd pg pt""")
_COMPANIES = words_of(
    """inc ltd co corp jr sr st dept univ bros mt ave blvd est assn ed eds
    jan feb mar apr jun jul aug sep sept oct nov dec"""
)
_OPENINGS = words_of(
    """the a an in on at by for from to of as it he she we they you i this that these those there here but and or
    if when while however although because since after before his her their its our my no not what who how
    der die das ein eine es er sie wir im am le la les un une il elle nous el los las una"""
)
_MONTHS = words_of("""januar februar märz april mai juni juli august september oktober november dezember""")


def sentences(text: str) -> list[Span]:
    """The sentences, in order and apart from each other, without the white space around them.

    Headings, list items and lines of a table are sentences too. What has no letter or digit in it is none.
    """
    return list(walk(text))


def walk(text: str) -> Iterator[Span]:
    """The same, one by one: for a text so long that the caller wants to stop in between."""
    return _walk(text, 0, len(text), text.islower())


def pieces(text: str, limit: int) -> list[Span]:
    """Spans of at most ``limit`` characters that cover the whole text, without loss or overlap.

    Cut between paragraphs where that gives at least half of what may be, otherwise between sentences, words, and last
    between any two characters that do not belong together. Raises ValueError where the limit is under 1.
    """
    if limit < 1:
        raise ValueError("a piece has at least one character")
    spans: list[Span] = []
    start = 0
    while (rest := len(text) - start) > limit:
        low, high = limit // 2, limit
        if rest < 2 * limit:  # the last two: about equal, rather than one and a crumb
            low, high = max(rest - limit, rest * 3 // 8), min(limit, rest * 5 // 8)
        cut = _cut(text, start, start + low, start + max(high, low + 1))
        spans.append((start, cut))
        start = cut
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _walk(text: str, start: int, end: int, may_open_small: bool) -> Iterator[Span]:
    """The sentences of a part. No capitals at all in the text: then a small letter may open one."""
    for block in _blocks(text, start, end):
        for sentence in _split(text, *block, may_open_small):
            yield from _bounded(text, *sentence)


def _blocks(text: str, first: int, last: int) -> Iterator[Span]:
    """Runs of lines that belong together: a paragraph, wrapped or not, a heading, a list item."""
    start = end = -1  # of the block so far; -1: none is open
    length = width = 0  # of its last line, and of its longest
    for line in _LINE.finditer(text, first, last):
        left, right = _trimmed(text, *line.span())
        stands_alone = right - left > WRAPPED or _HEADING.match(text, left, right)
        if start >= 0 and (
            left == right
            or stands_alone
            or _gap(text, end, left)
            or _MARKER.match(text, left, right)
            or (length < 0.6 * max(width, right - left) and _begins_anew(text[end - 1], text[left]))
        ):
            yield start, end
            start = -1
        if left == right:
            continue
        if stands_alone:
            yield left, right
            continue
        length = right - left
        start, width = (left, length) if start < 0 else (start, max(width, length))
        end = right
    if start >= 0:
        yield start, end


def _gap(text: str, end: int, left: int) -> bool:
    """Whether an empty line, or a paragraph break, stands between two lines."""
    breaks = text.count("\n", end, left)
    return breaks > 1 or (breaks == 0 and text.count("\r", end, left) > 1) or text.find("\u2029", end, left) >= 0


def _begins_anew(last: str, first: str) -> bool:
    """Whether a line that begins so is no continuation of a short one that ends so."""
    return not first.islower() and last not in ",;-–—(、，"


def _split(text: str, start: int, end: int, may_open_small: bool) -> Iterator[Span]:
    """The sentences of one block."""
    for mark in _END.finditer(text, start, end):
        after = mark.end()
        if after < end and _is_end(text, start, mark, end, may_open_small):
            yield start, after
            start = _after_space(text, after, end)
    if start < end:
        yield start, end


def _is_end(text: str, start: int, mark: re.Match[str], end: int, may_open_small: bool) -> bool:
    """Whether the sentence that began at ``start`` ends with this mark; something follows before ``end``."""
    first, last, after = text[mark.start()], text[mark.end() - 1], mark.end()
    if first in STRONG or last in STRONG:
        return not (last in "」』）”’" and text[after] in ASIDE)
    if not text[after].isspace():  # 3.14, example.org, and full stops among characters that know no spaces
        return text[after] >= "\u2e80" and text[mark.start() - 1] >= "\u2e80" and text[after].isalpha()
    following = _after_space(text, after, end)
    opening = text[following]
    if opening in ",;:)]}%":
        return False
    if opening.islower() and not may_open_small:
        return False
    if mark.end() - mark.start() > 1 or first != ".":
        return True
    return _ends_after_word(text, start, mark.start(), following)


def _ends_after_word(text: str, start: int, stop: int, following: int) -> bool:
    """Whether one plain full stop ends a sentence, judged by the words on both sides."""
    begin = stop
    while begin > max(start, stop - 14) and (text[begin - 1].isalnum() or text[begin - 1] == "."):
        begin -= 1
    word = text[begin:stop].lower()
    if not word:
        return True
    if begin - start < 3 and (len(word) == 1 or (len(word) < 4 and word.isdigit())):
        return False  # "1. First", "(a. second"
    follows = _WORD.match(text, following, following + 20)
    next_word = follows[0].lower() if follows else ""
    if word in _TITLES:
        return False
    if word in _NUMBERED:
        return not next_word[:1].isdigit()
    if word.isdigit():
        return len(word) > 2 or next_word not in _MONTHS  # "am 3. Oktober"
    if len(word) == 1 and text[begin].islower():
        return False
    is_initial = len(word) == 1 and text[begin].isupper()
    if is_initial or word in _COMPANIES or (word[1:2] == "." and word not in ("a.m", "p.m")):
        return next_word in _OPENINGS
    return True


def _bounded(text: str, start: int, end: int) -> Iterator[Span]:
    """One sentence, or several where it has no end in sight; nothing where it has no word in it."""
    while end - start > LONGEST:
        low, high = start + LONGEST // 2, start + LONGEST
        cut = max(text.rfind("\n", low, high), text.rfind("; ", low, high)) + 1
        cut = _whole(text, start, cut if cut > low else _between_words(text, low, high))
        yield from _worded(text, *_trimmed(text, start, cut))
        start = _after_space(text, cut, end)
    yield from _worded(text, *_trimmed(text, start, end))


def _worded(text: str, start: int, end: int) -> Iterator[Span]:
    if _WORD.search(text, start, end):
        yield start, end


def _cut(text: str, start: int, low: int, high: int) -> int:
    """The best place in (low, high] to end the piece that begins at ``start``."""
    paragraph = text.rfind("\n\n", low, high)
    if paragraph >= 0:
        cut = _after_space(text, paragraph, high)
    else:
        cut = _last_sentence(text, start, low, high) or _between_words(text, low, high)
    return _whole(text, start, cut)


def _last_sentence(text: str, start: int, low: int, high: int) -> int | None:
    """Where the last sentence begins in (low, high), looked for near ``high`` first; None: none does."""
    may_open_small = text[start:high].islower()
    near = NEAR
    while True:
        edge = max(low, high - near)
        if _WORD.search(text, edge, high):  # no word, no sentence
            begin = max(start, edge - WRAPPED - 1)  # all of the line, as far as its length tells something
            begin = max(begin, text.rfind("\n", begin, edge - BEFORE) + 1)
            last = max((each for each, _ in _walk(text, begin, high, may_open_small)), default=-1)
            if last > edge:
                return last
        if edge == low:
            return None
        near *= 4


def _between_words(text: str, low: int, high: int) -> int:
    """After the last white space in the window, or its end where there is none."""
    cut = max(text.rfind(space, low, high) for space in " \n\t\r\u3000") + 1
    return cut if cut > low else high


def _whole(text: str, start: int, cut: int) -> int:
    """The nearest place before ``cut`` that is not inside a character as a reader sees it; ``cut`` if none is."""
    place = cut
    while place > start and _is_inside(text, start, place):
        place -= 1
    return place if place > start else cut


def _is_inside(text: str, start: int, place: int) -> bool:
    """Whether the characters around ``place`` are drawn as one (the usual rules of Unicode Annex 29)."""
    if place >= len(text):
        return False
    left, right = text[place - 1], text[place]
    if right < "\u0300":
        return left == "\r" and right == "\n"
    if unicodedata.category(right)[0] == "M" or right in "\u200c\u200d" or left == "\u200d":
        return True
    if "\U0001f3fb" <= right <= "\U0001f3ff" or "\U000e0020" <= right <= "\U000e007f":
        return True
    if "\udc00" <= right <= "\udfff" and "\ud800" <= left <= "\udbff":
        return True
    if "\u1100" <= left <= "\u11ff" and "\u1160" <= right <= "\u11ff":
        return True
    if unicodedata.combining(left) == 9:  # a virama ties two consonants
        return right.isalpha()
    if _is_flag(left) and _is_flag(right):  # flags are pairs: an odd number before means the middle of one
        before = place
        while before > start and _is_flag(text[before - 1]):
            before -= 1
        return (place - before) % 2 == 1
    return False


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _after_space(text: str, place: int, end: int) -> int:
    """Past the white space that begins at ``place``."""
    found = _SPACE.match(text, place, end)
    return found.end() if found else place


def _trimmed(text: str, start: int, end: int) -> Span:
    """The span without white space at its ends."""
    start = _after_space(text, start, end)
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
