"""Decoder-only LLMs: one stream of context, query and answer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mend.llm import Attentions, Context, FrozenLLM, pad_right, select_cache


@dataclass
class Reading:
    """What the LLM keeps of what it has read: one row for each sequence.

    cache: keys and values of the tokens read so far, padding included.
    mask: (sequences, tokens read), 0 on the padding.
    last_state: (sequences, width), the hidden state that predicts the next token; None if nothing
        has been read.
    """

    cache: DynamicCache
    mask: Tensor
    last_state: Tensor | None

    @property
    def predicts(self) -> bool:
        """Whether something has been read that predicts the next token."""
        return self.last_state is not None

    def select(self, rows: Tensor) -> Reading:
        """Return a copy with the given rows, (n,) indices, repeated or left out as they say."""
        state = None if self.last_state is None else self.last_state[rows]
        return Reading(select_cache(self.cache, rows), self.mask[rows], state)


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
        """Read each context once."""
        nothing = Reading(DynamicCache(config=self.model.config), context.mask[:, :0], None)
        if context.mask.shape[1] == 0:
            return nothing
        states, reading = self._forward(nothing, context.embeddings, context.mask)
        reading.last_state = states[:, -1]
        return reading

    def read_tokens(self, reading: Reading, sequences: Sequence[Sequence[int]]) -> Reading:
        """Read tokens, at least one for each row of `reading`, which is used up."""
        tokens, mask = pad_right(sequences, self.device)
        states, longer = self._forward(reading, self.embedding(tokens), mask)
        rows = torch.arange(len(sequences), device=self.device)
        longer.last_state = states[rows, mask.sum(1) - 1]
        return longer

    def states_before(self, reading: Reading, tokens: Tensor) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width).

        tokens: (sequences, n), padded on the right, to come after `reading`, which is used up.
        The first state is what was read before; after a reading of nothing it is zeros.
        """
        states = self.embedding.weight.new_zeros(len(tokens), 0, self.width)
        if tokens.shape[1] > 1:
            # The last token is predicted, never read. Those of the padding come after all others.
            read = tokens[:, :-1]
            states, _ = self._forward(reading, self.embedding(read), torch.ones_like(read))
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
        weights = torch.stack(output.attentions).float()
        before = context.mask.shape[1]
        return Attentions(weights[..., :before], weights[..., before:])

    def _forward(
        self, reading: Reading, embeddings: Tensor, mask: Tensor
    ) -> tuple[Tensor, Reading]:
        output, longer = self._run(reading, embeddings, mask)
        return output.last_hidden_state, longer

    def _run(
        self, reading: Reading, embeddings: Tensor, mask: Tensor, **options: bool
    ) -> tuple[Any, Reading]:
        full_mask = torch.cat([reading.mask, mask], dim=1)
        extra = {}
        if self._takes_positions:
            positions = full_mask.cumsum(1).sub(1).clamp(min=0)[:, -mask.shape[1] :]
            extra["position_ids"] = positions
        output = self.base(
            inputs_embeds=embeddings,
            attention_mask=full_mask,
            past_key_values=reading.cache,
            use_cache=True,
            **extra,
            **options,
        )
        return output, Reading(reading.cache, full_mask, None)
