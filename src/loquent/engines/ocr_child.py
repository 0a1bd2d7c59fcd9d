"""The process that recognises text: ``python -m loquent.engines.ocr_child THREADS``; it ends with its standard input.

A picture comes as eight bytes of length and the file; the answer goes back the same way, as JSON: what was ``found``,
each with its box, or an ``error``. It opens no connection: what would fetch a model fails instead.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

SIDE = 2_000  # pixels of the longer side that are looked at: small print of a page is still read then
FOUND_AT = 1_280  # the same where lines are looked for: half the time and 250 MB less than at full size
MOST_PIXELS = 1_000_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
SIZE = 8


def main() -> None:
    """Answer one picture after the other."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library says to standard output is no answer
    sys.addaudithook(guard)
    look = recogniser(int(sys.argv[1]))
    while head := sys.stdin.buffer.read(SIZE):
        data = sys.stdin.buffer.read(int.from_bytes(head, "big"))
        answer = json.dumps(read(look, data)).encode()
        answers.write(len(answer).to_bytes(SIZE, "big") + answer)
        answers.flush()


def recogniser(threads: int) -> Any:
    """What recognises text, with the models of its own package."""
    from rapidocr import RapidOCR

    wanted: dict[str, Any] = {
        "Global.log_level": "critical",
        "Global.max_side_len": SIDE,
        "Det.limit_type": "max",
        "Det.limit_side_len": FOUND_AT,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
    }
    return RapidOCR(params=wanted)


def read(look: Any, data: bytes) -> dict[str, Any]:
    """The words in the picture."""
    try:
        pixels = unpacked(data)
    except Exception:  # a parser of somebody's bytes may raise anything
        return {"error": "the picture cannot be read"}
    told = look(pixels)
    if told.boxes is None or told.txts is None:
        return {"found": []}
    found = []
    for corners, text in zip(told.boxes.tolist(), told.txts, strict=True):
        across, down = zip(*corners, strict=True)
        found.append(((min(across), min(down), max(across), max(down)), text))
    return {"found": found}


def unpacked(data: bytes) -> Any:
    """The picture's first frame on white, not larger than is looked at."""
    import numpy
    from PIL import Image, WebPImagePlugin  # noqa: F401 - the plugin is found by being imported

    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.draft("RGB", (SIDE, SIDE))
        seen = image.convert("RGBA")
    seen.thumbnail((SIDE, SIDE))
    shown = Image.new("RGBA", seen.size, "white")
    shown.alpha_composite(seen)
    return numpy.asarray(shown.convert("RGB"))[:, :, ::-1]  # blue first, as OpenCV has it


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what reading a picture never needs."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system"):
        raise PermissionError(f"text recognition does no {event}")


if __name__ == "__main__":
    main()
