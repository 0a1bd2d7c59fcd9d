"""Small GGUF files, written byte by byte: a model that says nothing of sense, an adapter, a projector for pictures.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ALIGNED = 32  # bytes
WIDTH, HEADS, LAYERS, FORWARD = 64, 2, 2, 96
"""Of the small model."""

Tensor = tuple[tuple[int, ...], Sequence[float]]
"""How many numbers there are in each direction, the innermost first; the numbers."""

NEWLINE = "\u010a"  # as GPT-2 writes it
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write(path: Path, entries: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """A file of these entries (whole numbers are unsigned, of 32 bits) and tensors (of 32-bit floats)."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(entries))]
    head += [_string(name) + _value(value) for name, value in entries.items()]
    body = bytearray()
    for name, (shape, numbers) in tensors.items():
        head.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(body)))
        body += array("f", numbers).tobytes()
        body += bytes(-len(body) % ALIGNED)
    whole = b"".join(head)
    path.write_bytes(whole + bytes(-len(whole) % ALIGNED) + body)
    return path


def shortened(source: Path, path: Path, *, layers: int) -> Path:
    """A model with its first layers alone: it has the same words, template and widths, and answers at a fraction of
    the time with less sense."""
    whole = memoryview(source.read_bytes())
    _, _, tensors, entries = struct.unpack_from("<4sIQQ", whole)
    at, infos = 24, []
    head = bytearray()
    for _ in range(entries):
        begins, (at, name) = at, _text(whole, at)
        at = _behind(whole, at + 4, *struct.unpack_from("<I", whole, at))
        entry = bytes(whole[begins:at])
        head += entry if not name.endswith(b".block_count") else entry[:-4] + struct.pack("<I", layers)
    for _ in range(tensors):
        begins, (at, name) = at, _text(whole, at)
        at += 4 + 8 * struct.unpack_from("<I", whole, at)[0] + 4
        infos.append((struct.unpack_from("<Q", whole, at)[0], name, bytes(whole[begins:at])))
        at += 8
    data = whole[-(-at // ALIGNED) * ALIGNED :]
    infos.sort()
    ends = [begins for begins, *_ in infos[1:]] + [len(data)]
    body, count = bytearray(), 0
    for (begins, name, info), end in zip(infos, ends, strict=True):
        if not name.startswith(b"blk.") or int(name.split(b".")[1]) < layers:
            head += info + struct.pack("<Q", len(body))
            body += data[begins:end]
            count += 1
    head[:0] = struct.pack("<4sIQQ", b"GGUF", 3, count, entries)
    path.write_bytes(head + bytes(-len(head) % ALIGNED) + body)
    return path


def noise(*shape: int, seed: int = 0, size: float = 0.2) -> Tensor:
    """Numbers by chance, the same for the same seed."""
    chance = random.Random(f"{shape} {seed}")
    count = 1
    for each in shape:
        count *= each
    return shape, [chance.uniform(-size, size) for _ in range(count)]


def ones(*shape: int) -> Tensor:
    return shape, [1.0] * shape[0]


def adapter(path: Path, width: int, *, layers: int, rank: int = 4, size: float = 0.5, kind: str = "lora") -> Path:
    """A LoRA adapter of a llama model whose hidden state has that width: it turns what each layer asks for."""
    tensors: dict[str, Tensor] = {}
    for layer in range(layers):
        name = f"blk.{layer}.attn_q.weight"
        tensors[f"{name}.lora_a"] = noise(width, rank, seed=layer, size=size)
        tensors[f"{name}.lora_b"] = noise(rank, width, seed=layer + 1000, size=size)
    about = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": kind}
    return write(path, {**about, "adapter.lora.alpha": float(rank)}, tensors)


def model(path: Path, *, template: str = CHATML, context: int = 4096, seed: int = 0) -> Path:
    """A model of some hundred kilobytes that knows single bytes and answers with noise, until its context ends."""
    tokens = _vocabulary()
    shape, output = noise(WIDTH, len(tokens), seed=seed + 1)
    never = [0.0] * WIDTH * len(SPECIAL)  # neither likely nor unlikely: other tokens always come first
    tensors: dict[str, Tensor] = {
        "token_embd.weight": noise(WIDTH, len(tokens), seed=seed),
        "output.weight": (shape, [*never, *output[len(never) :]]),
        "output_norm.weight": ones(WIDTH),
    }
    tensors |= _layers(seed)
    return write(path, _about(tokens, template, context), tensors)


def parrot(path: Path, pieces: Sequence[str], *, template: str = CHATML) -> Path:
    """A model that answers a chat with these pieces, a token each, and nothing else: each asks for the next one."""
    letters = _vocabulary()[len(SPECIAL) :]
    tokens = [*SPECIAL, *letters, *("".join(letters[byte] for byte in piece.encode()) for piece in pieces)]
    assert len({*tokens}) == len(tokens), "llama.cpp ends the process where a token is there twice"
    chain = [tokens.index(NEWLINE), *range(len(tokens) - len(pieces), len(tokens)), SPECIAL.index("<|im_end|>")]
    known, wanted = [0.0] * WIDTH * len(tokens), [0.0] * WIDTH * len(tokens)
    for place, (one, following) in enumerate(pairwise(chain)):
        known[one * WIDTH + place] = 1.0
        wanted[following * WIDTH + place] = 10.0
    size = (WIDTH, len(tokens))
    tensors: dict[str, Tensor] = {
        "token_embd.weight": (size, known),
        "output.weight": (size, wanted),
        "output_norm.weight": ones(WIDTH),
    }
    return write(path, _about(tokens, template, 4096), {**tensors, **_layers(0, size=0.0)})


def projector(path: Path, width: int = WIDTH) -> Path:
    """Eyes for a model of that width: pictures of 32 pixels, in 16 patches, that become noise."""
    inner, forward, patch, side = 32, 48, 8, 32
    entries = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": side,
        "clip.vision.patch_size": patch,
        "clip.vision.embedding_length": inner,
        "clip.vision.feed_forward_length": forward,
        "clip.vision.block_count": 1,
        "clip.vision.projection_dim": width,
        "clip.vision.attention.head_count": 2,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5] * 3,
        "clip.vision.image_std": [0.5] * 3,
    }
    sizes = {
        **{f"v.blk.0.attn_{name}": (inner, inner) for name in ("q", "k", "v", "out")},
        "v.blk.0.ffn_up": (inner, forward),
        "v.blk.0.ffn_down": (forward, inner),
        "mm.0": (inner, width),
        "mm.2": (width, width),
    }
    tensors: dict[str, Tensor] = {
        "v.patch_embd.weight": noise(patch, patch, 3, inner),
        "v.position_embd.weight": noise(inner, (side // patch) ** 2),
    }
    for name, size in sizes.items():
        tensors |= {f"{name}.weight": noise(*size), f"{name}.bias": noise(size[1])}
    for name in ("v.post_ln", "v.blk.0.ln1", "v.blk.0.ln2"):
        tensors |= {f"{name}.weight": ones(inner), f"{name}.bias": noise(inner)}
    return write(path, entries, tensors)


def _layers(seed: int, size: float = 0.2) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer in range(LAYERS):
        here, mine = f"blk.{layer}.", seed + layer * 10
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{here}{name}.weight"] = noise(WIDTH, WIDTH, seed=mine + len(name), size=size)
        for name, shape in (("gate", (WIDTH, FORWARD)), ("up", (WIDTH, FORWARD)), ("down", (FORWARD, WIDTH))):
            tensors[f"{here}ffn_{name}.weight"] = noise(*shape, seed=mine, size=size)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"{here}{name}.weight"] = ones(WIDTH)
    return tensors


def _about(tokens: list[str], template: str, context: int) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.type": "model",
        "llama.block_count": LAYERS,
        "llama.context_length": context,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.merges": ["e r", "i n"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": template,
    }


def _vocabulary() -> list[str]:
    """The 256 bytes as GPT-2 writes them, printable ones as they are, the others from 256 on; before them the marks."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [*SPECIAL, *(chr(byte if byte in plain else next(others)) for byte in range(256))]


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = 8 if isinstance(value[0], str) else 5 if isinstance(value[0], int) else 6
        inner = [_string(each) if kind == 8 else struct.pack("<i" if kind == 5 else "<f", each) for each in value]
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(inner)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<I", 8) + _string(value)


SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""The bytes of a value, by the number of its type; 8 is a text, 9 a list."""


def _text(whole: memoryview, at: int) -> tuple[int, bytes]:
    """Where a text ends, and the text."""
    end = at + 8 + int(struct.unpack_from("<Q", whole, at)[0])
    return end, bytes(whole[at + 8 : end])


def _behind(whole: memoryview, at: int, kind: int) -> int:
    """Where the value that begins there ends."""
    if kind == 8:
        return _text(whole, at)[0]
    if kind != 9:
        return at + SIZES[kind]
    inner, count = struct.unpack_from("<IQ", whole, at)
    at += 12
    if inner in SIZES:
        return at + SIZES[inner] * int(count)
    for _ in range(count):
        at = _behind(whole, at, inner)
    return at
