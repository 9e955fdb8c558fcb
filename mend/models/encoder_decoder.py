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

from mend.errors import UserError
from mend.models.frozen_llm import (
    UNLIMITED,
    Attentions,
    Context,
    FrozenLLM,
    pad_left,
    pad_right,
    select_cache,
)
from mend.models.kernels import enabled
from mend.models.kernels.cross_attention import prefill_cross_attention
from mend.models.sharding import is_sharded

#: Architectures whose positions are relative, so that padding on the left changes nothing.
SUPPORTED = ("t5", "mt5", "umt5")


@dataclass
class EncodedContext:
    """Encoded contexts, and the decoder's tokens so far: one row for each sequence.

    encoded: (sequences, context, width) and its 0/1 mask, encoded_mask. Once the decoder's keys and
        values of it are in the cache, of `encoded` only the shape counts.
    cache, mask: of the decoder's tokens, as of a `mend.models.decoder_only.PrefilledContext`.
    last_state: (sequences, width); None until the decoder has started.
    """

    encoded: Tensor
    encoded_mask: Tensor
    cache: EncoderDecoderCache
    mask: Tensor
    last_state: Tensor | None

    #: The decoder's start token predicts the first token.
    predicts = True

    def select(self, rows: Tensor) -> EncodedContext:
        """Return a copy with the given rows, (n,) indices, repeated or left out as they say."""
        cache = copy.copy(self.cache)
        cache.self_attention_cache = select_cache(self.cache.self_attention_cache, rows)
        cache.cross_attention_cache = select_cache(self.cache.cross_attention_cache, rows)
        cache.is_updated = dict(self.cache.is_updated)
        if cache.is_updated:
            encoded = self.encoded[:1].expand(len(rows), -1, -1)
        else:
            encoded = self.encoded[rows]
        state = None if self.last_state is None else self.last_state[rows]
        return EncodedContext(encoded, self.encoded_mask[rows], cache, self.mask[rows], state)


