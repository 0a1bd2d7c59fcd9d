"""Passwords in URLs, as people write them: none is shown."""

from __future__ import annotations

import pytest

from loquent.domain.urls import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://shop:s3cret@127.0.0.1:5432/shop", "postgresql://shop:…@127.0.0.1:5432/shop"),
        ("postgres//shop:s3cret@127.0.0.1/shop", "postgres//shop:…@127.0.0.1/shop"),
        ("redis//:s3cret@127.0.0.1:6379/0", "redis//:…@127.0.0.1:6379/0"),
        ("redis:/:s3cret@127.0.0.1:6379/0", "redis:/:…@127.0.0.1:6379/0"),
        ("redis://:s3cret@127.0.0.1:6379/0", "redis://:…@127.0.0.1:6379/0"),
        ("redis://s3cret@127.0.0.1", "redis://…@127.0.0.1"),
        ("postgresql://shop:s3c/r@e#t@127.0.0.1/shop", "postgresql://shop:…@127.0.0.1/shop"),
        ("postgresql://127.0.0.1/shop?user=u&password=s3cret&x=1", "postgresql://127.0.0.1/shop?user=u&password=…&x=1"),
        ("sqlite:///data/loquent.db", "sqlite:///data/loquent.db"),
        ("ann@example.org", "ann@example.org"),
        ("https://models.example/v1", "https://models.example/v1"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown
