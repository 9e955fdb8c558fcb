"""Decoder-only LLMs: one stream of context, query and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mend.models.frozen_llm import (
    Attentions,
    Context,
    FrozenLLM,
    pad_right,
    select_cache,
    takes_position_ids,
)
from mend.models.kernels import enabled
from mend.models.kernels.partial_prefill import partial_prefill
from mend.models.sharding import is_sharded


@dataclass
class PrefilledContext:
    """Contexts, and the tokens that extend them, as keys and values: one row for each sequence.

    cache: keys and values of the n tokens so far, padding included.
    mask: (sequences, n), 0 on the padding.
    last_state: (sequences, width), the hidden state that predicts the next token; None if there is
        none yet.
    pending: (sequences, 1, width), the embedding of a context's last token, which is computed
        together with the first extension, and its mask (sequences, 1); None after that.
    """

    cache: DynamicCache
    mask: Tensor
    last_state: Tensor | None = None
    pending: tuple[Tensor, Tensor] | None = None

    @property
    def predicts(self) -> bool:
        """Whether there is something that predicts the next token."""
        return self.last_state is not None or self.pending is not None

    def select(self, rows: Tensor) -> PrefilledContext:
        """Return a copy with the given rows, (n,) indices, repeated or left out as they say."""
        state = None if self.last_state is None else self.last_state[rows]
        pending = None if self.pending is None else tuple(part[rows] for part in self.pending)
        return PrefilledContext(select_cache(self.cache, rows), self.mask[rows], state, pending)


class DecoderOnlyLLM(FrozenLLM):
    """GPT-2, OPT, Llama and their kind.

    Positions count real tokens only, so that padding changes nothing
    (`protocol.placeholder_position`).
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, dropout: bool = False) -> None:
        """Freeze `model`; `dropout` leaves its dropout on (`protocol.llm_dropout_in_training`)."""
        super().__init__(model, tokenizer, dropout)
        self.base = model.base_model
        self.takes_position_ids = takes_position_ids(self.base)

    def prefill(self, context: Context) -> PrefilledContext:
        """Compute each context's keys and values; its last token stays pending.

        So no token of a context is computed further than later tokens need it.
        """
        embeddings, mask = context.embeddings, context.mask
        nothing = PrefilledContext(DynamicCache(config=self.model.config), mask[:, :0])
        if mask.shape[1] == 0:
            return nothing
        if is_sharded(self.model) or not enabled("partial_prefill"):
            # A sharded block is put together for its backward pass where its output is used.
            output, whole = self._run(nothing, embeddings, mask)
            whole.last_state = output.last_hidden_state[:, -1]
            return whole
        before, last = mask[:, :-1], (embeddings[:, -1:], mask[:, -1:])
        if before.shape[1] == 0:
            return PrefilledContext(nothing.cache, before, pending=last)
        position_ids = self._position_ids(before, before.shape[1])
        cache = partial_prefill(self.base, embeddings[:, :-1], before, **position_ids)
        return PrefilledContext(cache, before, pending=last)

    def extend(
        self, prefilled: PrefilledContext, sequences: Sequence[Sequence[int]]
    ) -> PrefilledContext:
        """Append tokens, at least one for each row of `prefilled`, which is consumed."""
        tokens, mask = pad_right(sequences, self.device)
        before = 0 if prefilled.pending is None else 1
        output, longer = self._run(prefilled, self.embedding(tokens), mask)
        rows = torch.arange(len(sequences), device=self.device)
        longer.last_state = output.last_hidden_state[rows, before + mask.sum(1) - 1]
        return longer

    def predicting_states(self, prefilled: PrefilledContext, tokens: Tensor) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width).

        tokens: (sequences, n), padded on the right, to extend `prefilled`, which is consumed.
        The first state is that of the last token before them; after an empty context, zeros.
        """
        states = self.embedding.weight.new_zeros(len(tokens), 0, self.width)
        # The last token is predicted, never an input. Padding comes after all other tokens.
        inputs = tokens[:, :-1]
        if inputs.shape[1] or prefilled.pending is not None:
            output, _ = self._run(prefilled, self.embedding(inputs), torch.ones_like(inputs))
            states = output.last_hidden_state
        if prefilled.pending is not None:
            return states
        first = prefilled.last_state
        if first is None:
            first = self.embedding.weight.new_zeros(len(tokens), self.width)
        return torch.cat([first[:, None], states], dim=1)

    def text_attentions(self, context: Context, sequences: Sequence[Sequence[int]]) -> Attentions:
        """Return the attention of text after each context: see `FrozenLLM`."""
        tokens, mask = pad_right(sequences, self.device)
        with self.attention_weights():
            prefilled = self.prefill(context)
            output, _ = self._run(prefilled, self.embedding(tokens), mask, output_attentions=True)
        weights = torch.stack(output.attentions).float()[..., -tokens.shape[1] :, :]
        before = context.mask.shape[1]
        return Attentions(weights[..., :before], weights[..., before:])

    def _position_ids(self, mask: Tensor, last: int) -> dict[str, Tensor]:
        """Return the position ids of the last tokens of `mask`, if the model takes them."""
        if not self.takes_position_ids:
            return {}
        return {"position_ids": mask.cumsum(1).sub(1).clamp(min=0)[:, -last:]}

    def _run(
        self, prefilled: PrefilledContext, embeddings: Tensor, mask: Tensor, **options: bool
    ) -> tuple[Any, PrefilledContext]:
        """Compute what is pending, then `embeddings`."""
        if prefilled.pending is not None:
            embeddings = torch.cat([prefilled.pending[0], embeddings], dim=1)
            mask = torch.cat([prefilled.pending[1], mask], dim=1)
        full_mask = torch.cat([prefilled.mask, mask], dim=1)
        output = self.base(
            inputs_embeds=embeddings,
            attention_mask=full_mask,
            past_key_values=prefilled.cache,
            use_cache=True,
            **self._position_ids(full_mask, mask.shape[1]),
            **options,
        )
        return output, PrefilledContext(prefilled.cache, full_mask)
