"""A causal language model in memory, by transformers: loaded from a folder or the hub, run by a thread of its own."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from loquent.domain.errors import ContextOverflow, Invalid, Unavailable
from loquent.domain.models import Model
from loquent.engines import Options
from loquent.engines.relay import Relay
from loquent.engines.threads import default_threads
from loquent.engines.transformers_batch import Answer, Choosing
from loquent.engines.transformers_runner import Runner, tried
from loquent.engines.transformers_text import Saying
from loquent.ports.engine import Ask

ONE_AT_A_TIME = threading.Lock()  # two that load at once need twice the memory on the way, and are no sooner there
NEIGHBOURS = 4  # tokens of the prompt that the text of the first new one may depend on


def load(where: Path | str, row: Model, options: Options) -> Loaded:
    """In a thread: the model in memory, its thread running. Raises Unavailable."""
    with ONE_AT_A_TIME:
        logging.set_verbosity_error()  # its bars and its log would go to stderr past ours
        logging.disable_progress_bar()
        disable_progress_bars()
        os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # it would tell a service elsewhere what is loaded here
        torch.set_num_threads(options.threads or default_threads())
        asked = {"trust_remote_code": False, "token": options.key_of(row) or None}
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **asked)
            model = AutoModelForCausalLM.from_pretrained(where, dtype="auto", use_safetensors=True, **asked).eval()
            if torch.cuda.is_available():
                model = model.to("cuda")
            elif model.dtype == torch.float16:
                model = model.to(torch.bfloat16)  # as small, and a processor can reckon in it
            tried(model)
            loaded = Loaded(row, options, tokenizer, model)
        except Exception as fault:  # whatever the library, or what it reads, comes upon
            raise Unavailable(
                f"model {row.name}: transformers cannot load {row.id} ({type(fault).__name__}): it is no causal "
                "language model in safetensors that runs without code of its own, or damaged, or memory is short"
            ) from fault
    loaded.runner.start()
    return loaded


class Loaded:
    """What is known of a model that is in memory: its words, its bounds, its thread."""

    def __init__(self, row: Model, options: Options, tokenizer: Any, model: Any) -> None:
        self._row, self._tokenizer, self._config = row, tokenizer, model.generation_config
        known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.context: int = min(most for most in (options.context, row.context, known) if most)
        said = self._config.eos_token_id
        ends = {tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])}
        self._ends = frozenset(end for end in ends if end is not None)
        self.runner = Runner(model, row.name, options.slots)

    def answer(self, ask: Ask, relay: Relay) -> Answer:
        """In a thread: what is to be run for this ask. Raises Invalid."""
        wanted = ask.parameters
        tokens = self._tokens(ask)
        room = self.context - len(tokens)
        if room < 1:
            raise ContextOverflow(
                f"the input is {len(tokens)} tokens, and the model takes {self.context}, its answer among them",
                field="messages" if ask.prompt is None else "prompt",
            )
        config = self._config
        choosing = Choosing(
            temperature=_first(wanted.temperature, config.temperature, 1.0),
            top_p=_first(wanted.top_p, config.top_p, 1.0),
            top_k=_first(config.top_k, 0),
            seed=wanted.seed,
        )
        before = () if ask.prompt is None else tokens[-NEIGHBOURS:]
        return Answer(
            relay,
            tokens,
            most=min(wanted.max_tokens or room, room),
            ends=self._ends,
            choosing=choosing,
            saying=Saying(self._text, wanted.stop, before),
            streamed=ask.streamed,
        )

    def _tokens(self, ask: Ask) -> list[int]:
        text = self._conversation(ask) if ask.prompt is None else ask.prompt
        try:
            text.encode()
        except UnicodeEncodeError as lone:
            raise Invalid("the text holds half a character (a lone surrogate)") from lone
        tokens = self._tokenizer(text, add_special_tokens=ask.prompt is not None, verbose=False)["input_ids"]
        if not tokens:  # from nothing, a model goes on from the sign that a text begins
            tokens = [first for first in (self._tokenizer.bos_token_id, *self._ends) if first is not None][:1]
        if not tokens:
            raise Invalid(f"model {self._row.name} cannot go on from nothing", field="prompt")
        return list(tokens)

    def _conversation(self, ask: Ask) -> str:
        if not self._tokenizer.chat_template:
            raise Invalid(
                f"model {self._row.name} has no chat template: it goes on from a prompt, and answers no messages",
                field="messages",
            )
        messages = [{"role": each.role, "content": each.content} for each in ask.messages]
        try:
            said: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as refused:  # the template is a program, and says no in its own ways
            raise Invalid(
                f"the chat template of model {self._row.name} does not take these messages", field="messages"
            ) from refused
        return said

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
