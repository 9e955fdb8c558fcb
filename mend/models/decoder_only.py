"""Decoder-only LLMs: one stream of prefix, context, query and answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mend.errors import UserError
from mend.models.architecture import rope_switch, takes
from mend.models.causal import causal_states
from mend.models.changes import changed
from mend.models.contexts import (
    Changes,
    Contexts,
    KeyValueContexts,
    TokenContexts,
    VectorContexts,
)
from mend.models.frozen_llm import Attentions, FrozenLLM, Rows, predicting
from mend.models.padding import indices, pad_left, pad_right, to_device


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
        """Return the given rows, repeated or left out as they say; they are for one pass."""
        choose = _choose(owner, self.lengths.device)
        if self.cache is None:
            return PrefilledContext(None, None, choose(self.lengths), self.last_state[:0])
        chosen = copy.copy(self.cache)
        every = torch.arange(len(self.lengths), device=self.lengths.device)
        chosen.layers = [_for_one_pass(layer, choose, every) for layer in self.cache.layers]
        mask = None if self.mask is None else choose(self.mask)
        return PrefilledContext(chosen, mask, choose(self.lengths), choose(self.last_state))


def _choose(owner: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what chooses rows of a tensor; neighbours, and one that is repeated, are a view."""
    first, count = owner[0], len(owner)
    if list(owner) == list(range(first, first + count)):
        return lambda rows: rows[first : first + count]
    if set(owner) == {first}:
        return lambda rows: rows[first : first + 1].expand(count, *rows.shape[1:])
    chosen = indices(owner, device)
    return lambda rows: rows[chosen]


def _for_one_pass(
    layer: DynamicLayer, choose: Callable[[Tensor], Tensor], every: Tensor
) -> DynamicLayer:
    """Return a copy of a cache's layer with chosen rows, which are gathered as it is computed.

    It keeps nothing of the pass, so that what was gathered is in memory for one layer at a time.
    every: the numbers of all rows, for layers that do more than to keep them.
    """
    chosen = copy.copy(layer)
    if type(layer) is not DynamicLayer:
        chosen.batch_select_indices(choose(every))
    elif layer.is_initialized:
        chosen.update = lambda keys, values, *_, **__: (
            torch.cat([choose(layer.keys), keys], dim=-2),
            torch.cat([choose(layer.values), values], dim=-2),
        )
    return chosen


