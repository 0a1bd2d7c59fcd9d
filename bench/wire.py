"""HTTP/1.1 and server-sent events as bytes: just enough for a client and a server that cost next to nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


def message(data: bytes) -> tuple[bytes, bytes, int] | None:
    """The first message in the data: head in lower case, body, where the next one begins. None: not whole yet.

    Raises ValueError where the framing cannot be read.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, start = data[: end + 2].lower(), end + 4
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        stop = start + int(head[at + 17 : head.find(b"\r\n", at + 17)])
        return (head, data[start:stop], stop) if len(data) >= stop else None
    if b"\r\ntransfer-encoding: chunked" in head:
        body, stop = dechunked(data, start)
        return (head, body, stop) if stop else None
    if head.startswith(b"http/") and b" 204 " not in head[:14]:
        raise ValueError("an answer without a length")
    return head, b"", start


def dechunked(data: bytes, start: int) -> tuple[bytes, int]:
    """A chunked body, and where it ends; 0 for the end where the last chunk has not come."""
    parts: list[bytes] = []
    while (line := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:line].partition(b";")[0], 16)
        if size == 0:
            end = data.find(b"\r\n\r\n", line)  # trailers, if any, end with an empty line too
            return b"".join(parts), end + 4 if end >= 0 else 0
        start = line + 2 + size + 2
        if start > len(data):
            break
        parts.append(data[line + 2 : start - 2])
    return b"".join(parts), 0


@dataclass
class Answer:
    """What a whole streamed answer held."""

    status: int = 0
    chunks: int = 0  # events that carried text
    text: str = ""
    usage: dict[str, Any] | None = None
    is_done: bool = False  # [DONE] came, and nothing after it
    fault: str = ""


def read_stream(raw: bytes) -> Answer:
    """Read a streamed answer from its first byte to its last."""
    answer = Answer()
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        answer.fault = "no answer"
        return answer
    head, body = raw[: end + 2].lower(), raw[end + 4 :]
    answer.status = int(head[9:12])
    if b"\r\ntransfer-encoding: chunked" in head:
        body, stop = dechunked(raw, end + 4)
        answer.fault = "" if stop else "cut off"
    if answer.status != 200:
        answer.fault = f"status {answer.status}"
        return answer
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                _take(answer, line[5:].strip())
    if not answer.is_done:
        answer.fault = answer.fault or "no [DONE]"
    return answer


def _take(answer: Answer, data: bytes) -> None:
    answer.is_done = data == b"[DONE]"
    if answer.is_done:
        return
    event = json.loads(data)
    if "error" in event:
        answer.fault = f"error: {str(event['error'])[:100]}"
    answer.usage = event.get("usage") or answer.usage
    for choice in event.get("choices", ()):
        if text := choice.get("delta", {}).get("content") or choice.get("text"):
            answer.chunks += 1
            answer.text += text
