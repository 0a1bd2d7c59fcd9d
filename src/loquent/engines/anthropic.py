"""Any server that speaks Anthropic's Messages API, natively: Anthropic itself and those that speak as it does."""

from __future__ import annotations

from collections.abc import Mapping

from loquent.domain.errors import Invalid, LoquentError, Misconfigured
from loquent.domain.models import TEXT
from loquent.engines.anthropic_ask import Body, encode, output_of, turns_of
from loquent.engines.anthropic_wire import Streamed, answer, refusal
from loquent.engines.remote import Remote
from loquent.ports.engine import Ask, Chunk

ORIGINAL = "https://api.anthropic.com"
VERSION = "2023-06-01"  # the one after it, 2026-10-21, takes neither temperature nor top_p (api/versioning)
MOST_TOKENS = 4096  # of an answer, where neither the caller nor the row says: the API wants to be told
ABILITIES = "chat, vision and json_schema"


class Anthropic(Remote):
    """A remote model, by the row's ``id`` and ``key_env``, and ``url`` where it is not Anthropic's own.

    It answers chats; there is nothing that goes on from a prompt. Where our parameters and the API's differ:
    ``max_tokens`` is 4096, and half the row's context at most, unless somebody says more; a ``temperature`` above 1
    counts as 1, as at Anthropic's own OpenAI endpoint; ``seed``, which Parameters offers only where the engine can, is
    left out; ``stop`` takes no string of white space alone; ``response_format`` takes a JSON schema, of which the API
    knows a part, and no json_object. A refusal by the model ends the answer as ``stop``.
    Source: https://platform.claude.com/docs/en/api/messages/create
    """

    listing = "/v1/models?limit=1"

    def _place(self) -> tuple[str, Mapping[str, str]]:
        model = self._model
        if TEXT in model.abilities:
            raise Misconfigured(
                f"model {model.name}: engine anthropic cannot go on from a prompt: "
                f'give the row abilities = ["chat"], or more of {ABILITIES}'
            )
        if not model.url and not model.key_env:
            raise Misconfigured(f"model {model.name}: engine anthropic needs a key_env, or the url of another server")
        url = (model.url or ORIGINAL).rstrip("/").removesuffix("/v1")
        return url, {"anthropic-version": VERSION, **({"x-api-key": self._key} if self._key else {})}

    def _path(self, ask: Ask) -> str:
        return "/v1/messages"

    def _body(self, ask: Ask) -> bytes:
        name, wanted = self._model.name, ask.parameters
        if ask.prompt is not None:
            raise Invalid(f"model {name} answers messages; it cannot go on from a prompt", field="prompt")
        if any(not stop.strip() for stop in wanted.stop):
            raise Invalid(f"model {name} takes no stop string of white space alone", field="stop")
        system, turns = turns_of(ask.messages)
        if not turns:
            raise Invalid("the messages hold nothing to answer", field="messages")
        # What the API does by itself is not sent: newer models refuse both even of the value that changes nothing.
        temperature, top_p = wanted.temperature, wanted.top_p
        return encode(
            Body(
                model=self._model.id,
                messages=turns,
                max_tokens=wanted.max_tokens or self._most(),
                system=system,
                temperature=None if temperature is None or temperature >= 1 else temperature,
                top_p=None if top_p is None or top_p >= 1 else top_p,
                stop_sequences=wanted.stop,
                output_config=output_of(wanted.response_format),
                stream=ask.streamed,
            )
        )

    def _most(self) -> int:
        context = self._model.context
        return MOST_TOKENS if context is None else max(1, min(MOST_TOKENS, context // 2))

    def _events(self, ask: Ask) -> Streamed:
        return Streamed(self._model.name, self._key)

    def _answer(self, body: bytes, content_type: str) -> Chunk:
        return answer(body, content_type, self._model.name, secret=self._key)

    def _refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> LoquentError:
        return refusal(status, headers, body, self._model.name, secret=self._key)
