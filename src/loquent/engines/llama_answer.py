"""What llama.cpp's answers mean in our words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loquent.domain.errors import ContextOverflow, EngineFailed, Invalid, LoquentError, ModelLoading
from loquent.domain.usage import Usage
from loquent.engines import llama_tools
from loquent.engines.llama_ask import Request
from loquent.ports.engine import Chunk

JSON_STARTS = frozenset('{["-0123456789tfn')
REASONS = {"length": "length", "tool_calls": "tool_calls"}


class Answer:
    """Takes llama.cpp's events and gives chunks. Raises our errors, none of which carries the caller's text."""

    def __init__(self, asked: Request, *, streamed: bool) -> None:
        self._asked, self._streamed = asked, streamed
        self._text: list[str] = []  # where it must be known whole
        self._edge = ""  # white space that the few-shot form may have made
        self._begun = False
        self._is_call = False
        self.finished = False

    def take(self, event: dict[str, Any]) -> list[Chunk]:
        """What an event brings."""
        if "error" in event:
            raise self._fault(event["error"])
        chunks = []
        for choice in event.get("choices", ()):
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content") or ""
            if text and (text := self._clean(text)):
                self._check_start(text)
                if self._is_call or self._asked.constrained or not self._streamed:
                    self._text.append(text)
                if self._streamed and not self._is_call:
                    chunks.append(Chunk(text=text))
            chunks += self._beside(choice, delta)
            if reason := choice.get("finish_reason"):
                chunks += self._end(REASONS.get(reason, "stop"))
        if used := event.get("usage"):
            again = (used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            chunks.append(Chunk(usage=Usage(used["prompt_tokens"], used["completion_tokens"], cached_tokens=again)))
        return chunks

    def _beside(self, choice: Mapping[str, Any], delta: Mapping[str, Any]) -> list[Chunk]:
        """What a piece brings beside text."""
        chunks = []
        if thought := delta.get("reasoning_content"):
            chunks.append(Chunk(reasoning=thought))
        if calls := delta.get("tool_calls"):
            chunks.append(Chunk(calls=llama_tools.pieces(calls)))
        if self._asked.logprobs is not None and (likely := (choice.get("logprobs") or {}).get("content")):
            chunks.append(Chunk(logprobs=tuple(_likely(each, self._asked.logprobs) for each in likely)))
        return chunks

    def _clean(self, text: str) -> str:
        if not self._asked.few_shot:
            return text
        text = (self._edge + text) if self._begun else text.lstrip()
        kept = text.rstrip()
        self._edge = text[len(kept) :]
        return kept

    def _check_start(self, text: str) -> None:
        """llguidance gives up silently on a schema it cannot follow: seen at the first letter, before it is sent."""
        if self._begun:
            return
        self._begun = True
        self._is_call = text[0] == self._asked.calls[:1]
        starts = llama_tools.START if self._asked.calls == llama_tools.START else JSON_STARTS
        if self._asked.constrained and not self._is_call and text[0] not in starts:
            raise self._not_followed()

    def _end(self, reason: str) -> list[Chunk]:
        self.finished = True
        text = "".join(self._text)
        if self._is_call:
            if reason == "length":
                return [Chunk(finish_reason=reason)]  # half a call is of no use to anybody
            return [Chunk(calls=(llama_tools.made(text),)), Chunk(finish_reason="tool_calls")]
        if self._asked.constrained and reason == "stop":
            try:
                json.loads(text)
            except (ValueError, RecursionError) as broken:
                raise EngineFailed("the model's answer broke off inside its JSON") from broken
        chunks = [] if self._streamed or not text else [Chunk(text=text)]
        return [*chunks, Chunk(finish_reason=reason)]

    def _fault(self, error: Any) -> LoquentError:
        kind, code = (error.get("type"), error.get("code")) if isinstance(error, dict) else (None, None)
        if kind == "exceed_context_size_error":
            needed, room = error.get("n_prompt_tokens", "more"), error.get("n_ctx", "fewer")
            return ContextOverflow(f"the input is {needed} tokens, and the model takes {room}, its answer among them")
        if code == 400 and "image" in str(error.get("message")):
            return Invalid("the picture cannot be read", field="messages")
        if code == 400:
            return refused(self._asked)
        if code == 503:
            return ModelLoading("the model is being loaded", retry_after=2)
        return EngineFailed(f"llama.cpp failed: {kind or 'no reason given'}")

    def _not_followed(self) -> Invalid:
        field = "tools" if self._asked.calls else "response_format"
        return Invalid(f"{field}: the engine cannot follow this schema", field=field)


def refused(asked: Request) -> Invalid:
    """What llama.cpp takes for the asker's fault; its own words may quote the prompt."""
    field = "tools" if asked.calls else "response_format" if asked.constrained else ""
    return Invalid("llama.cpp cannot do what is asked", field=field)


def _likely(token: Mapping[str, Any], others: int) -> dict[str, Any]:
    """How likely a token was, as OpenAI's chat wire says it."""
    tops = [_one(each) for each in token.get("top_logprobs", ())[:others]]
    return {**_one(token), "top_logprobs": tops}


def _one(token: Mapping[str, Any]) -> dict[str, Any]:
    return {name: token.get(name) for name in ("token", "logprob", "bytes")}
