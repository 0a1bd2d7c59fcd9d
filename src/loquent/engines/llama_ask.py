"""What llama.cpp is asked, in its own words, and what its answers mean in ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loquent.domain.errors import ContextOverflow, EngineFailed, Invalid, LoquentError, ModelLoading
from loquent.domain.requests import Message
from loquent.domain.usage import Usage
from loquent.engines.llama_schema import grammar
from loquent.ports.engine import Ask, Chunk

FEW_SHOT = "few-shot"
SEEDS = 2**32 - 1  # the last one means "any" to llama.cpp
UNREPEATED = {"repeat_penalty": 1.1, "repeat_last_n": 256}  # small models go round in circles
JSON_STARTS = frozenset('{["-0123456789tfn')

INTRODUCTION = "A conversation between a user and a helpful assistant. The assistant's answers are short and true."
EXAMPLES = (
    Message("user", "What is the capital of France?"),
    Message("assistant", "The capital of France is Paris."),
    Message("user", "Write one sentence about the sea."),
    Message("assistant", "The sea lay calm that morning, and the light moved on it like silver."),
)
SPEAKERS = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Request:
    """One call of llama.cpp."""

    chat: bool
    body: bytes  # JSON
    constrained: bool  # a grammar holds
    few_shot: bool


def request(ask: Ask) -> Request:
    """The call for this ask. Raises Invalid."""
    wanted = ask.parameters
    few_shot = bool(ask.messages) and ask.model.template == FEW_SHOT
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # a word between the pieces of a long prompt, so that it can be given up there
        "cache_prompt": True,
        "max_tokens": wanted.max_tokens or -1,  # -1: as the context has room
        "stop": [*wanted.stop, *(f"\n{speaker}:" for speaker in SPEAKERS.values() if few_shot)],
    }
    if wanted.temperature is not None:
        body["temperature"] = wanted.temperature
    if wanted.top_p is not None:
        body["top_p"] = wanted.top_p
    if wanted.seed is not None:
        body["seed"] = wanted.seed % SEEDS
    if wanted.response_format is None:
        body |= UNREPEATED
    held = grammar(wanted.response_format) if wanted.response_format is not None else None
    if held is not None:
        body["grammar"] = held
    chat = bool(ask.messages) and not few_shot
    if chat:
        body["messages"] = [{"role": each.role, "content": each.content} for each in ask.messages]
    else:
        body["prompt"] = conversation(ask.messages) if few_shot else ask.prompt or ""
    try:
        return Request(chat, json.dumps(body, ensure_ascii=False).encode(), held is not None, few_shot)
    except UnicodeEncodeError as lone:
        raise Invalid("the text holds half a character (a lone surrogate)") from lone


def conversation(messages: Sequence[Message]) -> str:
    """Messages as a text that a base model, which knows no chat, goes on from as the assistant."""
    said = [each.content for each in messages if each.role == "system"] or [INTRODUCTION]
    turns = [*EXAMPLES, *(each for each in messages if each.role != "system")]
    lines = [f"{SPEAKERS[each.role]}: {each.content}" for each in turns]
    return "\n\n".join([*said, *lines, f"{SPEAKERS['assistant']}:"])


class Answer:
    """Takes llama.cpp's events and gives chunks. Raises our errors, none of which carries the caller's text."""

    def __init__(self, asked: Request, *, streamed: bool) -> None:
        self._asked, self._streamed = asked, streamed
        self._text: list[str] = []  # where it must be known whole
        self._edge = ""  # white space that the few-shot form may have made
        self._begun = False
        self.finished = False

    def take(self, event: dict[str, Any]) -> list[Chunk]:
        """What an event brings."""
        if "error" in event:
            raise self._fault(event["error"])
        chunks = []
        for choice in event.get("choices", ()):
            text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if text and (text := self._clean(text)):
                self._check_start(text)
                if self._asked.constrained or not self._streamed:
                    self._text.append(text)
                if self._streamed:
                    chunks.append(Chunk(text=text))
            if reason := choice.get("finish_reason"):
                chunks += self._end("length" if reason == "length" else "stop")
        if used := event.get("usage"):
            chunks.append(Chunk(usage=Usage(used["prompt_tokens"], used["completion_tokens"])))
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
        if self._asked.constrained and not self._begun and text[0] not in JSON_STARTS:
            raise Invalid("response_format: the engine cannot follow this schema", field="response_format")
        self._begun = True

    def _end(self, reason: str) -> list[Chunk]:
        self.finished = True
        text = "".join(self._text)
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
        if code == 400:
            field = "response_format" if self._asked.constrained else ""
            return Invalid("llama.cpp cannot do what is asked", field=field)
        if code == 503:
            return ModelLoading("the model is being loaded", retry_after=2)
        return EngineFailed(f"llama.cpp failed: {kind or 'no reason given'}")
