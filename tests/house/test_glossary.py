"""The glossary knows the words that the records, kinds and statuses use."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from loquent.domain.generations import KINDS, STATUSES
from loquent.domain.records import RECORDS

GLOSSARY = (Path(__file__).resolve().parents[2] / "docs" / "glossary.md").read_text()
ENTRIES = re.findall(r"^\| ([^|]+?) \|", GLOSSARY, re.MULTILINE)
WORDS = [word.lower() for entry in ENTRIES if entry not in ("word", "---") for word in entry.split(", ")]


def test_every_record_has_its_word() -> None:
    assert [each.__name__ for each in RECORDS if each.__name__ not in GLOSSARY] == []


def test_every_kind_and_status_has_its_word() -> None:
    assert [word for word in (*KINDS, *STATUSES) if f"`{word}`" not in GLOSSARY] == []


def test_no_word_has_two_entries() -> None:
    assert WORDS and twice(WORDS) == []
    assert twice([*WORDS, WORDS[0]]) == [WORDS[0]]


def twice(words: list[str]) -> list[str]:
    return sorted(word for word, count in Counter(words).items() if count > 1)
