"""Documents to chunks of tokens: our job beside the bare tokenizer on the same text.

A byte-level BPE of 8,000 tokens is trained on text of random words; no text is downloaded.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from side_by_side import compare
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mend.data.corpus import write_chunks

MEGABYTES = 20


def documents(megabytes: float) -> list[str]:
    """Return documents of some 2,000 characters of Zipf-distributed random words."""
    rng = random.Random(4)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(30_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    made, size = [], 0
    while size < megabytes * 1e6:
        text = " ".join(rng.choices(words, weights, k=330))
        made.append(text)
        size += len(text)
    return made


def save_tokenizer(texts: list[str], folder: Path) -> Tokenizer:
    """Train a byte-level BPE, save it as transformers has it, and return the bare one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=["<eos>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    return tokenizer


def run() -> list[dict]:
    """Compare; return the table's rows."""
    texts = documents(MEGABYTES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = save_tokenizer(texts[:500], folder / "tokenizer")
        file = folder / "text.jsonl"
        with file.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        spec = {
            "llm": {"path": str(folder / "tokenizer"), "local_files_only": True},
            "window": 1024,
            "documents": None,
            "pretraining_chunks": "fixed-windows",
        }
        return [
            compare(
                f"C4-like text to chunks, {MEGABYTES} MB, beside the bare tokenizer",
                lambda: write_chunks(spec, [file], folder / "chunks.parquet"),
                lambda: bare.encode_batch_fast(texts, add_special_tokens=False),
                lambda ours, obvious: 0.0,
                tolerance=0.0,
                goal=0.85,
            )
        ]


if __name__ == "__main__":
    run()
