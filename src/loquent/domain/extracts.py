"""Which sentences carry a text: those that most of the others speak about (LexRank), said once, in the text's order.

Sentences are bags of words; two are alike by the cosine of their weights (tf-idf). The rank of a sentence is the
stationary chance of a walk that goes from sentence to sentence by likeness (Erkan and Radev, 2004). The matrix of all
pairs is never made: a step of the walk goes through the words, so that it takes time in line with the text's length.
"""

from __future__ import annotations

import itertools
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import log, sqrt

from loquent.domain.texts import CLOSING, STRONG, Span, walk, words_of
from loquent.domain.usage import estimate_tokens

STEPS = 8  # of the walk: the order of the first ranks stands by then
DAMPING = 0.85
LONE = 0.01  # likeness to all others under which a text has nothing in common
POOL = 1000  # best sentences that are looked at for the extract
SHARE = 0.4  # an extract is at most so much of its text
LEAST = 0.15  # of the best value: what is under it does not carry the text, and room is left rather than filled
FAIR = 0.4  # worth under which a sentence is taken only where there is no other
FULL = 7  # words that count in a sentence that says something
EVERY = 100  # sentences between two calls of ``pause``

_TOKEN = re.compile(r"[^\W\d_][\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u200c\u200d]*")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_STEM = 6  # letters of a word that count: a rough stem in most languages

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.M)
_LEADERS = re.compile(r"\.{4,}|(?:\. ){3}|…{2}|_{4,}")
_LISTED = re.compile(r"[-*+•‣▪●◦·>]\s|\(?\d{1,3}[.)]\s|\(?[A-Za-z][.)]\s|\[\d+\]")
_NOTICE = re.compile(
    r"copyright|©|all rights reserved|\(c\) \d{4}|isbn|doi:|permission is granted|licen[cs]ed under|"
    r"the terms of the gnu|without warrant",
    re.I,
)
_POINTER = re.compile(r"https?://|www\.|\b(?:see|refer to) (?:also|section|chapter|figure|table|above|below)\b", re.I)
_DIGITS = re.compile(r"\d+")
_REFERENCES = re.compile(
    r"(?:[#\d.\s]*)(?:references|bibliography|works cited|further reading|see also|literatur(?:verzeichnis)?|"
    r"r[ée]f[ée]rences|bibliographie|referencias|bibliograf[ií]a|riferimenti|参考文献|参考资料)[\s:#]*",
    re.I,
)
_SIGN = re.compile(r"[\d!-/:-@\[-`{-~]")
_CODE = frozenset("{}=<>;_\\$@|*`~")
_COMMON = words_of(
    """the a an and or but of to in on at by for from with without as is are was were be been being am do does did done
    has have had having will would shall should can could may might must not no nor so if then than that this these
    those it its he she they we you i me my your his her their our us them who whom whose which what when where why
    how there here also such any all each other another some more most very into over under about between up out off
    only own same just however thus therefore while because during before after above below again both few many much
    der die das den dem des ein eine einen einem einer eines und oder aber nicht ist sind war waren wird werden wurde
    mit von zu im am um auf für als auch bei nach aus an es er sie wir ihr ich sich dass daß wie so nur noch
    le la les un une des du de et ou mais ne pas est sont été être a ont avec pour par sur dans en au aux ce cette ces
    qui que quoi dont où il elle ils elles nous vous je se sa son ses leur plus
    el los las una unos y o pero no es son fue con para por en del al se su sus que como más lo
    il lo gli i uno e ed o ma non è sono con per da di nel della del che si più
    os um uma e ou mas não é são com para por em no na do da que se ao mais
    het een en of maar niet is zijn was met voor van op aan in te dat die er ook
    и в не на что с по как это но из у за от к то для
    i w na z do nie się że jest to jak ve bir bu için ile da de olarak
    के की का में से है हैं और को पर ने यह वह था थी थे कि भी एक ही तो
    في من على إلى عن أن هذا هذه التي الذي هو هي كان كانت مع ما لا"""
)
_LEANING = words_of(
    """however therefore thus hence moreover furthermore also but and or so then this that these those it its he she
    they his her their him them such here there again instead otherwise similarly finally consequently nevertheless
    likewise see note still yet besides additionally meanwhile
    jedoch daher deshalb außerdem dies diese dieser dieses er sie es aber und dann dort
    cependant donc ainsi cela cette ce ces il elle ils elles mais et alors
    sin embargo además esto esta este estos pero y entonces él ella"""
)


