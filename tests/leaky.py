"""A server that gives away the key that it is called with, in every way a server can go wrong: so that a test can
look where the key ends up. The first part of the path says which way; what engine calls is told by what it sends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scripted import Caller, Script, hang_up, hang_up_after_the_head, silent

STATUSES = (400, 401, 402, 403, 404, 408, 413, 418, 422, 429, 500, 501, 503, 529)
GOOD, TELLS = "good", "tells"


def key_of(caller: Caller) -> str:
    return caller.headers.get("x-api-key") or caller.headers.get("authorization", "").removeprefix("Bearer ")


def way_of(caller: Caller) -> str:
    return caller.line.split(" ")[1].split("/")[1]


def fault(caller: Caller, words: str = "bad key") -> bytes:
    """An error in everybody's form."""
    key = key_of(caller)
    said = {"type": "invalid_request_error", "message": f"{words} {key}", "code": key, "param": key, "detail": key}
    return json.dumps({"type": "error", "error": said, "message": key, "detail": f"{words} {key}"}).encode()


def data(said: Mapping[str, Any]) -> bytes:
    return b"data: %s\n\n" % json.dumps(said).encode()


def pieces(caller: Caller, text: str) -> list[bytes]:
    """A stream that says it, as the wire that is spoken has it; without its end."""
    if "/messages" in caller.line:
        started = {"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        return [data({"type": "message_start", "message": started}), data(delta)]
    return [data({"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "text": text}]})]


def ends(caller: Caller) -> list[bytes]:
    if "/messages" in caller.line:
        last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}
        return [data(last), data({"type": "message_stop"})]
    return [data({"model": "m", "choices": [{"delta": {}, "text": "", "finish_reason": "stop"}]}), b"data: [DONE]\n\n"]


def whole(caller: Caller, text: str) -> bytes:
    """An answer in everybody's form."""
    texts = caller.body.get("input", ())
    vectors = [{"index": n, "embedding": [1.0]} for n in range(1 if isinstance(texts, str) else len(texts))]
    choice = {"message": {"role": "assistant", "content": text}, "text": text, "finish_reason": "stop"}
    generated = {"modelResponse": text, "isSuccess": True, "prediction": [[1.0]]}
    message = {"type": "message", "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    return json.dumps({**message, **generated, "model": "m", "choices": [choice], "data": vectors}).encode()


async def say(caller: Caller, text: str) -> None:
    if caller.body.get("stream"):
        await caller.events(*pieces(caller, text), *ends(caller))
    else:
        await caller.answer(whole(caller, text))


async def redirect(caller: Caller) -> None:
    port = way_of(caller).removeprefix("redirect-")  # where somebody else listens
    location = f"Location: http://127.0.0.1:{port}/v1/messages?key={key_of(caller)}\r\n"
    await caller.answer(fault(caller), 307, extra=location)


async def other_type(caller: Caller) -> None:
    await caller.answer(fault(caller), kind=f"{'x' * 60}/{key_of(caller)}")


async def encoded(caller: Caller) -> None:
    await caller.answer(fault(caller), extra=f"Content-Encoding: {key_of(caller)}\r\n")


async def not_http(caller: Caller) -> None:
    await caller.send(fault(caller) + b"\r\n\r\n")


async def endless_head(caller: Caller) -> None:
    await caller.send(b"HTTP/1.1 200 OK\r\nX-Echo: " + key_of(caller).encode() * 5_000)


async def broken(caller: Caller) -> None:
    if caller.body.get("stream"):
        await caller.events(*pieces(caller, "so far"), b"data: " + fault(caller)[:-9] + b"\n\n")
    else:
        await caller.answer(fault(caller)[:-9])


async def error_in_answer(caller: Caller) -> None:
    if caller.body.get("stream"):
        await caller.events(b"event: error\ndata: " + fault(caller) + b"\n\n")
    else:
        await caller.answer(fault(caller))


async def error_behind_a_piece(caller: Caller) -> None:
    if caller.body.get("stream"):
        await caller.events(*pieces(caller, "so far"), b"event: error\ndata: " + fault(caller) + b"\n\n")
    else:
        await caller.answer(b'{"choices":7,"content":"%s"}' % key_of(caller).encode())


def refusing(status: int, words: str = "bad key") -> Script:
    async def refuse(caller: Caller) -> None:
        await caller.answer(fault(caller, words), status, extra=f"X-Echo: {key_of(caller)}\r\nRetry-After: 1\r\n")

    return refuse


FAULTS: Mapping[str, Script] = {
    **{f"refused-{status}": refusing(status) for status in STATUSES},
    "refused-at-length": refusing(400, "x" * 290),  # so that a message that is cut would be cut inside the key
    "hang-up": hang_up,
    "hang-up-after-the-head": hang_up_after_the_head,
    "silent": silent,
    "other-type": other_type,
    "encoded": encoded,
    "not-http": not_http,
    "endless-head": endless_head,
    "broken": broken,
    "error-in-answer": error_in_answer,
    "error-behind-a-piece": error_behind_a_piece,
}


async def leaky(caller: Caller) -> None:
    """The script."""
    way = way_of(caller)
    if caller.line.startswith("GET"):  # whether it is there
        await refusing(503)(caller)
    elif way.startswith("redirect-"):
        await redirect(caller)
    elif way in FAULTS:
        await FAULTS[way](caller)
    else:
        await say(caller, key_of(caller) if way == TELLS else "fine")
