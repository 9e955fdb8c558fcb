"""The frozen large language model (LLM), behind one face for every architecture.

A method hands the LLM a `Context`; the LLM computes its keys and values (`prefill`), appends tokens
to them (`extend`), and returns the hidden states that predict tokens (`predicting_states`), which
become logits only where they are needed. Training, scoring and measuring use nothing else, so that
a context of demonstrations' tokens and one of distilled vectors take exactly the same path.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mend.errors import UserError
from mend.models.kernels.activations import fuse_activations


@dataclass
class Context:
    """What the LLM reads before a query, as word-embedding-sized vectors.

    embeddings: (contexts, longest, width), padded on the left.
    mask: (contexts, longest), 1 where there is something to read and 0 on the padding.
    """

    embeddings: Tensor
    mask: Tensor


def pad_left(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack token ids into (sequences, longest), padded on the left, and their 0/1 mask."""
    return _pad(sequences, device, left=True)


def pad_right(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack token ids into (sequences, longest), padded on the right, and their 0/1 mask."""
    return _pad(sequences, device, left=False)


def _pad(
    sequences: Sequence[Sequence[int]], device: torch.device, left: bool
) -> tuple[Tensor, Tensor]:
    longest = max((len(sequence) for sequence in sequences), default=0)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        if len(sequence):
            where = slice(longest - len(sequence), longest) if left else slice(len(sequence))
            ids[row, where] = torch.as_tensor(sequence, dtype=torch.long)
            mask[row, where] = 1
    return ids.to(device), mask.to(device)


@dataclass
class Attentions:
    """Attention weights of what is read after a context.

    to_context: (layers, sequences, heads, n, context), padded on the left with zeros.
    to_tokens: (layers, sequences, heads, n, m), over what came after the context.
    Of a decoder-only LLM both are parts of one distribution; of an encoder-decoder each is one.
    """

    to_context: Tensor
    to_tokens: Tensor


class FrozenLLM:
    """What every LLM has in common; `mend.models.loading.frozen_llm` chooses the architecture."""

    #: Whether the LLM predicts a query's tokens as it reads them; else it only reads the query.
    predicts_query = True

    def __init__(self, model: torch.nn.Module, tokenizer: Any, dropout: bool = False) -> None:
        """Freeze `model`; `dropout` leaves its dropout on (`protocol.llm_dropout_in_training`)."""
        self.model = fuse_activations(model).requires_grad_(False).train(dropout)
        self.tokenizer = tokenizer
        self.embedding = model.get_input_embeddings()

    @property
    def width(self) -> int:
        """Size of one word embedding, hence of one distilled vector."""
        return self.embedding.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the LLM's word embeddings live."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the vectors that the LLM reads."""
        return self.embedding.weight.dtype

    @property
    def max_positions(self) -> int:
        """How many tokens the LLM can read at most, context and query together."""
        return max_positions(self.model.config)

    def token_context(self, sequences: Sequence[Sequence[int]]) -> Context:
        """Return the context made of tokens: each of `sequences` a list of token ids."""
        ids, mask = pad_left(sequences, self.device)
        return Context(self.embedding(ids), mask)

    def vector_context(self, vectors: Tensor) -> Context:
        """Return the context made of vectors, (contexts, length, width)."""
        mask = torch.ones(vectors.shape[:2], dtype=torch.long, device=self.device)
        return Context(vectors.to(self.device, self.dtype), mask)

    def prefill(self, context: Context) -> Any:
        """Compute each context's keys and values once.

        The prefilled contexts returned have `select(rows)`, a copy with the given rows, and
        `predicts`, whether they have a state that predicts the next token.
        """
        raise NotImplementedError

    def extend(self, prefilled: Any, sequences: Sequence[Sequence[int]]) -> Any:
        """Append tokens, at least one for each row of `prefilled`, which is consumed."""
        raise NotImplementedError

    def predicting_states(self, prefilled: Any, tokens: Tensor) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width).

        tokens: (sequences, n), padded on the right, to extend `prefilled`, which is consumed.
        The first state is zeros where `prefilled` does not predict.
        """
        raise NotImplementedError

    def text_attentions(self, context: Context, sequences: Sequence[Sequence[int]]) -> Attentions:
        """Return the attention of text after each context: n tokens a sequence.

        Rows of padding, on the right, mean nothing.
        """
        raise NotImplementedError

    def query_attentions(self, context: Context, sequences: Sequence[Sequence[int]]) -> Attentions:
        """Return the attention of what predicts the first token after each query (n = 1)."""
        read = self.text_attentions(context, sequences)
        last = torch.tensor([len(sequence) - 1 for sequence in sequences], device=self.device)
        rows = torch.arange(len(sequences), device=self.device)
        # Two index tensors with a slice between them: the sequences come first.
        parts = (
            part[:, rows, :, last].transpose(0, 1) for part in (read.to_context, read.to_tokens)
        )
        return Attentions(*(part[:, :, :, None] for part in parts))

    @contextmanager
    def attention_weights(self) -> Iterator[None]:
        """Let the model return attention weights; its faster attention never has them."""
        usual = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(usual)

    def logits(self, states: Tensor) -> Tensor:
        """Return the vocabulary logits, (..., vocabulary), of hidden states, (..., width)."""
        return self.model.get_output_embeddings()(states)


def select_cache(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Return a copy of a cache with the given rows; the original stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    if any(layer.is_initialized for layer in chosen.layers):
        chosen.batch_select_indices(rows)
    return chosen


#: The number of positions of a model with relative positions, which has no limit.
UNLIMITED = 10**9


def takes_position_ids(base: torch.nn.Module) -> bool:
    """Return whether a model takes position ids: with relative positions it does not."""
    return "position_ids" in inspect.signature(base.forward).parameters


def max_positions(config) -> int:
    """Return how many positions a model of this configuration has.

    At most the window of its layers with local attention: padding counts in their window, so that
    only what fits it is attended to as it should be.
    """
    if hasattr(config, "relative_attention_num_buckets"):
        return UNLIMITED
    for key in ("n_positions", "max_position_embeddings"):
        if getattr(config, key, None):
            return min(int(getattr(config, key)), _window(config))
    raise UserError(
        f"{config.model_type}: its configuration names neither n_positions nor "
        "max_position_embeddings, so its longest input is unknown"
    )


def _window(config) -> int:
    """Return how many tokens every layer attends to."""
    if "local" in getattr(config, "attention_layers", ()):  # GPT-Neo
        return config.window_size
    if getattr(config, "use_sliding_window", True):
        return getattr(config, "sliding_window", None) or UNLIMITED
    return UNLIMITED
