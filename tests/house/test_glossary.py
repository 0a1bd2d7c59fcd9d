"""The glossary knows the words that the records, kinds and statuses use."""

from __future__ import annotations

from pathlib import Path

from loquent.domain.generations import KINDS, STATUSES
from loquent.domain.records import RECORDS

GLOSSARY = (Path(__file__).resolve().parents[2] / "docs" / "glossary.md").read_text()


def test_every_record_has_its_word() -> None:
    assert [each.__name__ for each in RECORDS if each.__name__ not in GLOSSARY] == []


def test_every_kind_and_status_has_its_word() -> None:
    assert [word for word in (*KINDS, *STATUSES) if f"`{word}`" not in GLOSSARY] == []
