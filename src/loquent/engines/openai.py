"""Any server that speaks OpenAI's API: its chat and its completions, whole or streamed."""

from __future__ import annotations

from collections.abc import Mapping

from loquent.domain.errors import LoquentError, Misconfigured
from loquent.domain.models import Model
from loquent.engines import Options
from loquent.engines.openai_wire import Body, Streamed, answer, encode, messages_of, refusal
from loquent.engines.remote import Remote
from loquent.ports.engine import Ask, Chunk

WITH_USAGE = {"include_usage": True}


class OpenAI(Remote):
    """A remote model, by the row's ``url`` (ending in /v1), ``id`` and ``key_env``.

    Streams pass on as they come: each Chunk has the text and, in ``wire``, the events themselves, under the name that
    callers know the model by, without usage and ``[DONE]``. Redirects are refused, so the key goes nowhere else.
    """

    listing = "/models"

    def __init__(self, model: Model, options: Options) -> None:
        super().__init__(model, options)
        # OpenAI's own newer models refuse max_tokens; other servers know nothing else.
        self._is_original = "//api.openai.com/" in (model.url or "")

    def _place(self) -> tuple[str, Mapping[str, str]]:
        if not self._model.url:
            raise Misconfigured(f"model {self._model.name}: engine openai needs a url, such as https://host/v1")
        return self._model.url, {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _path(self, ask: Ask) -> str:
        return "/chat/completions" if ask.prompt is None else "/completions"

    def _body(self, ask: Ask) -> bytes:
        wanted, is_original = ask.parameters, self._is_original and ask.prompt is None
        return encode(
            Body(
                model=self._model.id,
                messages=messages_of(ask.messages) if ask.prompt is None else None,
                prompt=ask.prompt,
                max_tokens=None if is_original else wanted.max_tokens,
                max_completion_tokens=wanted.max_tokens if is_original else None,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                seed=wanted.seed,
                stop=wanted.stop,
                response_format=wanted.response_format,
                stream=ask.streamed,
                stream_options=WITH_USAGE if ask.streamed else None,
            )
        )

    def _events(self, ask: Ask) -> Streamed:
        return Streamed("chat" if ask.prompt is None else "completion", ask.model.name, self._key)

    def _answer(self, body: bytes, content_type: str) -> Chunk:
        return answer(body, content_type, self._model.name, secret=self._key)

    def _refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> LoquentError:
        return refusal(status, headers, body, self._model.name, secret=self._key)
