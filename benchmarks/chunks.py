"""Documents to chunks of tokens: our job beside the bare tokenizer on the same text.

A byte-level BPE of 8,000 tokens is trained on text of random words; no text is downloaded. Both
ways load the tokenizer from its file (a tokenizer that has run before is slower: what it keeps of
words is scattered in memory), give it the same texts in the same batches, and have one thread
(TOKENIZERS_PARALLELISM=false), as jobs of the workflow have. Ours besides reads JSON lines, and
writes Parquet; the bare tokenizer's tokens are thrown away.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from side_by_side import Row, compare, show
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mend.configuration.specs.chunks import ChunksSpec, TokenizerSource
from mend.data.corpus import read_documents, text_batches, write_chunks

MEGABYTES = 10
REPEATS = 7


def documents(megabytes: float) -> Iterator[str]:
    """Yield documents of some 2,000 characters of Zipf-distributed random words."""
    rng = random.Random(4)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(30_000)]
    weights = list(accumulate(1 / (rank + 1) for rank in range(len(words))))
    number = size = 0
    while size < megabytes * 1e6:
        # The number is a word that no other document has: whoever keeps every word grows.
        text = f"{number} " + " ".join(rng.choices(words, cum_weights=weights, k=330))
        yield text
        number += 1
        size += len(text)


def save_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE, and save it as transformers has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=["<eos>"], show_progress=False)
    tokenizer.train_from_iterator(documents(1), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


def save_documents(texts: Iterable[str], file: Path) -> None:
    """Write JSON lines."""
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def specification(tokenizer: Path) -> ChunksSpec:
    """Return what `write_chunks` is told."""
    llm = TokenizerSource(path=str(tokenizer), local_files_only=True)
    return ChunksSpec(llm=llm, window=1024, pretraining_chunks="fixed-windows")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let tokenizers run as in the workflow's jobs."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def cutting() -> Row:
    """Compare our job with the bare tokenizer."""
    with tempfile.TemporaryDirectory() as name, one_thread():
        tokenizer, file = Path(name) / "tokenizer", Path(name) / "text.jsonl"
        save_tokenizer(tokenizer)
        save_documents(documents(MEGABYTES), file)
        texts = list(read_documents([file]))

        def bare() -> int:
            encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
            return sum(
                len(encoder.encode_batch_fast(batch, add_special_tokens=False))
                for batch in text_batches(texts)
            )

        def ours() -> None:
            write_chunks(specification(tokenizer), [file], Path(name) / "chunks.parquet")

        return compare(
            f"text to chunks, {MEGABYTES} MB, beside the bare tokenizer, one thread",
            ours,
            {"plain": bare},
            # Chunks are compared with the plain way's in tests/data/test_corpus.py.
            same=None,
            bars={"plain": 0.85},
            repeats=REPEATS,
        )


def parts() -> list[Callable[[], Row | str]]:
    """Return what is to be measured, in order."""
    return [cutting]


if __name__ == "__main__":
    sys.exit(show(parts()))
