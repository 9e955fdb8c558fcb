"""The library: sets of demonstrations distilled together beside one by one, and a kept context.

Both ways are the library's own calls, so that the ratio is what a user gains by `distill_many`, and
by keeping a context instead of distilling for each query.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from models import on_gpu, pair, paper_shape
from side_by_side import Row, compare, show
from transformers import AutoTokenizer

import mend

SETS, SHOTS, VECTORS, QUERIES = 64, 16, 100, 20
TOKENIZER = Path(mend.__file__).parent / "pocket/models/gpt2"


@cache
def distiller(shape: str) -> mend.Distiller:
    """Return a random distiller with a real tokenizer."""
    llm, method = pair(shape, VECTORS)
    llm.tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    return mend.Distiller(method)


def sets() -> list[list[tuple[str, str]]]:
    """Return sets of demonstrations of 4 to 24 words."""
    draw = random.Random(0)
    vocabulary = AutoTokenizer.from_pretrained(TOKENIZER).get_vocab()
    words = sorted(word for word in vocabulary if word.isalpha())

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    return [[(text(draw.randint(4, 24)), text(1)) for _ in range(SHOTS)] for _ in range(SETS)]


def vectors(contexts: list[mend.Context]) -> torch.Tensor:
    """Return all contexts' vectors."""
    return torch.cat([context.content.vectors for context in contexts]).float()


def farthest(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference, in standard deviations of the numbers."""
    return ((first - second).abs().max() / first.std()).item()


def distilling(shape: str) -> Row:
    """Compare distilling sets in one call with one by one."""
    given, method = sets(), distiller(shape)
    return compare(
        f"distill, {shape}, {SETS} sets of {SHOTS} demonstrations, beside one by one",
        lambda: vectors(method.distill_many(given)),
        {"plain": lambda: vectors([method.distill(one) for one in given])},
        farthest,
        tolerance=0.2 if on_gpu() else 1e-3,
        bars={"plain": 8.0 if on_gpu() else 1.5},
    )


def scoring() -> Row:
    """Compare scoring after a context that is kept with distilling it for each query."""
    shown, *others = sets()
    queries, options = [one[0][0] for one in others[:QUERIES]], [shown[0][1], shown[1][1]]
    method = distiller(paper_shape())
    context = method.distill(shown)

    def again() -> list[list[float]]:
        scores = (method.score(method.distill(shown), [query], options) for query in queries)
        return [row for one in scores for row in one]

    return compare(
        f"score, {paper_shape()}, {QUERIES} queries after a context, beside one made for each",
        lambda: method.score(context, queries, options),
        {"plain": again},
        lambda first, second: (torch.tensor(first) - torch.tensor(second)).abs().max().item(),
        tolerance=0.2 if on_gpu() else 1e-3,
    )


def key_values() -> Row:
    """Compare scoring after keys and values with scoring after the vectors that they are of."""
    shown, *others = sets()
    queries, options = [one[0][0] for one in others[:QUERIES]], [shown[0][1], shown[1][1]]
    method = distiller(paper_shape())
    llm, context = method.llm, method.distill(shown)
    with torch.no_grad():
        content = llm.key_values(context.content)
    kept = mend.Context(llm, content, context.reading, context.method)
    return compare(
        f"score, {paper_shape()}, {QUERIES} queries after keys and values, beside their vectors",
        lambda: method.score(kept, queries, options),
        {"plain": lambda: method.score(context, queries, options)},
        lambda first, second: (torch.tensor(first) - torch.tensor(second)).abs().max().item(),
        tolerance=0.2 if on_gpu() else 1e-3,
        bars={"plain": 1.0},
    )


def parts() -> list[Callable[[], Row]]:
    """Return what is to be measured, in order."""
    return [
        lambda: distilling(paper_shape()),
        lambda: distilling("pocket"),
        scoring,
        key_values,
    ]


if __name__ == "__main__":
    sys.exit(show(parts()))
