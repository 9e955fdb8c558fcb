"""Encoder-decoder LLMs: the context goes to the encoder, query and answer to the decoder.

This is the paper's layout for T5 (section 4.1; `llms.*.query_in`): demonstrations or distilled
vectors are encoded once, and the decoder gets x, then y, after its start token. In the other
layout, `EncoderQueryLLM`, the query goes to the encoder too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from mend.configuration.choices import ENCODER_DECODERS
from mend.errors import UserError
from mend.models.architecture import UNLIMITED
from mend.models.compilation import padded_length
from mend.models.contexts import Contexts, TokenContexts, VectorContexts
from mend.models.frozen_llm import Attentions, FrozenLLM, Rows, predicting
from mend.models.kernels import enabled
from mend.models.kernels.cross_attention import prefill_cross_attention
from mend.models.padding import indices, pad_left, pad_right, to_device
from mend.models.sharding import is_sharded


@dataclass
class EncodedContext:
    """Encoded contexts, one row for each.

    states: (contexts, longest, width). mask: what is added to attention of them (`additive_mask`).
    cross: the decoder's keys and values of them; None if it makes them as it reads.
    """

    states: Tensor
    mask: Tensor | None
    cross: DynamicCache | None = None


class EncoderDecoderLLM(FrozenLLM):
    """T5 and its kind."""

    has_start_token = True

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        dropout: bool = False,
        prefix: Sequence[int] = (),
    ) -> None:
        """Freeze `model`: see `FrozenLLM`. Raises UserError if it is no T5."""
        if model.config.model_type not in ENCODER_DECODERS:
            raise UserError(
                f"llms: encoder-decoder models of type {model.config.model_type!r} are not "
                f"supported; there are {', '.join(ENCODER_DECODERS)} (relative positions)"
            )
        super().__init__(model, tokenizer, dropout, prefix)

    @property
    def max_positions(self) -> int:
        """Relative positions have no limit."""
        return UNLIMITED

    def states(
        self,
        context: Contexts,
        rows: Rows,
    ) -> Tensor:
        """Return the states that predict tokens: see `FrozenLLM`."""
        return self._decode(self._encode(context), rows)

    def prefill(self, context: Contexts) -> EncodedContext:
        """Encode each context once."""
        encoded = self._encode(context)
        if enabled("cross_attention") and not is_sharded(self.model):
            cache = prefill_cross_attention(self.model.decoder, encoded.states)
            encoded.cross = cache.cross_attention_cache
        return encoded

    def states_after(self, prefilled: EncodedContext, rows: Rows) -> Tensor:
        """Return what `states` returns, after contexts that `prefill` read.

        What a query's options share is decoded once.
        """
        numbers, firsts = _distinct(rows)
        if len(firsts) == len(numbers) or not any(map(len, rows.inputs)):
            return self._decode(prefilled, rows)
        # On the left, so that what comes after follows directly.
        start = self.model.config.decoder_start_token_id
        texts = [[start, *rows.inputs[row]] for row in firsts]
        tokens, mask = pad_left(texts, self.device)
        chosen = indices([rows.owner[row] for row in firsts], self.device)
        cache = self._cache(prefilled, chosen)
        first = self._run(prefilled, chosen, tokens, mask, cache).last_hidden_state[:, -1:]

        again = indices(numbers, self.device)
        first, chosen = first[again], chosen[again]
        following, _ = pad_right([target[:-1] for target in rows.targets], self.device)
        if not following.shape[1]:
            return first
        cache.batch_select_indices(again)
        mask = torch.cat([mask[again], torch.ones_like(following)], dim=1)
        output = self._run(prefilled, chosen, following, mask, cache)
        return torch.cat([first, output.last_hidden_state], dim=1)

    def _encode(self, context: Contexts) -> EncodedContext:
        """Encode each context after the prefix, padded on the right.

        Nothing at all is one end-of-text token: attention needs something to attend to.
        """
        end = self.model.config.eos_token_id
        if isinstance(context, TokenContexts):
            rows = [[*self.prefix, *tokens] or [end] for tokens in context.tokens]
            lengths = [len(row) for row in rows]
            embeddings = self.embedding(pad_right(rows, self.device)[0])
        else:
            embeddings, lengths = self._embed_vectors(context, end)
        states, mask = encoder_states(self.model.encoder, embeddings, lengths)
        return EncodedContext(states, mask)

    def encoded(
        self, contexts: Contexts, owner: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, list[int]]:
        """Return the encoder's states of contexts with a text after each, and how many each has.

        (rows, longest, width), padded on the right; owner: whose context each text comes after.
        """
        end = self.embedding(indices([self.model.config.eos_token_id], self.device))
        rows = [row if len(row) else end for row in self.embeddings(contexts, owner, texts)]
        lengths = [len(row) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return encoder_states(self.model.encoder, padded, lengths)[0], lengths

    def _embed_vectors(self, context: VectorContexts, end: int) -> tuple[Tensor, list[int]]:
        vectors, count = context.vectors, len(context.lengths)
        if not self.prefix and not vectors.shape[1]:
            return self.embedding(indices([end] * count, self.device)[:, None]), [1] * count
        before = self.embedding(indices(self.prefix, self.device)).expand(count, -1, -1)
        embeddings = torch.cat([before.to(vectors.dtype), vectors], dim=1)
        return embeddings, [len(self.prefix) + length for length in context.lengths]

    def _decode(
        self,
        encoded: EncodedContext,
        rows: Rows,
    ) -> Tensor:
        """Decode rows after their encoded contexts in one pass."""
        start = self.model.config.decoder_start_token_id
        texts = [[start, *before, *after[:-1]] for _, before, after in rows]
        width = padded_length(self.model.decoder, max(map(len, texts)), UNLIMITED)
        # Under the decoder's causal mask nothing real sees the padding after it.
        tokens, _ = pad_right(texts, self.device, width)
        chosen = indices(rows.owner, self.device)
        cache = None if encoded.cross is None else self._cache(encoded, chosen)
        states = self._run(encoded, chosen, tokens, None, cache).last_hidden_state
        return predicting(states, [len(before) for before in rows.inputs], rows)

    def _cache(self, encoded: EncodedContext, chosen: Tensor) -> EncoderDecoderCache:
        """Return a cache for decoding, with the keys and values of chosen contexts."""
        if encoded.cross is None:
            return EncoderDecoderCache(DynamicCache(), DynamicCache())
        cross = copy.copy(encoded.cross)
        cross.layers = [copy.copy(layer) for layer in encoded.cross.layers]
        if len(encoded.states) > 1 or len(chosen) > 1:
            cross.batch_select_indices(chosen)
        cache = EncoderDecoderCache(DynamicCache(), cross)
        cache.is_updated = dict.fromkeys(range(len(cross.layers)), True)
        return cache

    def _run(
        self,
        encoded: EncodedContext,
        chosen: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        cache: EncoderDecoderCache | None,
        **options: bool,
    ) -> Any:
        """Decode tokens, (rows, n), after contexts chosen for each row."""
        if encoded.cross is None:
            states = encoded.states[chosen]
        else:  # its keys and values are in the cache: only the shape counts
            states = encoded.states[:1].expand(len(chosen), -1, -1)
        return self.model.decoder(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=states,
            encoder_attention_mask=None if encoded.mask is None else encoded.mask[chosen],
            past_key_values=cache,
            use_cache=cache is not None,
            **options,
        )

    def _head(self, number: int) -> Tensor:
        """Return (1, number, vocabulary) logits of a forward pass whose decoder stands still."""
        ids = torch.zeros(1, number, dtype=torch.long, device=self.device)
        nothing = BaseModelOutput(last_hidden_state=self.embedding.weight[None, :1])
        return self.model(encoder_outputs=nothing, decoder_input_ids=ids).logits

    def text_attentions(self, context: Contexts, text: Sequence[int]) -> Attentions:
        """Return the attention of the decoder's tokens: over the encoder's, and over each other.

        The first of `to_tokens` is the start token, which is no row.
        """
        with self.attention_weights():
            found = self._attentions(self._encode(context), text)
        to_context = found.to_context[..., len(self.prefix) :]
        return Attentions(to_context[:, :, 1:], found.to_tokens[:, :, 1:])

    def _attentions(self, encoded: EncodedContext, text: Sequence[int]) -> Attentions:
        start = self.model.config.decoder_start_token_id
        tokens = torch.tensor([[start, *text]], device=self.device)
        chosen = torch.zeros(1, dtype=torch.long, device=self.device)
        output = self._run(encoded, chosen, tokens, None, None, output_attentions=True)
        return Attentions(self.stacked(output.cross_attentions), self.stacked(output.attentions))


def encoder_states(
    encoder: torch.nn.Module, embeddings: Tensor, lengths: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return an encoder's last hidden states, (rows, width, size), and what hides padding of them.

    embeddings: (rows, longest, size), padded on the right; lengths: how many of each are real.
    """
    longest = embeddings.shape[1]
    missing = padded_length(encoder, longest, UNLIMITED) - longest
    if missing:
        embeddings = torch.nn.functional.pad(embeddings, (0, 0, 0, missing))
    mask = additive_mask(lengths, longest + missing, embeddings)
    return encoder(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state, mask


def additive_mask(lengths: Sequence[int], width: int, like: Tensor) -> Tensor | None:
    """Return what is added to attention weights of padded rows, (rows, 1, 1, width).

    None where nothing is padded. A 0/1 mask would be looked at, and a GPU waited for.
    """
    if min(lengths) == width:
        return None
    padding = torch.arange(width) >= torch.tensor(lengths)[:, None]
    mask = torch.zeros(padding.shape).masked_fill(padding, torch.finfo(like.dtype).min)
    return to_device(mask.to(like.dtype), like.device)[:, None, None]


def _distinct(rows: Rows) -> tuple[list[int], list[int]]:
    """Return the number of each row among those with another context or inputs, and the first."""
    known: dict[tuple, int] = {}
    numbers, firsts = [], []
    for row, key in enumerate((of, tuple(before)) for of, before, _ in rows):
        if key not in known:
            known[key] = len(firsts)
            firsts.append(row)
        numbers.append(known[key])
    return numbers, firsts


class EncoderQueryLLM(EncoderDecoderLLM):
    """T5 with the query in the encoder, right after the context; the decoder has the answer alone.

    So T5 was trained on tasks; but the encoder must compute the context again for each query. Where
    there is no query (pretraining), the text after the context is the decoder's.
    """

    predicts_query = False

    def states(
        self,
        context: Contexts,
        rows: Rows,
    ) -> Tensor:
        """Return the states that predict tokens; each context and query is encoded once."""
        numbers, firsts = _distinct(rows)
        queries = [rows.inputs[row] for row in firsts]
        joined = self._joined(context, [rows.owner[row] for row in firsts], queries)
        answers = Rows(numbers, [[] for _ in numbers], rows.targets)
        return self._decode(self._encode(joined), answers)

    def _joined(
        self, context: Contexts, owner: Sequence[int], queries: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return contexts with a query right after each."""
        if isinstance(context, TokenContexts):
            pairs = zip(owner, queries, strict=True)
            return TokenContexts([[*context.tokens[o], *query] for o, query in pairs])
        prefix = len(self.prefix)
        rows = [row[prefix:] for row in self.embeddings(context, owner, queries)]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return VectorContexts(padded, [len(row) for row in rows])

    def prefill(self, context: Contexts) -> Contexts:
        """Keep the contexts for `states_after`, which has their queries."""
        return context

    def states_after(self, prefilled: Contexts, rows: Rows) -> Tensor:
        """Return what `states` returns."""
        return self.states(prefilled, rows)

    def query_attentions(self, context: Contexts, query: Sequence[int]) -> Attentions:
        """Return the attention of the start token: over the context, and the query after it."""
        encoded = self._encode(self._joined(context, [0], [query]))
        with self.attention_weights():
            weights = self._attentions(encoded, []).to_context[..., len(self.prefix) :]
        before = context.lengths[0]
        return Attentions(weights[..., :before], weights[..., before:])