@dataclass(slots=True)
class _Sentence:
    start: int
    end: int
    worth: float  # how well it would stand in an extract, by its form and place alone
    words: array[int]
    norm: float = 1.0
    rank: float = 0.0
    likeness: float = 0.0  # to the nearest that is already chosen

    @property
    def value(self) -> float:
        return self.rank * self.worth * max(0.0, 1 - 1.5 * self.likeness)


def choose(text: str, tokens: int, pause: Callable[[], None] = lambda: None) -> list[Span]:
    """The sentences that carry the text, at most ``tokens`` long together (estimated), in the text's order.

    At least one where the text has any, and no more than a good third of the text. ``pause`` is called many times a
    second: what it raises ends the work.
    """
    vocabulary: dict[str, int] = {}
    sentences = _sentences(text, vocabulary, pause) or _sentences(text, vocabulary, pause, any_form=True)
    weights = _weights(sentences, len(vocabulary))
    _rank(sentences, weights, pause)
    fair = [each for each in sentences if each.worth >= FAIR] or sentences
    pool = sorted(fair, key=lambda each: -each.value)[:POOL]
    budget = min(tokens, int(estimate_tokens(text) * SHARE))
    return sorted(_best(text, pool, weights, budget, pause))


def _sentences(
    text: str, vocabulary: dict[str, int], pause: Callable[[], None], *, any_form: bool = False
) -> list[_Sentence]:
    """The sentences worth a look, with their words as numbers. One that comes again counts once, and less each time."""
    fences = [found.start() for found in _FENCE.finditer(text)]
    known: dict[str, _Sentence] = {}
    title: frozenset[int] = frozenset()
    in_references = False
    before = -1
    for number, (start, end) in enumerate(walk(text)):
        if number % EVERY == 0:
            pause()
        sentence = text[start:end]
        if end - start < 40 and _REFERENCES.fullmatch(sentence):
            in_references = start > len(text) / 2
        is_prose = not in_references and bisect_right(fences, start) % 2 == 0
        form = _form(sentence) if is_prose else 0.0
        words = array("I", _words(sentence, vocabulary))
        title = title or frozenset(words)
        if (form == 0 or len(words) < 3) and not any_form:
            continue
        look = _DIGITS.sub("0", " ".join(sentence.lower().split()))
        if look in known:
            known[look].worth *= 0.6
            continue
        place = 1 + 2 / (1 + len(known) / 6)
        place *= 1.25 if before < 0 or "\n\n" in text[before:start] else 1
        about = 1 + len(title.intersection(words)) / (2 * len(title) + 1)
        said = min(1, len(words) / FULL)
        known[look] = _Sentence(start, end, (form or 0.01) * place * about * said, words)
        before = end
    return list(known.values())


def _form(sentence: str) -> float:
    """How well a sentence would stand alone, 0 to 1, by its looks."""
    length = len(sentence)
    unspaced = len(_UNSPACED.findall(sentence))
    length += unspaced
    visible = length - unspaced - sum(map(str.isspace, sentence))
    signs = len(_SIGN.findall(sentence))
    if length < 25 or _LEADERS.search(sentence):
        return 0.0
    form = 1.0
    if length < 60:
        form *= length / 60
    if length > 300:
        form *= 300 / length
    if sentence.rstrip(CLOSING)[-1:] not in ".!?…" + STRONG:
        form *= 0.3 if sentence[-1] == ":" else 0.1
    if signs > 0.25 * visible:
        form *= 0.2 if signs > 0.4 * visible else 0.6
    if sum(map(str.isupper, sentence)) > 0.4 * visible or _is_titled(sentence):
        form *= 0.3
    if sum(map(_CODE.__contains__, sentence)) > 0.03 * length:
        form *= 0.3
    if sentence.rstrip(CLOSING)[-1:] in "?？؟":
        form *= 0.6
    if _LISTED.match(sentence):
        form *= 0.5
    if _NOTICE.search(sentence):
        form *= 0.2
    if _POINTER.search(sentence):
        form *= 0.5
    first = sentence.split(None, 1)[0].strip(",.:;\"'“”‘’(").lower()
    if sentence[0] == "(" or first in _LEANING or sentence[0].islower():
        form *= 0.6
    return form


