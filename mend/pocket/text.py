"""The text that pocket models are pretrained on: documents as arrays of tokens, made once.

A window holds the beginning of one document. Documents are those of the corpus, but long enough to
fill a window, and of other random draws.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np

from mend.pocket.passages import BURSTINESS, KIND_SHARES, LIST_SHARE, DocumentMaker
from mend.pocket.tokenizer import build_tokenizer

WINDOW = 144
PART = 1000


@dataclass(frozen=True)
class Mixture:
    """What documents are drawn from; see `DocumentMaker`."""

    burstiness: Sequence[int | None] = BURSTINESS
    list_share: float = LIST_SHARE
    kind_shares: tuple[tuple[str, float], ...] = tuple(KIND_SHARES.items())
    wrong_answers: float = 0.1


def training_text(documents: int, mixture: Mixture, seed: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of documents, and where rows or sentences begin.

    Both are of shape (documents rounded up to thousands, WINDOW): int16 and bool. The same
    arguments give the same arrays, whatever the number of processors.
    """
    parts = range(-(-documents // PART))
    with multiprocessing.get_context("spawn").Pool(
        min(len(parts), len(os.sched_getaffinity(0)))
    ) as pool:
        made = pool.map(partial(_part, mixture, seed), parts, chunksize=1)
    tokens, starts = zip(*made, strict=True)
    return np.concatenate(tokens), np.concatenate(starts)


def _part(mixture: Mixture, seed: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    tokenizer = build_tokenizer()
    maker = DocumentMaker(
        Random(f"pretraining {seed} {index}"),
        mixture.wrong_answers,
        (WINDOW, WINDOW),
        mixture.burstiness,
        mixture.list_share,
        dict(mixture.kind_shares),
    )
    known: dict[str, list[int]] = {}
    tokens = np.empty((PART, WINDOW), np.int16)
    starts = np.zeros((PART, WINDOW), bool)
    for row in range(PART):
        document = maker.document()
        begins = set(document.rows)
        ids: list[int] = []
        after_sentence = document.kind == "prose"
        for index, word in enumerate(document.words):
            if word not in known:
                known[word] = tokenizer(word)["input_ids"]
            if len(ids) >= WINDOW:
                break
            starts[row, len(ids)] = index in begins or after_sentence
            after_sentence = word == "."
            ids.extend(known[word])
        tokens[row] = ids[:WINDOW]
    return tokens, starts
