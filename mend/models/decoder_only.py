"""Decoder-only LLMs: one stream of prefix, context, query and answer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from mend.models.architecture import rope_switch, takes
from mend.models.causal import causal_states
from mend.models.frozen_llm import Attentions, Context, FrozenLLM, Rows, TokenContext, predicting
from mend.models.padding import pad_left, pad_right


@dataclass
class PrefilledContext:
    """Contexts as keys and values: one row for each.

    cache: keys and values of the n tokens so far, padding included; None of empty contexts.
    mask: (contexts, n), 0 on the padding, which is on the left; None if there is none.
    lengths: (contexts,), how many tokens each has, the prefix included.
    last_state: (contexts, 1, width), the state that predicts the next token; of no row if there
        is none.
    """

    cache: DynamicCache | None
    mask: Tensor | None
    lengths: Tensor
    last_state: Tensor

    def select(self, owner: Sequence[int]) -> PrefilledContext:
        """Return a copy with the given rows, repeated or left out as they say."""
        if self.cache is None:
            rows = torch.as_tensor(owner, device=self.lengths.device)
            return PrefilledContext(None, None, self.lengths[rows], self.last_state[:0])
        chosen = copy.copy(self.cache)
        chosen.layers = [copy.copy(layer) for layer in self.cache.layers]
        rows = torch.as_tensor(owner, device=self.lengths.device)
        # Extending a copied layer makes new tensors: without another order nothing is copied.
        if list(owner) != list(range(len(self.lengths))):
            chosen.batch_select_indices(rows)
        mask = None if self.mask is None else self.mask[rows]
        return PrefilledContext(chosen, mask, self.lengths[rows], self.last_state[rows])


class DecoderOnlyLLM(FrozenLLM):
    """GPT-2, OPT, Llama and their kind."""

    def states(
        self,
        context: Context,
        rows: Rows,
    ) -> Tensor:
        """Return the states that predict tokens: see `FrozenLLM`."""
        tokens, first = self._tokens(context, rows)
        return predicting(self._plain(context, rows.owner, tokens), first, rows)

    def _tokens(self, context: Context, rows: Rows) -> tuple[list[list[int]], list[int]]:
        """Return each row's tokens (0 for a vector), and where its first target is predicted."""
        of_tokens = isinstance(context, TokenContext)
        tokens, first = [], []
        for number, before, after in rows:
            read = context.tokens[number] if of_tokens else [0] * context.lengths[number]
            row = [*self.prefix, *read, *before]
            first.append(len(row) - 1)
            # The last token is predicted, never needed; but it may decide how a row rotates.
            tokens.append([*row, *(after if rope_switch(self.body.config) else after[:-1])])
        return tokens, first

    def _plain(self, context: Context, owner: Sequence[int], tokens: list[list[int]]) -> Tensor:
        ids, _ = pad_right([row or [0] for row in tokens], self.device)
        lengths = [len(row) for row in tokens]
        if isinstance(context, TokenContext):
            return causal_states(self.body, ids, lengths, self.positions)
        embeddings = self._with_vectors(ids, context, owner)
        return causal_states(self.body, embeddings, lengths, self.positions)

    def _with_vectors(self, ids: Tensor, context: Context, owner: Sequence[int]) -> Tensor:
        """Return embeddings of tokens, with each row's vectors in their places."""
        embeddings = self.embedding(ids)
        if len(context.lengths) == 0 or not context.vectors.shape[1]:
            return embeddings
        owner = torch.as_tensor(owner, device=self.device)
        vectors = context.vectors[owner]
        start, longest = len(self.prefix), context.vectors.shape[1]
        if min(context.lengths) == longest:
            parts = (embeddings[:, :start], vectors, embeddings[:, start + longest :])
            return torch.cat(parts, dim=1)
        lengths = torch.as_tensor(context.lengths, device=self.device)[owner]
        real = torch.arange(longest, device=self.device) < lengths[:, None]
        rows, places = real.nonzero(as_tuple=True)
        return embeddings.index_put((rows, start + places), vectors[rows, places])

    def prefill(self, context: Context) -> PrefilledContext:
        """Compute each context's keys and values once; padding comes before all real tokens."""
        lengths = [len(self.prefix) + length for length in context.lengths]
        counts, longest = torch.tensor(lengths, device=self.device), max(lengths)
        if not longest:
            return PrefilledContext(None, None, counts, self.embedding.weight[:0, None])
        mask, options = None, {}
        if min(lengths) < longest:
            mask = (torch.arange(longest, device=self.device) >= longest - counts[:, None]).long()
            options["attention_mask"] = mask
            if takes(self.body, "position_ids"):
                options["position_ids"] = mask.cumsum(1).sub(1).clamp(min=0)
        if isinstance(context, TokenContext):
            rows = [[*self.prefix, *tokens] for tokens in context.tokens]
            options["input_ids"] = pad_left(rows, self.device)[0]
        else:
            options["inputs_embeds"] = self._vectors_on_the_right(context, longest)
        output = self.body(
            past_key_values=DynamicCache(config=self.model.config), use_cache=True, **options
        )
        return PrefilledContext(
            output.past_key_values, mask, counts, output.last_hidden_state[:, -1:]
        )

    def _vectors_on_the_right(self, context: Context, longest: int) -> Tensor:
        """Return prefix and vectors as rows padded on the left, (contexts, longest, width)."""
        prefix = self.embedding(torch.tensor(self.prefix, dtype=torch.long, device=self.device))
        rows = []
        for vectors, length in zip(context.vectors, context.lengths, strict=True):
            missing = longest - len(prefix) - length
            padding = vectors.new_zeros(missing, self.width)
            rows.append(torch.cat([padding, prefix.to(vectors.dtype), vectors[:length]]))
        return torch.stack(rows)

    def states_after(
        self,
        prefilled: PrefilledContext,
        rows: Rows,
        keep: bool = True,
    ) -> Tensor:
        """Return what `states` returns, after contexts that `prefill` read: see `FrozenLLM`."""
        tokens = [[*before, *after[:-1]] for _, before, after in rows]
        first = [len(before) for before in rows.inputs]
        if prefilled.cache is None:
            empty = TokenContext([[]] * len(prefilled.lengths))
            states = self._plain(empty, rows.owner, tokens)
            return predicting(states, [place - 1 for place in first], rows)
        one_each = list(rows.owner) == list(range(len(prefilled.lengths)))
        after = prefilled if one_each and not keep else prefilled.select(rows.owner)
        states = after.last_state
        if longest := max(map(len, tokens)):
            ids, _ = pad_right(tokens, self.device)
            options = {}
            if after.mask is not None:
                ones = after.mask.new_ones(len(tokens), longest)
                options["attention_mask"] = torch.cat([after.mask, ones], dim=1)
            if takes(self.body, "position_ids"):
                # Padding takes no position that the row has not: some rotate by the largest.
                last = torch.tensor([max(len(row), 1) - 1 for row in tokens], device=self.device)
                places = torch.arange(longest, device=self.device).minimum(last[:, None])
                options["position_ids"] = after.lengths[:, None] + places
            output = self.body(
                input_ids=ids, past_key_values=after.cache, use_cache=True, **options
            )
            states = torch.cat([states, output.last_hidden_state], dim=1)
        return predicting(states, first, rows)

    def text_attentions(self, context: Context, text: Sequence[int]) -> Attentions:
        """Return the attention of text after one context: see `FrozenLLM`."""
        tokens, _ = self._tokens(context, Rows([0], [text], [[0]]))
        ids = torch.tensor(tokens, device=self.device)
        inputs = {"input_ids": ids}
        if not isinstance(context, TokenContext):
            inputs = {"inputs_embeds": self._with_vectors(ids, context, [0])}
        with self.attention_weights():
            output = self.body(**inputs, use_cache=False, output_attentions=True)
        weights = self.stacked(output.attentions)[:, :, -len(text) :]
        start, length = len(self.prefix), context.lengths[0]
        return Attentions(weights[..., start : start + length], weights[..., start + length :])
