"""How a URL becomes a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from loquent.domain.errors import Misconfigured
from loquent.stores import SCHEMES, connect


@pytest.mark.parametrize("url", ["", "sqlite", "oracle://db", "oracle://me:secret@db/x"])
def test_an_unknown_scheme_is_refused_with_what_it_takes(url: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as refused:
        connect(url, data_dir=tmp_path)
    line = refused.value.message
    assert "\n" not in line and "secret" not in line
    assert all(f"{scheme}:" in line for scheme in SCHEMES)


@pytest.mark.parametrize("url", ["memory:", "memory://", "MEMORY:"])
def test_memory_is_named_by_its_scheme_alone(url: str, tmp_path: Path) -> None:
    connect(url.lower(), data_dir=tmp_path)


def test_what_stands_behind_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        connect("memory://host", data_dir=tmp_path)
