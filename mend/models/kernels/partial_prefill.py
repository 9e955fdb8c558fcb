"""Prefill that computes keys and values alone, without what only predicts.

Later tokens attend to a token's keys and values. A token that predicts nothing itself therefore
needs no last layer beyond them: no attention of its own, no feed-forward part, no final norm, and
no gradients through those. Of a distiller with 2 layers that is two fifths of the work on the
demonstrations, of a language model with 36 layers a fortieth.

Processor time without it over that with it (benchmarks/kernel_gains.py, 2 busy processors,
float32): a training step of the pocket GPT-2 1.15 to 1.25, at GPT-2's shape with 6 layers and a
distiller of 2 1.17; scoring with a context for each item 1.3 and 1.1 to 1.2, with a shared one 1.0
to 1.1. Encoder-decoders do without.
"""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor, nn
from transformers import DynamicCache

from mend.models.kernels import enabled


class _CacheComplete(Exception):  # noqa: N818 (not an error: how a forward pass is left early)
    """The last layer's keys and values are in the cache."""


class _EarlyExitCache(DynamicCache):
    """A cache that ends the forward pass once every layer's keys and values are in it."""

    def __init__(self, config) -> None:
        super().__init__(config=config)
        self.last_layer = config.get_text_config(decoder=True).num_hidden_layers - 1

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        found = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self.last_layer:
            raise _CacheComplete
        return found


def partial_prefill(base: nn.Module, embeddings: Tensor, mask: Tensor, **inputs) -> DynamicCache:
    """Return the keys and values of tokens, for those that come after them.

    base: a decoder-only model without its head. embeddings: (sequences, n, width), n at least 1;
    mask: (sequences, n), 0 on the padding; inputs: what else its forward pass takes. Not for a
    sharded model: it would be left with a layer put together.
    """
    cache = _EarlyExitCache(base.config)
    with suppress(_CacheComplete):
        base(
            inputs_embeds=embeddings,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **inputs,
        )
    kept = DynamicCache(config=base.config)
    kept.layers = cache.layers
    return kept


def last_states(
    base: nn.Module, embeddings: Tensor, mask: Tensor, position_ids: Tensor | None, number: int
) -> Tensor:
    """Return the hidden states of the last `number` tokens, (sequences, number, width).

    base, embeddings, mask: as of `partial_prefill`, of all tokens, or one stack of an
    encoder-decoder. position_ids: (sequences, n); None for a model that takes none.
    """
    inputs = {"attention_mask": mask, "use_cache": False}
    before = embeddings.shape[1] - number
    if before and enabled("partial_prefill") and not base.config.is_encoder_decoder:
        earlier = {} if position_ids is None else {"position_ids": position_ids[:, :before]}
        cache = partial_prefill(base, embeddings[:, :before], mask[:, :before], **earlier)
        inputs |= {"past_key_values": cache, "use_cache": True}
        embeddings = embeddings[:, before:]
        position_ids = None if position_ids is None else position_ids[:, before:]
    if position_ids is not None:
        inputs["position_ids"] = position_ids
    return base(inputs_embeds=embeddings, **inputs).last_hidden_state[:, -number:]
