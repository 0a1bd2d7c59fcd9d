"""Many answers in one pass of the model for each token: a batch that answers join when read and leave when said.

The library's own continuous batching (``generate_batch``) has one way of choosing for all, no seed for each and three
times the cost a token on a processor; so the loop is here, over ``forward`` and the library's cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from loquent.domain.errors import EngineFailed, LoquentError
from loquent.domain.usage import Usage
from loquent.engines.transformers_text import Saying
from loquent.ports.engine import Chunk

COLD = 1e-4  # a temperature under which the likeliest token comes anyway, and floats run over
STRETCH = 128  # tokens of a prompt that are read at a stretch: the others' next token, and a hang-up, wait as long


class Choosing:
    """How one answer's next token is chosen. Equal seeds choose equally from equal scores."""

    def __init__(self, temperature: float, top_p: float, top_k: int, seed: int | None) -> None:
        self._temperature, self._top_p, self._top_k = temperature, top_p, top_k
        self._chance = torch.Generator()
        if seed is None:
            self._chance.seed()
        else:
            self._chance.manual_seed(seed % 2**63)

    def choose(self, scores: Any) -> int:
        """The next token, from the scores of all."""
        if self._temperature < COLD:
            return int(scores.argmax())
        scores = scores / self._temperature
        if self._top_k:
            least = scores.topk(min(self._top_k, scores.shape[-1])).values[-1]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self._top_p < 1:
            ordered, places = scores.sort(descending=True)
            likely = ordered.softmax(-1)
            ordered[likely.cumsum(-1) - likely > self._top_p] = -torch.inf  # the first one always stays
            scores = torch.empty_like(scores).scatter_(-1, places, ordered)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._chance))


def failed(fault: Exception) -> EngineFailed:
    """A fault of the library's in our words: its own may quote the prompt."""
    return EngineFailed(f"transformers failed: {type(fault).__name__}")


class Listener(Protocol):
    """Where an answer goes, and whether anybody is there."""

    left: bool

    def put(self, *pieces: Chunk | LoquentError | None) -> None:
        """The next pieces; an error or None ends it."""

    def fail(self, fault: LoquentError) -> None:
        """The answer ends with this."""


@dataclass(slots=True, eq=False)
class Answer:
    """One answer: what it goes on from, what it has said, and where it is to go."""

    relay: Listener
    prompt: list[int]
    most: int  # tokens of the answer
    ends: frozenset[int]  # tokens that end it
    choosing: Choosing
    saying: Saying
    streamed: bool
    cache: Any = None  # of its own, while its prompt is being read
    known: int = 0  # tokens in a cache
    last: int = 0  # the token that was said last, not yet in a cache
    said: int = 0
    text: str = ""  # where it goes out whole
    begun: float = 0.0  # when it had its slot
    is_over: bool = False

    @property
    def is_read(self) -> bool:
        """Whether the model knows the whole prompt; the first token is said then, or all of it over."""
        return self.known >= len(self.prompt)

    def take(self, scores: Any) -> None:
        """Say one token more; what goes wrong with it is this answer's end and no other's."""
        try:
            self._take(scores)
        except Exception as fault:  # scores that are no numbers, say
            self.is_over = True
            self.relay.fail(failed(fault))

    def _take(self, scores: Any) -> None:
        self.last = self.choosing.choose(scores)
        self.said += 1
        is_end = self.last in self.ends
        text = "" if is_end else self.saying.take(self.last)
        self.is_over = is_end or self.saying.is_stopped or self.said >= self.most
        if self.is_over:
            text += self.saying.end()
        if not self.streamed:
            self.text += text
            text = self.text if self.is_over else ""
        if text:
            self.relay.put(Chunk(text))
        if self.is_over:
            reason = "stop" if is_end or self.saying.is_stopped else "length"
            self.relay.put(Chunk(finish_reason=reason, usage=Usage(len(self.prompt), self.said)), None)


class Batch:
    """The answers that are being said. A row of the cache is an answer's, filled up at its left to the longest."""

    def __init__(self, model: Any) -> None:
        self.answers: list[Answer] = []
        self._model = model
        self._cache: Any = None
        self._takes = frozenset(inspect.signature(model.forward).parameters)

    def read(self, answer: Answer) -> None:
        """Read on in a prompt; at its end the answer says its first token, and may join."""
        if answer.cache is None:
            answer.cache = DynamicCache()  # without the configuration: each layer keeps all, and rows stay as long
        stretch = answer.prompt[answer.known : answer.known + STRETCH]
        places = range(answer.known, answer.known + len(stretch))
        scores = self._scores([stretch], [list(places)], answer.cache, None)
        answer.known += len(stretch)
        if answer.is_read:
            answer.take(scores[0])

    def join(self, answer: Answer) -> None:
        """Take in one that has been read and is not over."""
        if answer.cache.get_seq_length() != answer.known:
            raise TypeError("this model keeps no keys and values that could stand beside others'")
        if self._cache is None:
            self._cache = answer.cache
        else:
            longest = max(each.known for each in (*self.answers, answer))
            for ours, theirs in _layers(self._cache, answer.cache):
                ours.keys = torch.cat([_filled(ours.keys, longest), _filled(theirs.keys, longest)])
                ours.values = torch.cat([_filled(ours.values, longest), _filled(theirs.values, longest)])
        self.answers.append(answer)
        answer.cache = None

    def step(self) -> list[Answer]:
        """One token for each; those whose last it was."""
        longest = max(answer.known for answer in self.answers)
        starts = [longest - answer.known for answer in self.answers]
        mask = None
        if any(starts):
            mask = torch.arange(longest + 1)[None] >= torch.tensor(starts)[:, None]
        scores = self._scores(
            [[answer.last] for answer in self.answers], [[answer.known] for answer in self.answers], self._cache, mask
        )
        for answer in self.answers:
            answer.known += 1
        for answer, score in zip(self.answers, scores, strict=True):
            answer.take(score)
        ended = [answer for answer in self.answers if answer.is_over]
        self._keep([n for n, answer in enumerate(self.answers) if not answer.is_over])
        return ended

    def drop_left(self) -> None:
        """Let go of the answers that nobody listens to any more."""
        self._keep([n for n, answer in enumerate(self.answers) if not answer.relay.left])

    def clear(self) -> None:
        """Let go of all."""
        self.answers, self._cache = [], None

    def _scores(self, tokens: list[list[int]], places: list[list[int]], cache: Any, mask: Any) -> Any:
        device = self._model.device
        asked = {
            "input_ids": torch.tensor(tokens, device=device),
            "position_ids": torch.tensor(places, device=device),
            "attention_mask": None if mask is None else mask.to(device, torch.long),
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        with torch.inference_mode():
            found = self._model(**{name: value for name, value in asked.items() if name in self._takes})
            return found.logits[:, -1].to("cpu", torch.float32)

    def _keep(self, places: Sequence[int]) -> None:
        if len(places) == len(self.answers):
            return
        before = max(answer.known for answer in self.answers)
        self.answers = [self.answers[n] for n in places]
        if not self.answers:
            self._cache = None
            return
        start = before - max(answer.known for answer in self.answers)
        for layer, _ in _layers(self._cache, self._cache):
            layer.keys, layer.values = layer.keys[places, :, start:], layer.values[places, :, start:]


def _layers(ours: Any, theirs: Any) -> list[tuple[Any, Any]]:
    """The layers that keep something, in pairs; a layer may share what another one keeps."""
    return [(one, other) for one, other in zip(ours.layers, theirs.layers, strict=True) if one.is_initialized]


def _filled(states: Any, length: int) -> Any:
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[-2], 0))
