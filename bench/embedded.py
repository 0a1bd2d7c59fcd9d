"""Eight generations at once on the embedded model: Loquent against llama.cpp's own HTTP server and against a naive
service over transformers that makes one after the other (bench/naive.py), all with the same weights.

The same load generator asks both over the OpenAI surface, the same new prompts in each round, streamed; tokens are
counted by the usage that each states. ``python -m bench.embedded --weights FILE --port N`` is llama.cpp's own server.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from bench.rounds import Result, load
from bench.rows import start_loquent
from bench.servers import CORES, ROOT, Server, free_port, python, start

SLOTS, TOKENS, CONTEXT = 8, 128, 2048
THREADS = len(CORES) or os.cpu_count() or 1
LOADING = 60.0  # seconds in which a model must have come into memory
NAIVE_LOADING = 180.0  # torch, transformers, and weights that are taken apart
NAIVE_NEEDS = ("torch", "transformers", "gguf", "accelerate")
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
ASKED = (
    "Explain how a lighthouse works, part by part.",
    "Write a long story about a fox who learns to read.",
    "Describe the life of a river from its spring to the sea.",
    "Explain to a child why the sky is blue and sunsets are red.",
    "Give detailed advice to somebody who plants a first garden.",
    "Tell the history of bread from the first grain to today.",
    "Describe a busy market in the morning with all its people.",
    "Explain how a bill becomes a law, step by step, in detail.",
)


def weights() -> Path:
    """The weights file; it is fetched by ``loquent models pull``."""
    folder = os.environ.get("LOQUENT_MODELS_DIR") or Path(os.environ.get("LOQUENT_DATA_DIR", ROOT / "data")) / "models"
    return (Path(folder) / WEIGHTS).absolute()


def run(folder: Path, rounds: int, say: Callable[[str], None]) -> tuple[list[Result], list[str]]:
    """Both servers, in turn; the results and what was wrong."""
    if not weights().is_file():
        raise RuntimeError(f"{weights()} is not there: `loquent models pull` fetches it")
    results: list[Result] = []
    servers: list[Server] = []
    try:
        for begin in (_llama, _loquent, _naive):
            servers.append(begin(folder))
            _await_model(servers[-1], folder)
        for number in range(1, rounds + 1):
            bodies = _bodies(folder, number)
            for server in servers:
                told = _ask(server, bodies)
                told["tokens_per_second"] = round(told["completion_tokens"] / told["seconds"], 1)
                results.append({"part": "embedded", "row": server.name, "round": number} | told)
                say(
                    f"{SLOTS} embedded, round {number}   {server.name:16} {told['tokens_per_second']:7.1f} tokens/s   "
                    f"TTFT p50 {told['p50_ms']:6.0f} ms   {told['completion_tokens']} tokens   {told['errors'] or ''}"
                )
    finally:
        for server in servers:
            server.stop()
    return results, [f"{each['row']}: {each['errors']} in an embedded round" for each in results if each["errors"]]


def _ask(server: Server, bodies: Path) -> Result:
    return load(server, "streams", cores=CORES, streams=SLOTS, ramp=0, limit=240, bodies=bodies)


def _bodies(folder: Path, number: int) -> Path:
    """Prompts that no cache has seen, the same for both; round 0 is the warm-up, with short answers."""
    path = folder / f"bodies-{number}.json"
    asked = {"model": "bench", "max_tokens": TOKENS if number else 8, "temperature": 0, "stream": True}
    asked |= {"stream_options": {"include_usage": True}}
    contents = [f"Question {number}{at}. {text}" for at, text in enumerate(ASKED)]
    path.write_text(json.dumps([asked | {"messages": [{"role": "user", "content": text}]} for text in contents]))
    return path


def _await_model(server: Server, folder: Path) -> None:
    """A warm-up, until the model is in memory and all slots have answered."""
    deadline = time.monotonic() + LOADING
    while _ask(server, _bodies(folder, 0))["ok"] < SLOTS:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} does not answer:\n{server.log()}")
        time.sleep(0.3)


def _llama(folder: Path) -> Server:
    port = free_port()
    command = python("bench.embedded", "--weights", weights(), "--port", port)
    return start("llama.cpp", command, port=port, folder=folder / "llama", health="/health")


def _naive(folder: Path) -> Server:
    missing = [name for name in NAIVE_NEEDS if find_spec(name) is None]
    if missing:
        raise RuntimeError(f"the naive service needs {', '.join(missing)}: make bench installs them")
    port = free_port()
    command = python("bench.naive", "--weights", weights(), "--port", port)
    return start("naive", command, port=port, folder=folder / "naive", health="/health", limit=NAIVE_LOADING)


def _loquent(folder: Path) -> Server:
    return start_loquent(
        folder / "loquent",
        f"""
        [[model]]
        name = "bench"
        engine = "llama"
        id = "{weights().name}"
        abilities = ["text", "chat"]
        context = {CONTEXT}
        """,
        {
            "LOQUENT_MODELS_DIR": str(weights().parent),
            "LOQUENT_LLAMA_SLOTS": str(SLOTS),
            "LOQUENT_LLAMA_THREADS": str(THREADS),
            "LOQUENT_LLAMA_CONTEXT": str(CONTEXT),
        },
        cores=[],
    )


def main() -> None:
    """llama.cpp's own server, as it comes, with as many slots, threads and context as Loquent is given."""
    ask = argparse.ArgumentParser(prog="python -m bench.embedded", description="llama.cpp's own HTTP server")
    ask.add_argument("--weights", required=True)
    ask.add_argument("--port", type=int, required=True)
    asked = ask.parse_args()

    import xllamacpp

    wanted = xllamacpp.CommonParams()
    wanted.model.path = asked.weights
    wanted.port = asked.port  # on loopback by itself
    wanted.n_parallel, wanted.n_ctx = SLOTS, SLOTS * CONTEXT
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(wanted)
    print(server.listening_address, flush=True)
    signal.pause()  # until SIGTERM


if __name__ == "__main__":
    main()
