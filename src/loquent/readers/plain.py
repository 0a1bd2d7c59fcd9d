"""Text files: what encoding they are in, and that they are text at all. Never a guess that would garble them."""

from __future__ import annotations

import codecs
import re

from loquent.domain.errors import Invalid

_MARKS = (  # the longer first: the mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16  # bytes that a guess looks at
_CONTROLS = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_HIGH = re.compile(r"[\x80-\U0010ffff]")
_ASCII_LETTER = re.compile(r"[A-Za-z]")


def decoded(data: bytes) -> str:
    """The text, with lines ended by ``\\n``. Raises Invalid where it is not text, or not known in what encoding."""
    text = _text(data)
    if "\0" in text or len(_CONTROLS.findall(text)) > len(text) // 100:
        raise Invalid("the file is not text: it has bytes in it that no text has", field="file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strictly(data[len(mark) :], encoding)
    if guess := _unmarked_utf16(data):
        return _strictly(data, guess)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        return _western(data, fault)


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as fault:
        raise Invalid(f"the file says it is {encoding}, but is broken at byte {fault.start}", field="file") from fault


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without its mark, of a script whose characters have a zero in one half."""
    sample = data[:_SAMPLE]
    if len(data) % 2 or len(sample) < 4:
        return None
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if odd > 0.6 * half and even == 0:
        return "utf-16-le"
    if even > 0.6 * half and odd == 0:
        return "utf-16-be"
    return None


def _western(data: bytes, fault: UnicodeDecodeError) -> str:
    """An old Western text (Windows-1252), if it looks like one: a few accents and quotes among many plain letters."""
    unknown = Invalid(
        f"the encoding of the text is not known (it is not UTF-8 at byte {fault.start}): save it as UTF-8", field="file"
    )
    if b"\0" in data or _mostly_utf8(data):
        raise unknown from fault
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        raise unknown from fault
    sample = text[:_SAMPLE] + text[fault.start : fault.start + _SAMPLE]
    high, plain = len(_HIGH.findall(sample)), len(_ASCII_LETTER.findall(sample))
    if high > 0.2 * (high + plain):
        raise unknown from fault  # Cyrillic, Greek or Japanese in an encoding of their own would be garbled
    return text


def _mostly_utf8(data: bytes) -> bool:
    """Whether it is UTF-8 with something broken in it, rather than another encoding."""
    read = data.decode("utf-8", "replace")
    return len(_HIGH.findall(read)) > 2 * read.count("\ufffd")
