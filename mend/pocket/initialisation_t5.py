"""The structured initialisation of the pocket T5 models; see `initialisation` for why there is one.

T5 knows positions by a bias of each head for each distance, which all blocks of a stack share. So
the first heads of every block start by looking one, two and three tokens back, in both stacks, and
the others by looking at what is alike, near or far. Cross-attention has no such bias: all its heads
start by matching. Value and output maps start as a projection and its transpose, as in the GPT-2.
The output layer, untied in T5 v1.1, starts as the word embeddings.
"""

from __future__ import annotations

import torch

from mend.pocket.initialisation import LOOK_BACK, projection

EMBEDDING_SCALE = 0.05
LOOK_BACK_BIAS = 8.0
MATCH_SCALE = 0.6
COPY_SCALE = 0.25
GATE_SCALE = 0.08
SMALL_SCALE = 0.02


@torch.no_grad()
def initialise(model, seed: int = 0) -> None:
    """Set the parameters of a `T5ForConditionalGeneration` in place, as the docstring says."""
    generator = torch.Generator().manual_seed(seed)
    model.shared.weight.normal_(0, EMBEDDING_SCALE, generator=generator)
    model.lm_head.weight.copy_(model.shared.weight)
    for stack in (model.encoder, model.decoder):
        # Buckets of small distances are exact; those of tokens further back come first.
        bias = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias.zero_()
        for head, distance in enumerate(LOOK_BACK):
            bias[distance, head] = LOOK_BACK_BIAS
        for block in stack.block:
            feed_forward = block.layer[-1].DenseReluDense
            feed_forward.wi_0.weight.normal_(0, GATE_SCALE, generator=generator)
            feed_forward.wi_1.weight.normal_(0, GATE_SCALE, generator=generator)
            feed_forward.wo.weight.normal_(0, SMALL_SCALE, generator=generator)
            _attention(block.layer[0].SelfAttention, len(LOOK_BACK), generator)
            if stack is model.decoder:
                _attention(block.layer[1].EncDecAttention, 0, generator)


def _attention(attention, look_back_heads: int, generator: torch.Generator) -> None:
    """Let the first heads depend on positions only (nearly), the others match; all copy."""
    width, heads = attention.d_model, attention.n_heads
    size = attention.key_value_proj_dim
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        match = MATCH_SCALE * projection(width, size, generator).T
        query, key = attention.q.weight[rows], attention.k.weight[rows]
        if head < look_back_heads:
            query.normal_(0, SMALL_SCALE, generator=generator)
            key.normal_(0, SMALL_SCALE, generator=generator)
        else:
            query.copy_(match)
            key.copy_(match)
        copy = COPY_SCALE * projection(width, size, generator).T
        attention.v.weight[rows] = copy
        attention.o.weight[:, rows] = copy.T
