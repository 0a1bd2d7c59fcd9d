"""Word documents: real ones by python-docx, and hostile ones by hand."""

from __future__ import annotations

import io
import zipfile

HEAD = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
TAIL = "</w:body></w:document>"


def report() -> bytes:
    """A title, headings, prose, a list and a table."""
    import docx

    document = docx.Document()
    document.add_heading("Report on the Harbour", 0)
    document.add_paragraph("The harbour was built before anybody kept records.")
    document.add_heading("Trade", 1)
    document.add_paragraph("Fishermen brought their catch.\tIt was sold.")
    document.add_paragraph("first item", style="List Bullet")
    document.add_paragraph("second item", style="List Bullet")
    table = document.add_table(2, 2)
    for row, cells in enumerate((("Year", "Ships"), ("1900", "312"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    document.add_paragraph("After the table.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def package(parts: dict[str, str | bytes], *, packed: bool = True) -> bytes:
    """A ZIP of these parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def document(body: str, *, before: str = "") -> bytes:
    """A document with this body, in WordprocessingML."""
    return package({"[Content_Types].xml": "<Types/>", "word/document.xml": before + HEAD + body + TAIL})


def said(text: str) -> str:
    """A paragraph."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def revised() -> bytes:
    """Text that was put in, taken out and moved, a content control, a text box with its older form, a field."""
    box = f"<w:txbxContent>{said('In a box.')}</w:txbxContent>"
    return document(
        "<w:p><w:r><w:t>Kept, </w:t></w:r><w:ins><w:r><w:t>added</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>removed</w:delText></w:r></w:del>"
        "<w:moveFrom><w:r><w:t>moved away</w:t></w:r></w:moveFrom>"
        '<w:r><w:instrText>PAGE \\* secret</w:instrText></w:r><w:hyperlink r:id="r1" xmlns:r="x"><w:r>'
        "<w:t> and linked.</w:t></w:r></w:hyperlink></w:p>"
        f"<w:sdt><w:sdtContent>{said('Controlled.')}</w:sdtContent></w:sdt>"
        '<w:p><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:p>"
    )


def laughs() -> bytes:
    """Entities in entities in entities."""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return document(said("&l9;"), before=f'<!DOCTYPE d [<!ENTITY l0 "ha">{entities}]>')


def swollen() -> bytes:
    """A document of a few kilobytes that unpacks to sixty megabytes."""
    return document(said("x" * 60_000_000))


def lying() -> bytes:
    """A document that says it is far smaller than it is."""
    body = bytearray(document(said("word " * 5_000_000)))
    with zipfile.ZipFile(io.BytesIO(bytes(body))) as archive:
        real = archive.getinfo("word/document.xml").file_size
    return bytes(body).replace(real.to_bytes(4, "little"), (1000).to_bytes(4, "little"))


def deep() -> bytes:
    """A paragraph inside a hundred thousand tables."""
    return document("<w:tbl>" * 100_000 + said("bottom") + "</w:tbl>" * 100_000)
