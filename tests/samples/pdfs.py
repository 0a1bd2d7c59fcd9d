"""PDF files written by hand, so that a test says exactly what is in them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from samples.swelling import packed

PROSE = (
    "The harbour of the old town was built before anybody kept records of such things.",
    "Fishermen from the islands brought their catch to its market every morning.",
    "When the railway came, the harbour lost its trade and the market its customers.",
    "A new breakwater was finished in the spring and opened by the mayor of the town.",
)


def written(objects: Sequence[bytes], root: int = 1) -> bytes:
    """A file of these objects, numbered from 1, with its table and trailer."""
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<</Size %d/Root %d 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, root, table)
    return bytes(out)


def stream(content: bytes, *, is_packed: bool = False) -> bytes:
    """A stream object."""
    return b"<</Length %d%s>>stream\n%s\nendstream" % (
        len(content),
        b"/Filter/FlateDecode" if is_packed else b"",
        content,
    )


def pdf(pages: Sequence[Sequence[str]]) -> bytes:
    """Pages of lines in Helvetica; an empty line leaves a gap."""
    return of_contents([_shown(lines) for lines in pages])


def of_contents(contents: Sequence[bytes], *, is_packed: bool = False) -> bytes:
    """Pages that draw these content streams, which may be packed already."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(contents)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(contents), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for number, content in enumerate(contents):
        objects += [
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>"
            % (5 + 2 * number),
            stream(content, is_packed=is_packed),
        ]
    return written(objects)


def _shown(lines: Sequence[str]) -> bytes:
    drawn = [b"BT /F1 11 Tf 14 TL 72 740 Td"]
    for line in lines:
        text = line.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
        drawn.append(b"(%s) Tj T*" % text if line else b"T*")
    return b"\n".join([*drawn, b"ET"])


def book(pages: int) -> bytes:
    """A book with a running head, page numbers, a word broken over two lines and a number that is each page's own."""
    return pdf(
        [
            [
                "The History of the Harbour",
                "",
                f"On page {page} of this book the story of the town and its people goes on as it did before.",
                *PROSE,
                "Its stones are from the quarry behind the hill, which the people of the town still re-",
                "member well.",
                "",
                f"Page {page}",
            ]
            for page in range(1, pages + 1)
        ]
    )


def encrypted(password: str) -> bytes:
    """A book that asks for this password."""
    import pypdf

    writer = pypdf.PdfWriter(clone_from=pypdf.PdfReader(io.BytesIO(book(2))))
    writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def scan() -> bytes:
    """A page with a drawing and no text."""
    return of_contents([b"0 0 m 100 100 l S"])


def swollen() -> bytes:
    """A page whose few bytes unpack to a great many."""
    return of_contents([packed(b" " * 1_000_000, 120)], is_packed=True)


def busy() -> bytes:
    """A page that takes minutes to draw."""
    return of_contents([packed(b"BT /F1 9 Tf (word) Tj ET\n" * 4_000, 100)] * 20, is_packed=True)


def deep() -> bytes:
    """A page inside 50,000 arrays."""
    return of_contents([b"[" * 50_000 + b"]" * 50_000 + b" TJ"])


def endless() -> bytes:
    """A page tree that is its own branch, under a table that is its own predecessor."""
    body = written([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 9/Kids[2 0 R 2 0 R]/Parent 2 0 R>>"])
    place = body.rindex(b"xref\n0")
    return body.replace(b"/Root", b"/Prev %d/Root" % place)


def crowded() -> bytes:
    """A million pages, by a tree in which each branch stands ten times."""
    objects = [b"<</Type/Catalog/Pages 2 0 R>>"]
    for level in range(6):
        kids = b" ".join([b"%d 0 R" % (level + 3)] * 10)
        objects.append(b"<</Type/Pages/Count %d/Kids[%s]>>" % (10 ** (6 - level), kids))
    objects.append(b"<</Type/Page/MediaBox[0 0 9 9]>>")
    return written(objects)
