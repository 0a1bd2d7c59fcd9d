"""Any server that speaks OpenAI's API: its chat and its completions, whole or streamed, and its embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from loquent.domain.errors import LoquentError, Misconfigured
from loquent.domain.models import Model
from loquent.engines import Options, openai_ask, openai_vectors
from loquent.engines.openai_refusals import refusal
from loquent.engines.openai_wire import Streamed, answer
from loquent.engines.remote import Remote
from loquent.ports.engine import Ask, Chunk

MUCH = 262_144  # bytes of vectors, which take more than a millisecond to read: others have their turn meanwhile


class OpenAI(Remote):
    """A remote model, by the row's ``url`` (ending in /v1), ``id`` and ``key_env``.

    Streams pass on as they come: each Chunk has the text and, in ``wire``, the events themselves, under the name that
    callers know the model by, without usage and ``[DONE]``. A refusal in the model's own words is text. What it
    thought goes back to the caller and never to the engine. Redirects are refused, so the key goes nowhere else.
    """

    listing = "/models"

    def __init__(self, model: Model, options: Options) -> None:
        super().__init__(model, options)
        # OpenAI's own newer models refuse max_tokens; other servers know nothing else.
        self._is_original = "//api.openai.com/" in (model.url or "")

    def _place(self) -> tuple[str, Mapping[str, str]]:
        if not self._model.url:
            said = f"model {self._model.name}: engine openai needs a url, such as https://host/v1"
            raise Misconfigured(said, field="url")
        return self._model.url, {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _path(self, ask: Ask) -> str:
        if ask.texts:
            return "/embeddings"
        return "/chat/completions" if ask.prompt is None else "/completions"

    def _body(self, ask: Ask) -> bytes:
        if ask.texts:
            return openai_vectors.body(ask, self._model.id)
        return openai_ask.body(ask, self._model.id, is_original=self._is_original)

    async def _whole(self, ask: Ask) -> Chunk:
        if not ask.texts:
            return await super()._whole(ask)
        body, content_type = await self._posted(ask)
        if len(body) < MUCH:
            return openai_vectors.answer(body, content_type, ask, self._model.name, secret=self._key)
        return await asyncio.to_thread(
            openai_vectors.answer, body, content_type, ask, self._model.name, secret=self._key
        )

    def _events(self, ask: Ask) -> Streamed:
        return Streamed("chat" if ask.prompt is None else "completion", ask.model.name, self._key)

    def _answer(self, body: bytes, content_type: str) -> Chunk:
        return answer(body, content_type, self._model.name, secret=self._key)

    def _refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> LoquentError:
        return refusal(status, headers, body, self._model.name, secret=self._key)
