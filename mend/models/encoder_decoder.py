"""Encoder-decoder LLMs: the context goes to the encoder, query and answer to the decoder.

This is the paper's layout for T5 (section 4.1, faithfulness row 11): demonstrations or distilled
vectors are encoded once, and the decoder reads x, then y, after its start token. In the other
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
from mend.models.sharding import is_sharded

#: Architectures whose positions are relative, so that padding on the left changes nothing.
SUPPORTED = ("t5", "mt5", "umt5")


@dataclass
class EncoderReading:
    """An encoded context and what the decoder has read since: one row for each sequence.

    encoded: (sequences, context, width) and its 0/1 mask, encoded_mask. Once the decoder's keys and
        values of it are in the cache, of `encoded` only the shape counts.
    cache, mask: of the decoder's tokens, as in `mend.models.decoder_only.Reading`.
    last_state: (sequences, width); None until the decoder has started.
    """

    encoded: Tensor
    encoded_mask: Tensor
    cache: EncoderDecoderCache
    mask: Tensor
    last_state: Tensor | None

    #: The decoder's start token predicts the first token.
    predicts = True

    def select(self, rows: Tensor) -> EncoderReading:
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
        return EncoderReading(encoded, self.encoded_mask[rows], cache, self.mask[rows], state)


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
    def positions(self) -> int:
        """Relative positions have no end."""
        return UNLIMITED

    def read(self, context: Context) -> EncoderReading:
        """Encode each context once.

        An empty context is one end-of-text token: attention needs something to look at.
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
        return EncoderReading(states, mask, self._keys_and_values(states), mask[:, :0], None)

    def _keys_and_values(self, encoded: Tensor) -> EncoderDecoderCache:
        """Return a cache with what the decoder's blocks attend to of the encoder's states.

        So it is computed once for all the queries that share a context, not once for each.
        """
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        if is_sharded(self.model):
            return cache  # a block is put together for its own forward pass alone
        for number, block in enumerate(self.model.decoder.block):
            attention = block.layer[1].EncDecAttention
            shape = (*encoded.shape[:2], -1, attention.key_value_proj_dim)
            projected = (part(encoded).view(shape) for part in (attention.k, attention.v))
            keys, values = (part.transpose(1, 2) for part in projected)
            cache.cross_attention_cache.update(keys, values, number)
            cache.is_updated[number] = True
        return cache

    def read_tokens(
        self, reading: EncoderReading, sequences: Sequence[Sequence[int]]
    ) -> EncoderReading:
        """Read tokens, at least one for each row of `reading`, which is used up.

        They are padded on the left, so that what comes after them follows them at once.
        """
        if reading.last_state is None:
            start = self.model.config.decoder_start_token_id
            sequences = [[start, *sequence] for sequence in sequences]
        tokens, mask = pad_left(sequences, self.device)
        states, longer = self._decode(reading, tokens, mask)
        longer.last_state = states[:, -1]
        return longer

    def states_before(self, reading: EncoderReading, tokens: Tensor) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width)."""
        read = tokens[:, :-1]
        if reading.last_state is None:
            start = self.model.config.decoder_start_token_id
            read = torch.cat([torch.full_like(tokens[:, :1], start), read], dim=1)
            return self._decode(reading, read, torch.ones_like(read))[0]
        first = reading.last_state[:, None]
        if not read.shape[1]:
            return first
        states, _ = self._decode(reading, read, torch.ones_like(read))
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
            reading = EncoderDecoderLLM.read(self, context)
            return self._attentions(reading, sequences, rows=slice(1, None))

    def _attentions(
        self, reading: EncoderReading, sequences: Sequence[Sequence[int]], rows: slice
    ) -> Attentions:
        start = self.model.config.decoder_start_token_id
        tokens, mask = pad_right([[start, *sequence] for sequence in sequences], self.device)
        output, _ = self._run(reading, tokens, mask, output_attentions=True)
        kinds = (output.cross_attentions, output.attentions)
        return Attentions(*(torch.stack(kind).float()[..., rows, :] for kind in kinds))

    def _decode(
        self, reading: EncoderReading, tokens: Tensor, mask: Tensor
    ) -> tuple[Tensor, EncoderReading]:
        output, longer = self._run(reading, tokens, mask)
        return output.last_hidden_state, longer

    def _run(
        self, reading: EncoderReading, tokens: Tensor, mask: Tensor, **options: bool
    ) -> tuple[Any, EncoderReading]:
        full_mask = torch.cat([reading.mask, mask], dim=1)
        output = self.model.decoder(
            inputs_embeds=self.embedding(tokens),
            attention_mask=full_mask,
            encoder_hidden_states=reading.encoded,
            encoder_attention_mask=reading.encoded_mask,
            past_key_values=reading.cache,
            use_cache=True,
            **options,
        )
        after = EncoderReading(
            reading.encoded, reading.encoded_mask, reading.cache, full_mask, None
        )
        return output, after


@dataclass
class UnreadContext:
    """A context that waits for its query; embeddings and mask as of a `Context`."""

    embeddings: Tensor
    mask: Tensor

    #: The decoder's start token predicts the first token.
    predicts = True

    def select(self, rows: Tensor) -> UnreadContext:
        """Return a copy with the given rows, (n,) indices, repeated or left out as they say."""
        return UnreadContext(self.embeddings[rows], self.mask[rows])


class EncoderQueryLLM(EncoderDecoderLLM):
    """T5 with the query in the encoder, right after the context; the decoder has the answer alone.

    So T5 was trained on tasks; but the encoder must read the context again for each query. Where
    there is no query (pretraining), the text after the context is the decoder's.
    """

    predicts_query = False

    def read(self, context: Context) -> UnreadContext:
        """Keep the contexts until their queries are there."""
        return UnreadContext(context.embeddings, context.mask)

    def read_tokens(
        self, reading: UnreadContext, sequences: Sequence[Sequence[int]]
    ) -> EncoderReading:
        """Encode each context with the query after it, at least one token for each row."""
        tokens, mask = pad_right(sequences, self.device)
        embeddings = torch.cat([reading.embeddings, self.embedding(tokens)], dim=1)
        return super().read(Context(embeddings, torch.cat([reading.mask, mask], dim=1)))

    def states_before(self, reading: EncoderReading | UnreadContext, tokens: Tensor) -> Tensor:
        """Return the states that predict each of `tokens`: (sequences, n, width)."""
        if isinstance(reading, UnreadContext):
            reading = super().read(Context(reading.embeddings, reading.mask))
        return super().states_before(reading, tokens)

    def query_attentions(self, context: Context, sequences: Sequence[Sequence[int]]) -> Attentions:
        """Return the attention of the start token: over the context, and over the query after it.

        Queries are padded on the right with zeros.
        """
        with self.attention_weights():
            reading = self.read_tokens(self.read(context), sequences)
            weights = self._attentions(reading, [[] for _ in sequences], rows=slice(None))
        before = context.mask.shape[1]
        encoded = weights.to_context
        return Attentions(encoded[..., :before], encoded[..., before:])
