"""The naive service that Loquent is held against: FastAPI and transformers, one ``generate`` after the other.

So the text generation family did it: a blocking route, one model, a lock around it. Only the answer's form is
OpenAI's, because the load generator reads that: all text in one event at the end, then the usage.
``python -m bench.naive --weights FILE.gguf --port N``; the weights are taken apart to bfloat16 when they are loaded.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def make_app(weights: Path) -> FastAPI:
    """The service, its model in memory."""
    where = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    packed = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16, quantization_config=packed).eval()
    app, turn = FastAPI(), threading.Lock()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any]) -> StreamingResponse:
        with turn, torch.inference_mode():
            asked = tokenizer.apply_chat_template(
                body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            made = model.generate(**asked, max_new_tokens=body["max_tokens"], do_sample=False)
        prompt = asked["input_ids"].shape[1]
        said = made[0][prompt:]
        ended = len(said) < body["max_tokens"]
        text = tokenizer.decode(said, skip_special_tokens=True)
        usage = {"prompt_tokens": prompt, "completion_tokens": len(said), "total_tokens": made.shape[1]}
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop" if ended else "length"}
        return StreamingResponse(_events([choice], usage), media_type="text/event-stream")

    return app


def _events(choices: list[dict[str, Any]], usage: dict[str, int]) -> Iterator[str]:
    head = {"id": "chatcmpl-naive", "object": "chat.completion.chunk", "created": 0, "model": "naive"}
    yield f"data: {json.dumps(head | {'choices': choices})}\n\n"
    yield f"data: {json.dumps(head | {'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def main() -> None:
    """Load the model, then serve on loopback."""
    ask = argparse.ArgumentParser(prog="python -m bench.naive", description="one generate after the other")
    ask.add_argument("--weights", type=Path, required=True)
    ask.add_argument("--port", type=int, required=True)
    asked = ask.parse_args()
    uvicorn.run(make_app(asked.weights), host="127.0.0.1", port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
