"""An HTTP generator: a prompt is POSTed to ``{url}/generateContent``, and one answer comes back, in JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import msgspec

from loquent.domain.errors import EngineFailed, LoquentError, Misconfigured
from loquent.domain.usage import Usage, estimate_tokens
from loquent.engines.events import Events
from loquent.engines.refusals import meaning
from loquent.engines.remote import Remote
from loquent.ports.engine import Ask, Chunk


class Answer(msgspec.Struct, rename="camel"):
    """What it says; further fields are left alone."""

    model_response: str
    is_success: bool


read = msgspec.json.Decoder(Answer).decode


class HttpText(Remote):
    """A remote generator that takes a text and nothing else: parameters that it cannot be told of are left out.

    Messages are put to it as one text. The answer comes as one piece; what it used is an estimate.
    """

    listing = "/"

    def _place(self) -> tuple[str, Mapping[str, str]]:
        if not self._model.url:
            said = f"model {self._model.name}: engine http_text needs a url, such as https://host"
            raise Misconfigured(said, field="url")
        return self._model.url, {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _path(self, ask: Ask) -> str:
        return "/generateContent"

    def _body(self, ask: Ask) -> bytes:
        return msgspec.json.encode({"prompt": _prompt(ask)})

    def _events(self, ask: Ask) -> Events:
        raise EngineFailed(f"model {self._model.name}: the engine has no streams")

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        """See the port."""
        text = (await self._whole(ask)).text
        text = text[
            : min((place for each in ask.parameters.stop if (place := text.find(each)) >= 0), default=len(text))
        ]
        yield Chunk(text, "stop", Usage(estimate_tokens(_prompt(ask)), estimate_tokens(text), estimated=True))

    def _answer(self, body: bytes, content_type: str) -> Chunk:
        try:
            answer = read(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
            raise EngineFailed(f"model {self._model.name}: the engine's answer is not what it should be") from broken
        if not answer.is_success:
            raise EngineFailed(f"model {self._model.name}: the engine says that it failed")
        return Chunk(answer.model_response)

    def _refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> LoquentError:
        return meaning(status, "", headers, self._model.name)  # its own words may hold the prompt


def _prompt(ask: Ask) -> str:
    return "\n\n".join(each.content for each in ask.messages) if ask.prompt is None else ask.prompt
