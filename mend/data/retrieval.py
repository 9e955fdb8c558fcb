"""Retrieved demonstrations: the pool rows whose input is nearest to the query's (table 3).

BM25 compares words, `dense` compares embeddings. A library is imported when it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mend.errors import UserError
from mend.progress import logger

if TYPE_CHECKING:
    import numpy

Texts = Mapping[int, Sequence[str]]
"""Inputs by seed."""

Embed = Callable[[Sequence[str]], "numpy.ndarray"]
"""Texts to an array (texts, width)."""

_EMBEDDED_AT_ONCE = 64  # texts


class Retriever:
    """Finds the nearest rows of a pool, for all seeds and queries of a task at once."""

    def __init__(self, selection: str, dense: Mapping[str, Any] | None = None) -> None:
        """Load what compares inputs, once for all tasks.

        Args:
            selection: "bm25" or "dense".
            dense: {"kind": "sentence-transformers" | "language-model", "model": a folder or a name
                on the hub, "revision": optional}; needed for "dense" alone.

        Raises:
            UserError: if the model cannot be loaded, or its library is not installed.
        """
        self._embed = load_embedder(dense or {}) if selection == "dense" else None

    def nearest(self, queries: Texts, pools: Texts, shots: int) -> dict[int, numpy.ndarray]:
        """For each seed, (queries, shots) row numbers of the pool: the most similar row last.

        The last demonstration stands next to the query, where it counts most (Liu et al., 2021).
        Of equally similar rows the one with the lower number counts as nearer. Where the pool has
        fewer rows than `shots`, all are there.
        """
        if self._embed is None:
            scores = {seed: bm25_scores(queries[seed], pools[seed]) for seed in queries}
        else:
            scores = cosine_scores(self._embed, queries, pools)
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
    import bm25s
    import numpy

    # It would tell of each index in the job's log.
    logging.getLogger("bm25s").setLevel(logging.WARNING)

    def words(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(
            texts,
            token_pattern=r"(?u)\b\w+\b",
            stopwords=None,
            return_ids=False,
            show_progress=False,
        )

    scores = numpy.zeros((len(queries), len(pool)), dtype=numpy.float32)
    rows = words(pool)
    if not any(rows):
        return scores  # an index of no words cannot be made
    index = bm25s.BM25()
    index.index(rows, show_progress=False)
    for number, query in enumerate(words(queries)):
        known = [word for word in query if word in index.vocab_dict]
        if known:
            scores[number] = index.get_scores(known)
    return scores


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


def load_embedder(dense: Mapping[str, Any]) -> Embed:
    """Return a function that embeds texts, by the `dense` part of a specification.

    Raises:
        UserError: as `Retriever`.
    """
    kinds = {"sentence-transformers": _sentence_transformer, "language-model": _language_model}
    if dense.get("kind") not in kinds:
        raise UserError(
            f"dense retrieval: kind is {dense.get('kind')!r}, not one of {', '.join(kinds)} "
            "(benchmark.dense_retrieval)"
        )
    logger.info("inputs are compared by %s (%s)", dense["model"], dense["kind"])
    return kinds[dense["kind"]](dense["model"], dense.get("revision"))


def _sentence_transformer(model: str, revision: str | None) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            "dense retrieval with kind sentence-transformers needs a library that is not "
            "installed: pip install sentence-transformers (or use kind: language-model)"
        ) from None
    try:
        encoder = SentenceTransformer(model, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"benchmark.dense_retrieval.model: cannot load {model!r}: {error}"
        ) from error
    return lambda texts: encoder.encode(
        list(texts), batch_size=_EMBEDDED_AT_ONCE, show_progress_bar=False
    )


def _language_model(model: str, revision: str | None) -> Embed:
    """The mean of a language model's last hidden states over a text's tokens, padding left out.

    Of an encoder-decoder, its encoder's. A text longer than the model can read loses its end; one
    without tokens has the vector zero.
    """
    import torch

    from mend.models.frozen_llm import pad_right
    from mend.models.loading import load_llm

    try:
        llm = load_llm({"path": model, "revision": revision, "dtype": "float32"})
    except UserError as error:
        raise UserError(f"benchmark.dense_retrieval.model: {error}") from error
    encodes = llm.model.config.is_encoder_decoder
    base = llm.model.get_encoder() if encodes else llm.model.base_model

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> numpy.ndarray:
        ids = [
            llm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in texts
        ]
        ids = [tokens[: llm.positions] for tokens in ids]
        vectors = torch.zeros(len(ids), llm.width)
        # Texts of similar length together: little padding.
        order = sorted((n for n, tokens in enumerate(ids) if tokens), key=lambda n: len(ids[n]))
        for start in range(0, len(order), _EMBEDDED_AT_ONCE):
            part = order[start : start + _EMBEDDED_AT_ONCE]
            tokens, mask = pad_right([ids[n] for n in part], llm.device)
            states = base(input_ids=tokens, attention_mask=mask).last_hidden_state
            total = (states * mask[..., None]).sum(1)
            vectors[part] = (total / mask.sum(1, keepdim=True)).float().cpu()
        return vectors.numpy()

    return embed