def _is_titled(sentence: str) -> bool:
    """Whether It Is Written Like This, as a heading is."""
    words = sentence.split(None, 12)
    return 1 < len(words) < 12 and sum(word[0].isupper() or word[0].isdigit() for word in words) > 0.7 * len(words)


def _words(sentence: str, vocabulary: dict[str, int]) -> Iterable[int]:
    """The sentence's words, each once, as numbers; characters in pairs where the script has no spaces."""
    found: dict[int, None] = {}
    for word in _TOKEN.findall(sentence.lower()):
        if _UNSPACED.search(word):
            for pair in itertools.pairwise(word):
                found[vocabulary.setdefault("".join(pair), len(vocabulary))] = None
        elif len(word) > 1 and word not in _COMMON:
            found[vocabulary.setdefault(word[:_STEM], len(vocabulary))] = None
    return found


def _weights(sentences: list[_Sentence], words: int) -> list[float]:
    """What a word shared by two sentences counts: the square of its idf; and each sentence's norm by it."""
    seen = [0] * words
    for sentence in sentences:
        for word in sentence.words:
            seen[word] += 1
    weights = [log(1 + len(sentences) / count) ** 2 if count else 0.0 for count in seen]
    for sentence in sentences:
        sentence.norm = sqrt(sum(map(weights.__getitem__, sentence.words))) or 1.0
    return weights


def _rank(sentences: list[_Sentence], weights: list[float], pause: Callable[[], None]) -> None:
    """The walk: each step gives a sentence's rank to the others like it, in proportion."""
    degrees = [each - 1 for each in _spread(sentences, [1.0] * len(sentences), weights, pause)]
    usual = sum(degrees) / len(degrees) if degrees else 0.0
    degrees = [max(each, usual / 2, LONE) for each in degrees]  # a pair alike and alone does not feed itself
    chance = 1 / max(1, len(sentences))
    ranks = [chance] * len(sentences)
    for _ in range(STEPS):
        given = [rank / degree for rank, degree in zip(ranks, degrees, strict=True)]
        taken = _spread(sentences, given, weights, pause)  # as like itself as can be, which does not count: - own
        ranks = [(1 - DAMPING) * chance + DAMPING * (all_ - own) for all_, own in zip(taken, given, strict=True)]
    for sentence, rank in zip(sentences, ranks, strict=True):
        sentence.rank = max(rank, 0.0)


def _spread(
    sentences: list[_Sentence], values: list[float], weights: list[float], pause: Callable[[], None]
) -> list[float]:
    """The matrix of likenesses times ``values``, without the matrix: to the words, and back."""
    of_words = [0.0] * len(weights)
    for number, (sentence, value) in enumerate(zip(sentences, values, strict=True)):
        if number % EVERY == 0:
            pause()
        share = value / sentence.norm
        for word in sentence.words:
            of_words[word] += share
    of_words = [value * weight for value, weight in zip(of_words, weights, strict=True)]
    result = []
    for number, sentence in enumerate(sentences):
        if number % EVERY == 0:
            pause()
        result.append(sum(map(of_words.__getitem__, sentence.words)) / sentence.norm)
    return result


def _best(
    text: str, pool: list[_Sentence], weights: list[float], budget: int, pause: Callable[[], None]
) -> Iterator[Span]:
    """The best, each unlike those before it, while they fit; the first also where it does not."""
    left = budget
    costs = {id(each): estimate_tokens(text[each.start : each.end]) for each in pool}
    fitting = [each for each in pool if costs[id(each)] <= left] or pool[:1]
    least = LEAST * max((each.value for each in fitting), default=0.0)
    while fitting:
        pause()
        pick = max(fitting, key=lambda each: each.value)
        if pick.value < least:
            break
        yield pick.start, pick.end
        left -= costs[id(pick)]
        words = frozenset(pick.words)
        fitting = [each for each in fitting if each is not pick and costs[id(each)] <= left]
        for each in fitting:
            common = words.intersection(each.words)
            alike = sum(weights[word] for word in common) / (pick.norm * each.norm)
            each.likeness = max(each.likeness, alike)