class DecoderOnlyLLM(FrozenLLM):
    """GPT-2, OPT, Llama and their kind."""

    def states(
        self,
        context: Contexts,
        rows: Rows,
    ) -> Tensor:
        """Return the states that predict tokens: see `FrozenLLM`."""
        if isinstance(context, KeyValueContexts):
            return self.states_after(self.prefill(context), rows)
        if isinstance(context, Changes):
            return self._changed_states(context, rows)
        tokens, first = self._tokens(context, rows)
        return predicting(self._plain(context, rows.owner, tokens), first, rows)

    def _changed_states(self, context: Changes, rows: Rows) -> Tensor:
        """Return what `states` returns, of an LLM that contexts change as it reads."""
        self.check_changes()
        nothing = TokenContexts([[]] * len(context.lengths))
        tokens, first = self._tokens(nothing, rows)
        queries = rows.queries or [0] * len(first)
        places = [place + count for place, count in zip(first, queries, strict=True)]
        with changed(self.model, self.body, context, rows.owner, places):
            states = self._plain(nothing, rows.owner, tokens)
        return predicting(states, first, rows)

    def _tokens(self, context: Contexts, rows: Rows) -> tuple[list[list[int]], list[int]]:
        """Return each row's tokens (0 for a vector), and where its first target is predicted."""
        of_tokens = isinstance(context, TokenContexts)
        tokens, first = [], []
        for number, before, after in rows:
            read = context.tokens[number] if of_tokens else [0] * context.lengths[number]
            row = [*self.prefix, *read, *before]
            first.append(len(row) - 1)
            # The last token is predicted, never needed; but it may decide how a row rotates.
            tokens.append([*row, *(after if rope_switch(self.body.config) else after[:-1])])
        return tokens, first

    def _plain(self, context: Contexts, owner: Sequence[int], tokens: list[list[int]]) -> Tensor:
        ids, _ = pad_right([row or [0] for row in tokens], self.device)
        lengths = [len(row) for row in tokens]
        if isinstance(context, TokenContexts):
            return causal_states(self.body, ids, lengths, self.positions)
        embeddings = self._with_vectors(ids, context, owner)
        return causal_states(self.body, embeddings, lengths, self.positions)

    def _with_vectors(self, ids: Tensor, context: Contexts, owner: Sequence[int]) -> Tensor:
        """Return embeddings of tokens, with each row's vectors in their places."""
        embeddings = self.embedding(ids)
        if len(context.lengths) == 0 or not context.vectors.shape[1]:
            return embeddings
        vectors = context.vectors
        if list(owner) != list(range(len(context.lengths))):
            vectors = vectors[indices(owner, self.device)]
        start, longest = len(self.prefix), context.vectors.shape[1]
        if min(context.lengths) == longest:
            parts = (embeddings[:, :start], vectors, embeddings[:, start + longest :])
            return torch.cat(parts, dim=1)
        lengths = torch.tensor([context.lengths[number] for number in owner])
        real = torch.arange(longest) < lengths[:, None]
        rows, places = (to_device(one, self.device) for one in real.nonzero(as_tuple=True))
        return embeddings.index_put((rows, start + places), vectors[rows, places])

    def prefill(self, context: Contexts) -> PrefilledContext:
        """Compute each context's keys and values once; padding comes before all real tokens.

        Raises UserError for contexts that are read with each row: low-rank weights and additions.
        """
        if isinstance(context, Changes):
            raise UserError(f"a context of {context.KIND} has no keys and values of its own")
        if isinstance(context, KeyValueContexts):
            return self._of_key_values(context)
        lengths = [len(self.prefix) + length for length in context.lengths]
        counts, longest = indices(lengths, self.device), max(lengths)
        if not longest:
            return PrefilledContext(None, None, counts, self.embedding.weight[:0, None])
        mask, options = None, {}
        if min(lengths) < longest:
            mask = (torch.arange(longest, device=self.device) >= longest - counts[:, None]).long()
            options["attention_mask"] = mask
            if takes(self.body, "position_ids"):
                options["position_ids"] = mask.cumsum(1).sub(1).clamp(min=0)
        if isinstance(context, TokenContexts):
            rows = [[*self.prefix, *tokens] for tokens in context.tokens]
            options["input_ids"] = pad_left(rows, self.device)[0]
        else:
            options["inputs_embeds"] = self._vectors_on_the_right(context, counts, longest)
        output = self.body(
            past_key_values=DynamicCache(config=self.model.config), use_cache=True, **options
        )
        return PrefilledContext(
            output.past_key_values, mask, counts, output.last_hidden_state[:, -1:]
        )

    def _of_key_values(self, context: KeyValueContexts) -> PrefilledContext:
        """Return contexts of keys and values as what `prefill` returns of others."""
        self.check_key_values()
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(zip(context.keys, context.values, strict=True)):
            cache.update(keys, values, layer)
        counts, longest = indices(context.lengths, self.device), context.keys[0].shape[2]
        mask = None
        if min(context.lengths) < longest:
            mask = (torch.arange(longest, device=self.device) >= longest - counts[:, None]).long()
        state = context.last_state
        if state is None:  # of no row: what it would predict is not asked for
            state = self.embedding.weight.new_full((len(counts), 1, self.width), torch.nan)
        return PrefilledContext(cache, mask, indices(context.positions, self.device), state)

    def key_values(self, context: TokenContexts | VectorContexts) -> KeyValueContexts:
        """Return contexts as the keys and values that the LLM computes of them: see `FrozenLLM`."""
        self.check_key_values()
        prefilled = self.prefill(context)
        lengths = [len(self.prefix) + length for length in context.lengths]
        if prefilled.cache is None or 0 in lengths:
            raise UserError("a context of nothing has no keys and values; give demonstrations")
        return self._as_key_values(prefilled.cache, lengths, prefilled.last_state)

    def _as_key_values(
        self, cache: DynamicCache, lengths: list[int], last_state: Tensor
    ) -> KeyValueContexts:
        """Return what a cache holds; lengths: of each context, the prefix included."""
        keys, values = ([getattr(one, name) for one in cache.layers] for name in ("keys", "values"))
        return KeyValueContexts(keys, values, lengths, lengths, len(self.prefix), last_state)

    def _vectors_on_the_right(self, context: Contexts, counts: Tensor, longest: int) -> Tensor:
        """Return prefix and vectors as rows padded on the left, (contexts, longest, width)."""
        vectors = context.vectors
        prefix = self.embedding(indices(self.prefix, self.device)).to(vectors.dtype)
        joined = torch.cat([prefix.expand(len(vectors), -1, -1), vectors], dim=1)
        if min(context.lengths) == max(context.lengths):
            return joined[:, :longest]
        places = torch.arange(longest, device=self.device) - (longest - counts[:, None])
        rows = torch.arange(len(vectors), device=self.device)[:, None]
        return joined[rows, places.clamp(min=0)]

    def states_after(self, prefilled: PrefilledContext, rows: Rows) -> Tensor:
        """Return what `states` returns, after contexts that `prefill` read: see `FrozenLLM`."""
        tokens = [[*before, *after[:-1]] for _, before, after in rows]
        first = [len(before) for before in rows.inputs]
        if prefilled.cache is None:
            empty = TokenContexts([[]] * len(prefilled.lengths))
            states = self._plain(empty, rows.owner, tokens)
            return predicting(states, [place - 1 for place in first], rows)
        after = prefilled.select(rows.owner)
        states = after.last_state
        if any(tokens):
            output = self._read_after(after, tokens)
            states = torch.cat([states, output.last_hidden_state], dim=1)
        return predicting(states, first, rows)

    def _read_after(
        self, context: PrefilledContext, tokens: Sequence[Sequence[int]], **options: Any
    ) -> Any:
        """Return the body's output for tokens, padded on the right, after a context of each."""
        ids, _ = pad_right(tokens, self.device)
        longest = ids.shape[1]
        if context.mask is not None:
            ones = context.mask.new_ones(len(tokens), longest)
            options["attention_mask"] = torch.cat([context.mask, ones], dim=1)
        if takes(self.body, "position_ids"):
            # Padding takes no position that the row has not: some rotate by the largest.
            last = indices([max(len(row), 1) - 1 for row in tokens], self.device)
            places = torch.arange(longest, device=self.device).minimum(last[:, None])
            options["position_ids"] = context.lengths[:, None] + places
        return self.body(input_ids=ids, past_key_values=context.cache, use_cache=True, **options)

    def attended_key_values(
        self, context: TokenContexts, window: int
    ) -> tuple[KeyValueContexts, list[Tensor]]:
        """Return contexts as keys and values, and who attends to them: see `FrozenLLM`."""
        self.check_key_values()
        # Weights of the last tokens alone are ever in memory.
        prefilled = self.prefill(TokenContexts([tokens[:-window] for tokens in context.tokens]))
        with self.attention_weights():
            last = [tokens[-window:] for tokens in context.tokens]
            output = self._read_after(prefilled, last, output_attentions=True)
        weights = [layer for layer in output.attentions or () if layer is not None]
        lengths = [len(self.prefix) + length for length in context.lengths]
        whole = self._as_key_values(prefilled.cache, lengths, output.last_hidden_state[:, -1:])
        if len(weights) < len(whole.keys):
            raise UserError(
                f"llms: {self.model.config.model_type} returns no attention weights here; methods "
                "that choose keys and values by them do not work with it"
            )
        return whole, weights

    def text_attentions(self, context: Contexts, text: Sequence[int]) -> Attentions:
        """Return the attention of text after one context: see `FrozenLLM`."""
        tokens, _ = self._tokens(context, Rows([0], [text], [[0]]))
        ids = torch.tensor(tokens, device=self.device)
        inputs = {"input_ids": ids}
        if not isinstance(context, TokenContexts):
            inputs = {"inputs_embeds": self._with_vectors(ids, context, [0])}
        with self.attention_weights():
            output = self.body(**inputs, use_cache=False, output_attentions=True)
        weights = self.stacked(output.attentions)[:, :, -len(text) :]
        start, length = len(self.prefix), context.lengths[0]
        return Attentions(weights[..., start : start + length], weights[..., start + length :])