class EncoderDecoderLLM(FrozenLLM):
    """T5 and its kind."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, dropout: bool = False) -> None:
        """Freeze `model`; `dropout` leaves its dropout on. Raises UserError if it is no T5."""
        if model.config.model_type not in SUPPORTED:
            raise UserError(
                f"llms: encoder-decoder models of type {model.config.model_type!r} are not "
                f"supported; there are {', '.join(SUPPORTED)} (relative positions)"
            )
        super().__init__(model, tokenizer, dropout)

    @property
    def max_positions(self) -> int:
        """Relative positions have no limit."""
        return UNLIMITED

    def prefill(self, context: Context) -> EncodedContext:
        """Encode each context once.

        An empty context is one end-of-text token: attention needs something to attend to.
        """
        embeddings, mask = context.embeddings, context.mask
        if mask.shape[1] == 0:
            mask = mask.new_zeros(len(mask), 1)
            embeddings = embeddings.new_zeros(len(mask), 1, self.width)
        last = torch.zeros_like(mask, dtype=torch.bool)
        last[:, -1] = ~mask.any(1)
        end = self.embedding.weight[self.model.config.eos_token_id]
        embeddings, mask = torch.where(last[..., None], end, embeddings), mask | last
        encoded = self.model.encoder(inputs_embeds=embeddings, attention_mask=mask)
        states = encoded.last_hidden_state
        if enabled("cross_attention") and not is_sharded(self.model):
            cache = prefill_cross_attention(self.model.decoder, states)
        else:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        return EncodedContext(states, mask, cache, mask[:, :0], None)

    def extend(
        self, prefilled: EncodedContext, sequences: Sequence[Sequence[int]]
    ) -> EncodedContext:
        """Append tokens, at least one for each row of `prefilled`, which is consumed.

        They are padded on the left, so that the next extension follows them directly.
        """
        if prefilled.last_state is None:
            start = self.model.config.decoder_start_token_id
            sequences = [[start, *sequence] for sequence in sequences]
        tokens, mask = pad_left(sequences, self.device)
        states, longer = self._decode(prefilled, tokens, mask)
        longer.last_state = states[:, -1]
        return longer

    def predicting_states(self, prefilled: EncodedContext, tokens: Tensor) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width)."""
        inputs = tokens[:, :-1]
        if prefilled.last_state is None:
            start = self.model.config.decoder_start_token_id
            inputs = torch.cat([torch.full_like(tokens[:, :1], start), inputs], dim=1)
            return self._decode(prefilled, inputs, torch.ones_like(inputs))[0]
        first = prefilled.last_state[:, None]
        if not inputs.shape[1]:
            return first
        states, _ = self._decode(prefilled, inputs, torch.ones_like(inputs))
        return torch.cat([first, states], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        """Return the vocabulary logits, (..., vocabulary), of hidden states, (..., width)."""
        config = self.model.config
        is_scaled = config.model_type == "umt5" and config.tie_word_embeddings
        if getattr(config, "scale_decoder_outputs", is_scaled):
            states = states * config.d_model**-0.5
        return super().logits(states)

    def text_attentions(self, context: Context, sequences: Sequence[Sequence[int]]) -> Attentions:
        """Return the attention of the decoder's tokens: over the encoder's, and over each other.

        The first of `to_tokens` is the start token, which is no row.
        """
        with self.attention_weights():
            prefilled = EncoderDecoderLLM.prefill(self, context)
            return self._attentions(prefilled, sequences, rows=slice(1, None))

    def _attentions(
        self, prefilled: EncodedContext, sequences: Sequence[Sequence[int]], rows: slice
    ) -> Attentions:
        start = self.model.config.decoder_start_token_id
        tokens, mask = pad_right([[start, *sequence] for sequence in sequences], self.device)
        output, _ = self._run(prefilled, tokens, mask, output_attentions=True)
        kinds = (output.cross_attentions, output.attentions)
        return Attentions(*(torch.stack(kind).float()[..., rows, :] for kind in kinds))

    def _decode(
        self, prefilled: EncodedContext, tokens: Tensor, mask: Tensor
    ) -> tuple[Tensor, EncodedContext]:
        output, longer = self._run(prefilled, tokens, mask)
        return output.last_hidden_state, longer

    def _run(
        self, prefilled: EncodedContext, tokens: Tensor, mask: Tensor, **options: bool
    ) -> tuple[Any, EncodedContext]:
        full_mask = torch.cat([prefilled.mask, mask], dim=1)
        output = self.model.decoder(
            inputs_embeds=self.embedding(tokens),
            attention_mask=full_mask,
            encoder_hidden_states=prefilled.encoded,
            encoder_attention_mask=prefilled.encoded_mask,
            past_key_values=prefilled.cache,
            use_cache=True,
            **options,
        )
        after = EncodedContext(
            prefilled.encoded, prefilled.encoded_mask, prefilled.cache, full_mask, None
        )
        return output, after


@dataclass
class UnencodedContext:
    """Contexts that are encoded together with their queries; fields as of a `Context`."""

    embeddings: Tensor
    mask: Tensor

    #: The decoder's start token predicts the first token.
    predicts = True

    def select(self, rows: Tensor) -> UnencodedContext:
        """Return a copy with the given rows, (n,) indices, repeated or left out as they say."""
        return UnencodedContext(self.embeddings[rows], self.mask[rows])


class EncoderQueryLLM(EncoderDecoderLLM):
    """T5 with the query in the encoder, right after the context; the decoder has the answer alone.

    So T5 was trained on tasks; but the encoder must compute the context again for each query. Where
    there is no query (pretraining), the text after the context is the decoder's.
    """

    predicts_query = False

    def prefill(self, context: Context) -> UnencodedContext:
        """Keep the contexts for `extend`, which has their queries."""
        return UnencodedContext(context.embeddings, context.mask)

    def extend(
        self, prefilled: UnencodedContext, sequences: Sequence[Sequence[int]]
    ) -> EncodedContext:
        """Encode each context with the query after it, at least one token for each row."""
        tokens, mask = pad_right(sequences, self.device)
        embeddings = torch.cat([prefilled.embeddings, self.embedding(tokens)], dim=1)
        return super().prefill(Context(embeddings, torch.cat([prefilled.mask, mask], dim=1)))

    def predicting_states(
        self, prefilled: EncodedContext | UnencodedContext, tokens: Tensor
    ) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width)."""
        if isinstance(prefilled, UnencodedContext):
            prefilled = super().prefill(Context(prefilled.embeddings, prefilled.mask))
        return super().predicting_states(prefilled, tokens)

    def query_attentions(self, context: Context, sequences: Sequence[Sequence[int]]) -> Attentions:
        """Return the attention of the start token: over the context, and over the query after it.

        Queries are padded on the right with zeros.
        """
        with self.attention_weights():
            prefilled = self.extend(self.prefill(context), sequences)
            weights = self._attentions(prefilled, [[] for _ in sequences], rows=slice(None))
        before = context.mask.shape[1]
        encoded = weights.to_context
        return Attentions(encoded[..., :before], encoded[..., before:])
