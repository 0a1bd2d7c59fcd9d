"""An HTTP predictor for images: one POST of a picture, and one number back, whose boolean is the answer.

It is asked as ``POST {url}`` with JSON ``{"image": base64}`` and answers ``{"prediction": [[x]]}``; what it says is
``true`` or ``false``, of the picture alone: a prompt, temperature and its like mean nothing to it.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import msgspec

from loquent.domain.errors import EngineFailed, LoquentError, Misconfigured
from loquent.domain.models import BOOLEAN, Model
from loquent.domain.requests import picture_of
from loquent.domain.usage import Usage, estimate_tokens
from loquent.engines import Options
from loquent.engines.events import Events
from loquent.engines.refusals import meaning
from loquent.engines.remote import Remote
from loquent.ports.engine import Ask, Chunk

encode = msgspec.json.Encoder().encode


class Predicted(msgspec.Struct):
    """What it answers: one row of one number."""

    prediction: list[list[float | bool]]


read = msgspec.json.Decoder(Predicted).decode


class HttpImage(Remote):
    """A predictor, by the row's ``url`` and ``key_env`` (sent as a bearer token)."""

    listing = ""

    def __init__(self, model: Model, options: Options) -> None:
        super().__init__(model, options)
        if BOOLEAN not in model.abilities:
            raise Misconfigured(f'model {model.name}: engine http_image takes abilities = ["vision", "boolean"]')

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port; there is one piece."""
        yield await self._whole(ask)

    def _place(self) -> tuple[str, Mapping[str, str]]:
        url = self._model.url
        if not url:
            raise Misconfigured(
                f"model {self._model.name}: engine http_image needs a url, such as https://host/predict",
                field="url",
            )
        parts = urlsplit(url)
        self.listing = "/" if parts.path in ("", "/") or parts.path.endswith("/") else ""
        self.listing += f"?{parts.query}" if parts.query else ""
        return url, {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _path(self, ask: Ask) -> str:
        return self.listing

    def _body(self, ask: Ask) -> bytes:
        picture = picture_of(ask.messages)
        return encode({"image": base64.b64encode(picture.data).decode("ascii")})

    def _answer(self, body: bytes, content_type: str) -> Chunk:
        name = self._model.name
        try:
            rows = read(body).prediction
        except (msgspec.DecodeError, RecursionError) as broken:
            raise EngineFailed(f"model {name}: the predictor's answer cannot be read ({content_type})") from broken
        if len(rows) != 1 or len(rows[0]) != 1:
            raise EngineFailed(f"model {name}: the predictor's answer is not one number")
        said = "true" if rows[0][0] else "false"
        return Chunk(said, "stop", Usage(1, estimate_tokens(said), estimated=True))

    def _events(self, ask: Ask) -> Events:
        raise TypeError("a predictor does not stream")

    def _refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> LoquentError:
        return meaning(status, "", headers, self._model.name)
