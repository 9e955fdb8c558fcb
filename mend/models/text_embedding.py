"""Texts as vectors, by a library for them or by a language model: what dense retrieval compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mend.configuration.specs.evaluation_episodes import DenseRetrieval
from mend.configuration.specs.run import LLMSource
from mend.errors import UserError, first_line
from mend.models.loading import load_llm
from mend.models.padding import pad_right
from mend.progress import logger

if TYPE_CHECKING:
    import numpy

    from mend.data.retrieval import Embed

_BATCH = 64  # texts embedded at once


def load_embedder(dense: DenseRetrieval) -> Embed:
    """Return a function that embeds texts, (texts, width).

    Raises UserError if the model cannot be loaded, or its library is not installed.
    """
    kinds = {"sentence-transformers": _sentence_transformer, "language-model": _language_model}
    logger.info("inputs are compared by %s (%s)", dense.model, dense.kind)
    return kinds[dense.kind](dense.model, dense.revision)


def _sentence_transformer(model: str, revision: str | None) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            "dense retrieval with kind sentence-transformers needs a library that is not "
            "installed: pip install sentence-transformers (or use kind: language-model)"
        ) from None
    try:
        encoder = SentenceTransformer(
            model,
            revision=revision,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # each library has its own for files that are damaged
        raise UserError(
            f"benchmark.dense_retrieval.model: cannot load {model!r}: {first_line(error)}"
        ) from error
    return lambda texts: encoder.encode(list(texts), batch_size=_BATCH, show_progress_bar=False)


def _language_model(model: str, revision: str | None) -> Embed:
    """The mean of a language model's last hidden states over a text's tokens, padding left out.

    Of an encoder-decoder, its encoder's. A text longer than the model can read loses its end; one
    without tokens has the vector zero.
    """
    try:
        llm = load_llm(LLMSource(name=model, path=model, revision=revision))
    except UserError as error:
        raise UserError(f"benchmark.dense_retrieval.model: {error}") from error
    encodes = llm.model.config.is_encoder_decoder
    base = llm.model.get_encoder() if encodes else llm.body

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> numpy.ndarray:
        ids = [
            llm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in texts
        ]
        if long := sum(len(tokens) > llm.max_positions for tokens in ids):
            logger.warning(
                "%s: of %d of %d texts only the first %d tokens are compared",
                model,
                long,
                len(ids),
                llm.max_positions,
            )
        ids = [[*llm.prefix, *tokens[: llm.max_positions]] for tokens in ids]
        vectors = torch.zeros(len(ids), llm.width)
        # Texts of similar length together: little padding.
        order = sorted((n for n, tokens in enumerate(ids) if tokens), key=lambda n: len(ids[n]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            tokens, mask = pad_right([ids[n] for n in batch], llm.device)
            states = base(input_ids=tokens, attention_mask=mask).last_hidden_state
            # Of the text's own tokens, in float32: the prefix is the same in each.
            real = mask.clone()
            real[:, : len(llm.prefix)] = 0
            total = (states.float() * real[..., None]).sum(1)
            vectors[batch] = (total / real.sum(1, keepdim=True).clamp(min=1)).cpu()
        return vectors.numpy()

    return embed
