"""Retrieved demonstrations: the pool rows whose input is nearest to the query's (table 3).

BM25 compares words, `dense` compares embeddings (`mend.models.text_embedding`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

    from mend.data.evaluation_episodes import Texts

Embed = Callable[[Sequence[str]], "numpy.ndarray"]
"""Texts to an array (texts, width)."""

#: Of BM25, as Lucene has them: how soon more of a word counts less, and how much lengths count.
K1, B = 1.5, 0.75


def nearest(
    embed: Embed | None, queries: Texts, pools: Texts, shots: int
) -> dict[int, numpy.ndarray]:
    """For each seed, (queries, shots) row numbers of the pool: the most similar row last.

    Inputs are compared by the cosine of their embeddings, or by BM25 if `embed` is None. The last
    demonstration stands next to the query, where it counts most (Liu et al., 2021). Of equally
    similar rows the one with the lower number counts as nearer. Where the pool has fewer rows than
    `shots`, all are there.
    """
    if embed is None:
        scores = {seed: bm25_scores(queries[seed], pools[seed]) for seed in queries}
    else:
        scores = cosine_scores(embed, queries, pools)
    return {seed: nearest_rows(found, shots) for seed, found in scores.items()}


def nearest_rows(scores: numpy.ndarray, shots: int) -> numpy.ndarray:
    """(queries, shots) indices of the highest of (queries, rows) scores, the highest last."""
    import numpy

    order = numpy.argsort(-scores, axis=1, kind="stable")
    return order[:, :shots][:, ::-1].astype(numpy.int32)


def bm25_scores(queries: Sequence[str], pool: Sequence[str]) -> numpy.ndarray:
    """BM25 of each pool row for each query, (queries, rows), with Lucene's formula.

    Words are compared in lower case, and none is left out as too frequent.
    """
    import numpy

    counts = [Counter(_words(text)) for text in pool]
    lengths = numpy.array([found.total() for found in counts], dtype=float)
    norms = K1 * (1 - B + B * lengths / (lengths.mean() or 1))
    rows_of: dict[str, list[int]] = {}
    for row, found in enumerate(counts):
        for word in found:
            rows_of.setdefault(word, []).append(row)
    weights = {}
    for word, rows in rows_of.items():
        often = numpy.array([counts[row][word] for row in rows])
        rare = numpy.log(1 + (len(pool) - len(rows) + 0.5) / (len(rows) + 0.5))
        weights[word] = rare * often / (often + norms[rows])
    scores = numpy.zeros((len(queries), len(pool)))
    for of_query, query in zip(scores, queries, strict=True):
        for word in _words(query):
            if word in weights:
                of_query[rows_of[word]] += weights[word]
    return scores


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def cosine_scores(embed: Embed, queries: Texts, pools: Texts) -> dict[int, numpy.ndarray]:
    """For each seed, the cosine of each query and pool row, (queries, rows); a text is read once.

    Rounded to 9 decimals, so that equal texts are equally similar.
    """
    import numpy

    texts = [text for part in (queries, pools) for seed in part for text in part[seed]]
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    vectors = numpy.asarray(embed(list(place)), dtype=numpy.float64)
    vectors /= numpy.maximum(numpy.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def chosen(texts: Sequence[str]) -> numpy.ndarray:
        return vectors[[place[text] for text in texts]]

    return {seed: numpy.round(chosen(queries[seed]) @ chosen(pools[seed]).T, 9) for seed in queries}
