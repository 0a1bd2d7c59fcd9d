"""Any server that speaks Anthropic's Messages API, natively: Anthropic itself and those that speak as it does."""

from __future__ import annotations

from collections.abc import Mapping

from loquent.domain.errors import Invalid, LoquentError, Misconfigured
from loquent.domain.models import EMBEDDINGS, LOGPROBS, TEXT
from loquent.engines import HOMES
from loquent.engines.anthropic_ask import Body, choice_of, encode, output_of, thinking_of, tools_of, turns_of
from loquent.engines.anthropic_refusals import refusal
from loquent.engines.anthropic_wire import Streamed, answer
from loquent.engines.remote import Remote
from loquent.ports.engine import Ask, Chunk

VERSION = "2023-06-01"  # the one after it, 2026-10-21, takes neither temperature nor top_p (api/versioning)
MOST_TOKENS = 4096  # of an answer, where neither the caller nor the row says: the API wants to be told
ABILITIES = "chat, vision, json_schema and tools"
CANNOT = {TEXT: "go on from a prompt", EMBEDDINGS: "make vectors", LOGPROBS: "tell how likely tokens were"}


class Anthropic(Remote):
    """A remote model, by the row's ``id`` and ``key_env``, and ``url`` where it is not Anthropic's own.

    It answers chats; there is nothing that goes on from a prompt. Where our parameters and the API's differ:
    ``max_tokens`` is 4096, and half the row's context at most, unless somebody says more; a ``temperature`` above 1
    counts as 1, as at Anthropic's own OpenAI endpoint; ``seed``, which Parameters offers only where the engine can, is
    left out; ``stop`` takes no string of white space alone; ``response_format`` takes a JSON schema, of which the API
    knows a part, and no json_object; ``reasoning_effort`` asks for adaptive thinking, whose words are the reasoning,
    and which is not given back with the results of calls: its signature is not kept. A refusal by the model ends the
    answer as ``content_filter``, and a turn that it only paused, which takes tools of its own, as ``length``.
    Source: https://platform.claude.com/docs/en/api/messages/create
    """

    listing = "/v1/models?limit=1"

    def _place(self) -> tuple[str, Mapping[str, str]]:
        model = self._model
        for ability in sorted(CANNOT.keys() & model.abilities):
            raise Misconfigured(
                f"model {model.name}: engine anthropic cannot {CANNOT[ability]}: "
                f'give the row abilities = ["chat"], or more of {ABILITIES}',
                field="abilities",
            )
        if not model.url and not (model.key_env or model.key_file):
            said = f"model {model.name}: engine anthropic needs a key_env, or the url of another server"
            raise Misconfigured(said, field="key_env")
        url = (model.url or HOMES[model.engine]).rstrip("/").removesuffix("/v1")
        return url, {"anthropic-version": VERSION, **({"x-api-key": self._key} if self._key else {})}

    def _path(self, ask: Ask) -> str:
        return "/v1/messages"

    def _body(self, ask: Ask) -> bytes:
        name, wanted = self._model.name, ask.parameters
        if ask.prompt is not None:
            raise Invalid(f"model {name} answers messages; it cannot go on from a prompt", field="prompt")
        if ask.texts:
            raise Invalid(f"model {name} answers messages; it cannot make vectors", field="input")
        if wanted.logprobs is not None:
            raise Invalid(f"model {name} cannot tell how likely its tokens were", field="logprobs")
        if any(not stop.strip() for stop in wanted.stop):
            raise Invalid(f"model {name} takes no stop string of white space alone", field="stop")
        system, turns = turns_of(ask.messages)
        if not turns:
            raise Invalid("the messages hold nothing to answer", field="messages")
        # What the API does by itself is not sent: newer models refuse both even of the value that changes nothing.
        temperature, top_p = wanted.temperature, wanted.top_p
        effort, thinking = thinking_of(wanted.reasoning_effort)
        tools = tools_of(ask)
        return encode(
            Body(
                model=self._model.id,
                messages=turns,
                max_tokens=wanted.max_tokens or self._most(),
                system=system,
                temperature=None if temperature is None or temperature >= 1 else temperature,
                top_p=None if top_p is None or top_p >= 1 else top_p,
                stop_sequences=wanted.stop,
                output_config={**effort, **output_of(wanted.response_format)} or None,
                thinking=thinking,
                tools=tools,
                tool_choice=choice_of(ask) if tools else None,
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
