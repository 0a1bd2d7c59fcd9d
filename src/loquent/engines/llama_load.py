"""What is loaded as one model of llama.cpp, what it needs of memory, and how it is loaded."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xllamacpp

from loquent.engines.llama_gguf import Header, header
from loquent.engines.threads import default_threads

if TYPE_CHECKING:
    from loquent.engines import Options

BATCH = 64  # tokens of a prompt that are read at a stretch: the others' next token, and a hang-up, wait as long


class Unloadable(Exception):
    """A file that cannot be loaded, and why: it is damaged, or (``is_sound``) too large."""

    def __init__(self, path: Path, why: str, *, is_sound: bool = False) -> None:
        super().__init__(why)
        self.path, self.why, self.is_sound = path, why, is_sound


@dataclass(frozen=True, slots=True)
class Weights:
    """The files that make one model in memory, and what it is there for: rows that say the same share it."""

    path: Path
    projector: Path | None = None
    embeds: bool = False  # it makes vectors; otherwise it answers
    context: int | None = None  # tokens of one answer that the row allows

    def need(self, options: Options, adapters: Iterable[Path]) -> int:
        """Bytes of memory that it is going to take: files, cache, and room to work in. Raises Unloadable."""
        facts, context = self._facts(options)
        files = [self.path, *adapters, *([self.projector] if self.projector else [])]
        try:
            sizes = sum(file.stat().st_size for file in files)
        except OSError as gone:
            raise Unloadable(self.path, f"{gone.filename} cannot be read: {gone.strerror}") from gone
        return sizes + facts.cache(options.slots * context) + facts.work(context if self.embeds else _batch(options))

    def load(self, options: Options, adapters: Sequence[Path]) -> Any:
        """The model in memory, its loop running; this takes seconds. Raises Unloadable."""
        facts, context = self._facts(options)
        chosen = _settings(options)
        chosen.model.path = str(self.path)
        chosen.n_parallel, chosen.n_ctx = options.slots, options.slots * context
        chosen.n_batch = chosen.n_ubatch = _batch(options)
        if self.projector is not None:
            chosen.mmproj.path, chosen.mmproj_use_gpu = str(self.projector), False
        if self.embeds:
            chosen.embedding = chosen.kv_unified = True  # with a cache for each, texts in one batch get wrong vectors
            chosen.n_batch = chosen.n_ubatch = context  # a text is read in one piece
            if facts.of("pooling_type", None) is None:
                chosen.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        chosen.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in adapters]
        try:
            server = xllamacpp.Server(chosen)
            # Its loop begins some time after this; a server that is let go before that waits for ever for its end,
            # with the interpreter's lock in its hand. So it is asked something that only the loop can answer.
            server.handle_metrics()
            return server
        except Exception as fault:
            others = ", ".join(path.name for path in (*adapters, self.projector) if path)
            beside = f" with {others}" if others else ""
            raise Unloadable(
                self.path,
                f"llama.cpp cannot load {self.path.name}{beside}; it is damaged, or memory is short "
                f"({options.slots} slots of {context} tokens)",
            ) from fault

    def _facts(self, options: Options) -> tuple[Header, int]:
        """What the file says, and the tokens of one answer."""
        facts = _header(self.path)
        return facts, min(most for most in (options.context, self.context, facts.context) if most)


def check_adapter(path: Path) -> None:
    """Raise Unloadable where a file is no LoRA adapter."""
    if _header(path).entries.get("adapter.type") != "lora":
        raise Unloadable(path, f"{path.name} is no LoRA adapter")


def check_projector(path: Path) -> None:
    """Raise Unloadable where a file does not make a model see."""
    facts = _header(path)
    if facts.architecture != "clip" or not facts.entries.get("clip.has_vision_encoder"):
        raise Unloadable(path, f"{path.name} is no projector for pictures")


def knows_tools(path: Path) -> bool:
    """Whether the model was taught to call functions: whether its chats are written with them."""
    try:
        return "tools" in header(path, with_template=True).template
    except (OSError, ValueError):
        return False  # the load is going to say what is wrong


def _batch(options: Options) -> int:
    """Tokens of a batch: room for the next one of each answer, and beside them for a prompt."""
    return max(BATCH, 2 * options.slots)


def _header(path: Path) -> Header:
    try:
        return header(path)
    except (OSError, ValueError) as damaged:
        raise Unloadable(path, str(damaged)) from damaged


def _settings(options: Options) -> Any:
    """What holds for every model."""
    chosen = xllamacpp.CommonParams()
    threads = options.threads or default_threads()
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = threads
    chosen.ctx_shift = False  # what does not fit is said, never dropped from the middle
    chosen.cache_ram_mib = 0
    chosen.verbosity = -1  # its log would go to stderr past ours
    chosen.video_ffmpeg_bin_dir = os.devnull  # what is no picture would be handed to a program of that name
    # It insists on listening: on loopback, on a free port, for nobody who does not know this key.
    chosen.hostnames, chosen.port, chosen.api_keys = ["127.0.0.1"], 0, [secrets.token_urlsafe(32)]
    chosen.n_threads_http = 1
    chosen.ui = chosen.endpoint_slots = chosen.endpoint_props = False
    chosen.endpoint_metrics = True  # see load
    return chosen
