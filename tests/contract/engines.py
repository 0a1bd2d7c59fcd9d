"""The engines that the one contract is held against, and what each declares that it does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SLOTS = 2
CONTEXT = 1024  # tokens, for every engine that has a bounded one
KEY = "a-key-of-this-test"

CHAT, TEXT, COUNTS, SAME, SCHEMA, BOUNDED = "chat", "text", "counts", "same", "schema", "bounded"
TOOLS, VECTORS, LOGPROBS = "tools", "vectors", "logprobs"
"""What may be declared: answers a chat; goes on from a prompt; keeps to max_tokens to the token; answers the same to
the same; keeps to a JSON schema; has a context that can overflow; calls tools; makes vectors of texts; tells how likely
each token was."""


@dataclass(frozen=True)
class Contender:
    """One engine: its row, what it declares, and what a test must start first."""

    name: str
    row: Mapping[str, Any]
    does: frozenset[str]
    long: str  # a prompt that it has much to say to
    needs: str | None = None  # a fixture: "short", "server", "completions", "messages", "generator", "gpt2"
    marks: tuple[pytest.MarkDecorator, ...] = field(default=(), repr=False)


TALE = (
    "Once upon a time an old keeper lived in a lighthouse by the sea. Every night the keeper lit the great lamp. "
    "The lamp guided the ships home through the fog. One winter a storm broke the glass of the lamp. "
    "The keeper walked to the village to ask for help. The glazier of the village made a new glass for the lamp. "
    "The ships came home again, and the village thanked the keeper."
)
"""A text that any engine has something to say to."""

ALL = frozenset((CHAT, TEXT, COUNTS, SAME, SCHEMA, BOUNDED))
MORE = ALL | {TOOLS, VECTORS, LOGPROBS}
REAL = (pytest.mark.model,)
LONG = "Write a very long story about a lighthouse."

CONTENDERS = (
    Contender("echo", {"engine": "echo", "id": "echo", "context": CONTEXT}, MORE, f"{TALE} [words 2000] [slow 0.01]"),
    Contender("extractive", {"engine": "extractive", "id": "extractive"}, frozenset((CHAT, TEXT, SAME)), TALE * 200),
    Contender(
        "llama",
        {"engine": "llama", "id": WEIGHTS, "abilities": frozenset(("chat", "text", "embeddings", "tools", "logprobs"))},
        MORE,
        LONG,
        "short",
        REAL,
    ),
    Contender(
        "openai",
        {"engine": "openai", "id": "small", "key_env": "KEY"},
        ALL | {VECTORS, LOGPROBS},
        LONG,
        "server",
        REAL,
    ),
    Contender(
        "openai of the documentation",  # as llama.cpp's server calls no tools with this model
        {"engine": "openai", "id": "echo", "key_env": "KEY"},
        MORE,
        f"{TALE} [words 2000] [slow 0.01]",
        "completions",
    ),
    Contender(
        "transformers",
        {"engine": "transformers", "id": "gpt2"},
        frozenset((CHAT, TEXT, COUNTS, SAME, BOUNDED)),
        LONG,
        "gpt2",
        (pytest.mark.torch,),
    ),
    Contender(
        "http_text",
        {"engine": "http_text", "id": "any", "key_env": "KEY"},
        frozenset((CHAT, TEXT, SAME)),
        f"{TALE} [slow 0.05]",
        "generator",
    ),
    Contender("ocr", {"engine": "ocr", "id": "ocr", "abilities": frozenset(("vision",))}, frozenset(), TALE),
    Contender(
        "anthropic",
        {
            "engine": "anthropic",
            "id": "echo",
            "key_env": "KEY",
            "abilities": frozenset(("chat", "json_schema", "tools")),
        },
        (ALL | {TOOLS}) - {TEXT},
        f"{TALE} [words 2000] [slow 0.01]",
        "messages",
    ),
)


def weights() -> Path:
    """The real model's weights; fails the test where they are not there."""
    folder = Path(os.environ.get("LOQUENT_MODELS_DIR") or "data/models")
    path = folder.resolve() / WEIGHTS
    if not path.is_file():
        pytest.fail(f"{path} is not there: run `make model` or `loquent models pull`, or set LOQUENT_MODELS_DIR")
    return path


SERVER = """
import os, sys, xllamacpp
wanted = xllamacpp.CommonParams()
wanted.model.path, wanted.hostnames, wanted.port, wanted.api_keys = sys.argv[1], ["127.0.0.1"], 0, [sys.argv[2]]
wanted.n_parallel, wanted.n_ctx = int(sys.argv[3]), int(sys.argv[3]) * int(sys.argv[4])
wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
wanted.embedding, wanted.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(wanted)  # it ends when nobody holds it
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


@contextlib.contextmanager
def llama_server(path: Path) -> Iterator[str]:
    """llama.cpp's own HTTP server on a free port of loopback, in a process that ends with the test's; its base URL."""
    command = [sys.executable, "-c", SERVER, str(path), KEY, str(SLOTS), str(CONTEXT)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            address = child.stdout.readline().strip()
            assert address, "llama.cpp's server did not start: is xllamacpp installed?"
            yield f"{address}/v1"
        finally:
            child.stdin.close()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
