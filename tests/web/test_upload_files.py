"""What an upload leaves on the disk while it is looked at: nothing with a name, and nothing afterwards."""

from __future__ import annotations

import io
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from starlette.datastructures import UploadFile

from asking import client_of, serving
from asking import kept as kept_records
from loquent.domain.errors import Invalid, Unavailable
from loquent.web.uploads import called, kept

pytestmark = pytest.mark.anyio


def upload(data: bytes = b"x" * 3_000_000, name: str | None = "a.txt") -> UploadFile:
    return UploadFile(io.BytesIO(data), filename=name)


async def test_a_copy_is_there_for_the_block_and_gone_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with kept(upload()) as (path, digest):
        for _ in range(2):  # it can be read more than once
            assert path.read_bytes() == b"x" * 3_000_000
        assert digest == sha256(b"x" * 3_000_000).digest()
        if sys.platform == "linux":
            assert list(tmp_path.iterdir()) == [], "not even kill -9 could leave it there"  # noqa: ASYNC240
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


async def test_a_fault_in_the_block_is_the_blocks_own(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="of the block"):
        async with kept(upload()):
            raise TimeoutError("of the block")


async def test_where_there_is_no_room_for_it_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as (app, services), client_of(app) as client:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        for path, form in (("/api/v1/documents", "problem+json"), ("/getdoc/uploadfile", "json")):
            answer = await client.post(path, files={"file": ("a.txt", b"a text")})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
            assert answer.headers["content-type"] == f"application/{form}"
        assert not any((await kept_records(services)).values())
    with pytest.raises(Unavailable):
        async with kept(upload()):
            pass


@pytest.mark.parametrize("name", [None, "", ".", "..", "...", "a/", "\\", " ", "\u202e", "\x00", "/. ."])
async def test_a_file_without_a_name_is_refused(name: str | None) -> None:
    with pytest.raises(Invalid):
        called(upload(name=name))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("a.txt", "a.txt"),
        ("C:\\docs\\a.txt", "a.txt"),
        ("../a.txt", "a.txt"),
        (".txt", ".txt"),
        ("a\x00\r\n\x7f.txt", "a.txt"),
        ("x" * 300, "x" * 200),
        ("x" * 300 + ".docx", "x" * 195 + ".docx"),
        ("x." + "y" * 300, "x." + "y" * 198),
    ],
)
async def test_a_name_is_made_fit_to_be_shown(name: str, known: str) -> None:
    assert called(upload(name=name)) == known
