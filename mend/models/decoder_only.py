"""Decoder-only LLMs: one stream of context, query and answer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mend.models.frozen_llm import Attentions, Context, FrozenLLM, pad_right, select_cache
from mend.models.kernels.partial_prefill import read_for_later
from mend.models.sharding import is_sharded


@dataclass
class Reading:
    """What the LLM keeps of what it has read: one row for each sequence.

    cache: keys and values of the tokens read so far, padding included.
    mask: (sequences, tokens read), 0 on the padding.
    last_state: (sequences, width), the hidden state that predicts the next token; None if there is
        none yet.
    unread: (sequences, 1, width), the embedding of a context's last token, which is read together
        with what comes after it, and its mask (sequences, 1); None after that.
    """

    cache: DynamicCache
    mask: Tensor
    last_state: Tensor | None = None
    unread: tuple[Tensor, Tensor] | None = None

    @property
    def predicts(self) -> bool:
        """Whether there is something that predicts the next token."""
        return self.last_state is not None or self.unread is not None

    def select(self, rows: Tensor) -> Reading:
        """Return a copy with the given rows, (n,) indices, repeated or left out as they say."""
        state = None if self.last_state is None else self.last_state[rows]
        unread = None if self.unread is None else tuple(part[rows] for part in self.unread)
        return Reading(select_cache(self.cache, rows), self.mask[rows], state, unread)


class DecoderOnlyLLM(FrozenLLM):
    """GPT-2, OPT, Llama and their kind.

    Positions count real tokens only, so that padding changes nothing (faithfulness row 10).
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, dropout: bool = False) -> None:
        """Freeze `model`; `dropout` leaves its dropout on (faithfulness row 9)."""
        super().__init__(model, tokenizer, dropout)
        self.base = model.base_model
        self._takes_positions = "position_ids" in inspect.signature(self.base.forward).parameters

    def read(self, context: Context) -> Reading:
        """Read each context once, its last token only when it is known what comes after it.

        So no token of a context is read further than later tokens need it.
        """
        embeddings, mask = context.embeddings, context.mask
        nothing = Reading(DynamicCache(config=self.model.config), mask[:, :0])
        if mask.shape[1] == 0:
            return nothing
        if is_sharded(self.model):
            # A block is put together for its backward pass where what it returned is used.
            output, whole = self._run(nothing, embeddings, mask)
            whole.last_state = output.last_hidden_state[:, -1]
            return whole
        before, last = mask[:, :-1], (embeddings[:, -1:], mask[:, -1:])
        if before.shape[1] == 0:
            return Reading(nothing.cache, before, unread=last)
        positions = self._positions(before, before.shape[1])
        cache = read_for_later(self.base, embeddings[:, :-1], before, **positions)
        return Reading(cache, before, unread=last)

    def read_tokens(self, reading: Reading, sequences: Sequence[Sequence[int]]) -> Reading:
        """Read tokens, at least one for each row of `reading`, which is used up."""
        tokens, mask = pad_right(sequences, self.device)
        before = 0 if reading.unread is None else 1
        output, longer = self._run(reading, self.embedding(tokens), mask)
        rows = torch.arange(len(sequences), device=self.device)
        longer.last_state = output.last_hidden_state[rows, before + mask.sum(1) - 1]
        return longer

    def states_before(self, reading: Reading, tokens: Tensor) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width).

        tokens: (sequences, n), padded on the right, to come after `reading`, which is used up.
        The first state is what was read before; after a reading of nothing it is zeros.
        """
        states = self.embedding.weight.new_zeros(len(tokens), 0, self.width)
        # The last token is predicted, never read. Those of the padding come after all others.
        read = tokens[:, :-1]
        if read.shape[1] or reading.unread is not None:
            output, _ = self._run(reading, self.embedding(read), torch.ones_like(read))
            states = output.last_hidden_state
        if reading.unread is not None:
            return states
        first = reading.last_state
        if first is None:
            first = self.embedding.weight.new_zeros(len(tokens), self.width)
        return torch.cat([first[:, None], states], dim=1)

    def text_attentions(self, context: Context, sequences: Sequence[Sequence[int]]) -> Attentions:
        """Return the attention of text that goes on after each context."""
        tokens, mask = pad_right(sequences, self.device)
        with self.attention_weights():
            reading = self.read(context)
            output, _ = self._run(reading, self.embedding(tokens), mask, output_attentions=True)
        weights = torch.stack(output.attentions).float()[..., -tokens.shape[1] :, :]
        before = context.mask.shape[1]
        return Attentions(weights[..., :before], weights[..., before:])

    def _positions(self, mask: Tensor, last: int) -> dict[str, Tensor]:
        """Return the positions of the last tokens of `mask`, if the model takes them."""
        if not self._takes_positions:
            return {}
        return {"position_ids": mask.cumsum(1).sub(1).clamp(min=0)[:, -last:]}

    def _run(
        self, reading: Reading, embeddings: Tensor, mask: Tensor, **options: bool
    ) -> tuple[Any, Reading]:
        """Read on: what is unread, then `embeddings`."""
        if reading.unread is not None:
            embeddings = torch.cat([reading.unread[0], embeddings], dim=1)
            mask = torch.cat([reading.unread[1], mask], dim=1)
        full_mask = torch.cat([reading.mask, mask], dim=1)
        output = self.base(
            inputs_embeds=embeddings,
            attention_mask=full_mask,
            past_key_values=reading.cache,
            use_cache=True,
            **self._positions(full_mask, mask.shape[1]),
            **options,
        )
        return output, Reading(reading.cache, full_mask)
