"""A small real GPT-2: the library's own code, and a tokenizer trained on the spot; it learns its texts by heart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CONTEXT = 1024  # tokens, as GPT-2 has
END = "<|endoftext|>"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make(
    folder: Path, texts: Sequence[str], *, template: str | None = None, steps: int = 80, dtype: str = "float32"
) -> Path:
    """Save one that goes on with each of these texts to its end, and stops where it ends in ``END``; in two seconds."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(texts, vocab_size=400, min_frequency=2, special_tokens=[END], show_progress=False)
    pieces.save_model(str(folder))
    tokenizer = GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    tokenizer.pad_token, tokenizer.padding_side = END, "right"
    said = tokenizer(list(texts), padding=True, return_tensors="pt")
    tokenizer.pad_token, tokenizer.chat_template = None, template
    tokenizer.save_pretrained(folder)

    torch.set_num_threads(1)  # several spin for the same cores, and take ten times as long
    with torch.random.fork_rng():
        torch.manual_seed(7)
        end = tokenizer.eos_token_id
        shape = {"n_positions": CONTEXT, "n_embd": 64, "n_layer": 2, "n_head": 4}
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **shape, **still)
        model = GPT2LMHeadModel(config)
        wanted = said["input_ids"].masked_fill(said["attention_mask"] == 0, -100)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            model(**said, labels=wanted).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder
