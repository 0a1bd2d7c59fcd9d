"""Where a text may be cut: sentences in many languages, and pieces that lose nothing."""

from __future__ import annotations

import sys
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loquent.domain.texts import LONGEST, pieces, sentences

TEXTS = st.text(
    st.sampled_from("ab Z1.!?…。؟।,;:-\"'()[]«»\n\r\t\u3000\u2029é\u0301\u200d👩🇦🇧क्ष\u1112\u1161한#*|•"), max_size=300
)


@pytest.mark.parametrize(
    "expected",
    [
        ["One ends here.", "Two asks, doesn't it?", "Three shouts!", "Four trails off...", "Five."],
        ["Dr. Smith met J. R. Jones of Acme Inc. in Washington, D.C. on Jan. 5.", "He left at 3 p.m.", "It rained."],
        ["It costs 3.14, e.g. at https://shop.example/a.b?c=d.e today.", "See Fig. 3 and No. 7, cf. Eq. 2.", "Done."],
        ["“Really?” he asked.", "“Yes.”", "(It was so.)", "He had read it.[12]", "Nobody else had."],
        ["The U.S. Army came.", "It left the U.S.", "The war was over."],
        ["She asked Mr. Brown, who said no.", "Yahoo! is a name, and so is this."],
        ["Am 3. Oktober kam er z.B. nach Bonn.", "Vgl. Abs. 2 des Vertrags.", "Das war es."],
        ["А. С. Пушкин родился в г. Москве.", "Он писал стихи, т.е. был поэтом."],
        ["هل هذا سؤال؟", "هذا جواب.", "یہ اردو ہے۔", "ہاں۔"],
        ["पहला वाक्य है।", "दूसरा वाक्य है॥", "क्या यह तीसरा है?"],
        ["안녕하세요.", "만나서 반갑습니다!"],
        ["hello there.", "all small letters here.", "is that so?", "yes"],
    ],
)
def test_sentences_are_found(expected: list[str]) -> None:
    text = " ".join(expected)
    assert shown(text) == expected


def test_scripts_without_spaces_are_cut_at_their_own_marks() -> None:
    assert shown("这是第一句。这是第二句！是吗？“你好。”他走了。") == [
        "这是第一句。",
        "这是第二句！",
        "是吗？",
        "“你好。”",
        "他走了。",
    ]
    assert shown("「行くの？」と彼は言った。次の文。") == ["「行くの？」と彼は言った。", "次の文。"]


def test_lines_of_one_paragraph_are_one_text_and_other_lines_are_not() -> None:
    text = (
        "# A heading\nThe first sentence is wrapped over a line that is long enough to be\n"
        "wrapped, and its last word is hy-\nphened. The second ends.\n\nA paragraph\n\n"
        "- an item\n- another item\n  that goes on\n\n1. First. It has two.\n2. Second\n"
    )
    assert [" ".join(each.split()) for each in shown(text)] == [
        "# A heading",
        "The first sentence is wrapped over a line that is long enough to be wrapped, and its last word is hy- phened.",
        "The second ends.",
        "A paragraph",
        "- an item",
        "- another item that goes on",
        "1. First.",
        "It has two.",
        "2. Second",
    ]


def test_a_short_line_before_a_long_one_is_a_heading() -> None:
    text = "Introduction\nThis chapter tells the long and winding story of how all of us came to be here.\n"
    assert shown(text)[0] == "Introduction"


def test_a_text_without_full_stops_is_cut_at_its_lines_or_its_words() -> None:
    lines = "\n".join(f"entry {number} of the log" for number in range(500))
    assert all(each.startswith("entry") and each.endswith("log") for each in shown(lines))
    assert all(len(each) <= LONGEST for each in shown("word " * 5000) + shown("x" * 5000))


def test_what_has_no_word_in_it_is_no_sentence() -> None:
    assert shown("") == shown(" \n ") == shown("***\n---\n...") == []


@given(TEXTS)
@example("a." * 2000)
@example(("word " * 400 + "\n") * 3)
def test_sentences_are_in_order_apart_and_without_space_around_them(text: str) -> None:
    spans = sentences(text)
    edges = [place for span in spans for place in span]
    assert edges == sorted(edges)
    assert all(start < end for start, end in spans)
    assert all(text[start:end] == text[start:end].strip() and end - start <= LONGEST for start, end in spans)
    kept = "".join(each for each in shown(text) if each)
    assert sum(map(str.isalnum, kept)) == sum(map(str.isalnum, text))


@given(TEXTS, st.integers(1, 60))
@example("e" + "\u0301" * 50, 7)
@example("\n\n" * 50, 3)
@example("🇦🇧" * 20, 5)
def test_pieces_cover_the_text_in_order_within_the_limit(text: str, limit: int) -> None:
    spans = pieces(text, limit)
    assert "".join(text[start:end] for start, end in spans) == text
    assert [start for start, _ in spans] == [0, *(end for _, end in spans)][: len(spans)]
    assert all(0 < end - start <= limit for start, end in spans)


@given(TEXTS)
def test_pieces_never_part_what_is_drawn_as_one(text: str) -> None:
    spans = pieces(text, 40)
    for (start, end), (after, _) in pairwise(spans):
        if any(each in "abZ1" for each in text[start + 1 : end]):  # there was another place to cut
            assert unicodedata.category(text[after])[0] != "M"
            assert text[after] != "\u200d"
            assert text[after - 1 : after + 1] != "\r\n"


def test_pieces_end_at_paragraphs_then_sentences_then_words() -> None:
    sentence = "This is a sentence of some length. "
    paragraph = sentence * 3 + "\n\n"
    assert all(text.endswith("\n\n") for text in cut(paragraph * 20, 400))
    assert all(text.strip().endswith(".") for text in cut(sentence * 60, 400))
    assert all(text.endswith(" ") for text in cut("word " * 400, 400)[:-1])


@pytest.mark.parametrize("limit", [300, 600, 5000])
def test_a_sentence_is_not_taken_for_ended_because_only_the_last_of_a_piece_is_looked_at(limit: int) -> None:
    """Abbreviations, wrapped lines and small letters mean the same wherever one begins to look."""
    sentence = "At 3 p.m. approx. forty people, e.g. Dr. Smith, came\nto see Fig. 3 of the book by J. R. Jones.\n"
    assert all(text.rstrip().endswith("Jones.") for text in cut(sentence * 300, limit))


@pytest.mark.parametrize("text", ["Ab. " * 250_000, "- \n" * 350_000 + "x", "x" * 1_000_000])
def test_no_more_of_a_long_text_is_read_than_a_little_before_each_cut(text: str) -> None:
    """By the calls and returns that it takes: to read all of the sentences takes more than ten millions."""
    calls = 0

    def counting(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        spans = pieces(text, 5000)
    finally:
        sys.setprofile(before)
    assert len(spans) >= len(text) // 5000
    assert calls < 2 * len(text)


def test_the_last_two_pieces_are_about_equal() -> None:
    sizes = [len(text) for text in cut("A short one. " * 100, 1200)]
    assert len(sizes) == 2
    assert max(sizes) < 2 * min(sizes)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pieces("text", 0)


def shown(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def cut(text: str, limit: int) -> list[str]:
    return [text[start:end] for start, end in pieces(text, limit)]
