"""The child process that reads one file: ``python -m loquent.readers.child``, limited before it looks at anything.

The file is its standard input, what it may use is its one argument (JSON), and it answers on standard output: one
line of JSON that says what came of it, then the text or, where ``max_pixels`` is given, the cleaned picture. It opens
no connection, starts nothing and writes no file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, BinaryIO

from loquent.domain.errors import Invalid, LoquentError, TooLarge
from loquent.readers.kinds import DOCX, PDF, tell

FILES = 32  # open at the same time: modules while they are imported
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "ctypes.dlopen",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Read the file and answer."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    limit(asked["seconds"], asked["memory_bytes"])
    sys.addaudithook(guard)
    file = os.fdopen(0, "rb", closefd=False)
    try:
        head, body = cleaned(file, asked) if "max_pixels" in asked else texted(file, asked)
    except LoquentError as fault:
        head, body = {"error": fault.code, "message": fault.message}, b""
    except MemoryError:
        head, body = {"error": TooLarge.code, "message": "reading the file takes more memory than is given"}, b""
    except RecursionError:
        head, body = {"error": Invalid.code, "message": "the file is nested too deeply to be real"}, b""
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + body)
    sys.stdout.buffer.flush()
    os._exit(0)  # nothing to tidy: quicker, and nothing of the file runs on


def limit(seconds: float, memory_bytes: int) -> None:
    """Bound this process for good: memory, processor time, files; and an end of its own, should nobody wait for it."""
    try:
        import resource
    except ImportError:  # Windows has none of these: the parent's clock is what is left
        return
    whole = int(seconds) + 1
    for name, value in (
        ("RLIMIT_AS", memory_bytes),
        ("RLIMIT_CPU", whole),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NOFILE", FILES),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CORE", 0),
    ):
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError):  # not every system has each of them
            continue
    signal.alarm(whole + 1)


def cleaned(file: BinaryIO, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The file as a clean picture."""
    from loquent.readers import raster

    return raster.cleaned(file, asked["ending"], asked["max_pixels"])


def texted(file: BinaryIO, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The file as text."""
    text, kind, pages = read(file, asked)
    return {"kind": kind, "pages": pages}, text.encode()


def read(file: BinaryIO, asked: dict[str, Any]) -> tuple[str, str, int | None]:
    """The text, its kind and the number of its pages."""
    said, most = asked["ending"], asked["max_characters"]
    found = tell(file, said)
    pages = None
    if found == PDF:
        from loquent.readers import pdf

        kind = "pdf"
        text, pages = pdf.text_of(file, most)
    elif found == DOCX:
        from loquent.readers import docx

        kind = "docx"
        text = docx.text_of(file, most, asked["memory_bytes"] // 2)
    else:
        from loquent.readers import plain

        kind = "md" if said == ".md" else "txt"
        text = plain.decoded(file.read())
    text = clean(text)
    if not text.strip():
        raise Invalid("there is no text in the file", field="file")
    if len(text) > most:
        raise TooLarge(f"the text of the file has {len(text):,} characters; at most {most:,} are taken", field="file")
    return text, kind, pages


def clean(text: str) -> str:
    """Without NUL; surrogates in pairs are the character that they mean, alone they are the sign for a broken one."""
    if text.isascii():
        return text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "")


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what reading never needs, should a file make a parser try it."""
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        raise PermissionError("the reader writes no files")
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"the reader does no {event}")


if __name__ == "__main__":
    main()
