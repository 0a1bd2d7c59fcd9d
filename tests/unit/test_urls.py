"""Passwords in URLs, as people write them: none is shown."""

from __future__ import annotations

import pytest

from loquent.domain.errors import Misconfigured
from loquent.domain.urls import check_server, without_password


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


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:s3c/ret@127.0.0.1:6379/0", "names no server"),
        ("amqp://guest:s3c/ret@127.0.0.1:5672//", "names no server"),
        ("redis://127.0.0.1:70000/0", "names no server"),
        ("redis://127.0.0.1:6379/abc", "database is no number"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_words(url: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=why) as refused:
        check_server(url, "LOQUENT_QUEUE")
    assert "s3c" not in refused.value.message


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/0", "rediss://h", "amqp://u:p@h:5672//", "sqs://", "memory:"])
def test_a_url_that_can_be_read_is_taken(url: str) -> None:
    check_server(url, "LOQUENT_QUEUE")
