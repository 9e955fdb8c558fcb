"""The structured initialisation of the pocket T5 models; see `initialisation` for why there is one.

T5 knows positions by a bias of each head for each distance, which all blocks of a stack share. So
the first heads of every block start by looking one, two and three tokens back, in both stacks, and
the others by looking at what is alike, near or far. A head that looks back writes what it reads in
other directions than it found it in (a projection, and the transpose of another one), so that a
word and the one before it stay apart. Then

- half of a block's gated units start as products of a word's and the previous word's features,
- cross-attention, which has no biases, starts by looking for label positions: some heads compare
  the query's last word with what the encoder copied there from one token before. The other heads
  match what is alike. All of them copy, by a projection and its transpose.

The word embeddings start as those of the pocket GPT-2, centred and scaled: words that mean the same
are alike from the start, and what is left to learn is how to use them.
"""

from __future__ import annotations

import torch

from mend.pocket.initialisation import LOOK_BACK, projection

EMBEDDING_SCALE = 0.07
LOOK_BACK_BIAS = 8.0
MATCH_SCALE = 0.6
COPY_SCALE = 0.25
GATE_SCALE = 0.08
SMALL_SCALE = 0.02


@torch.no_grad()
def initialise(model, words: torch.Tensor | None = None, seed: int = 0) -> None:
    """Set the parameters of a `T5ForConditionalGeneration` in place, as the docstring says.

    words: (vocabulary, width), another model's word embeddings; None: random ones.
    """
    generator = torch.Generator().manual_seed(seed)
    model.shared.weight.normal_(0, EMBEDDING_SCALE, generator=generator)
    if words is not None:
        centred = words - words.mean(0)
        model.shared.weight.copy_(centred * EMBEDDING_SCALE / centred.std())
    previous_word = []
    for stack in (model.encoder, model.decoder):
        # Buckets of small distances are exact; those of tokens further back come first.
        bias = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias.zero_()
        for head, distance in enumerate(LOOK_BACK):
            bias[distance, head] = LOOK_BACK_BIAS
        for block in stack.block:
            maps = _self_attention(block.layer[0].SelfAttention, generator)
            _feed_forward(block.layer[-1].DenseReluDense, *maps, generator)
            if stack is model.encoder:
                previous_word.append(maps)
            else:
                _cross_attention(block.layer[1].EncDecAttention, previous_word, generator)


def _self_attention(attention, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the head that looks one token back reads and writes, both (head width, width)."""
    for head, rows in enumerate(_heads(attention)):
        match, read = _projections(attention, generator)
        write = read
        if head < len(LOOK_BACK):
            attention.q.weight[rows].normal_(0, SMALL_SCALE, generator=generator)
            attention.k.weight[rows].normal_(0, SMALL_SCALE, generator=generator)
            write = projection(*read.T.shape, generator).T
        else:
            attention.q.weight[rows] = attention.k.weight[rows] = MATCH_SCALE * match
        if head == 0:
            maps = (read, write)
        attention.v.weight[rows] = COPY_SCALE * read
        attention.o.weight[:, rows] = COPY_SCALE * write.T
    return maps


def _feed_forward(layer, read: torch.Tensor, write: torch.Tensor, generator) -> None:
    """Let half of the units multiply a feature of a word and the same of the previous word."""
    layer.wi_0.weight.normal_(0, GATE_SCALE, generator=generator)
    layer.wi_1.weight.normal_(0, GATE_SCALE, generator=generator)
    layer.wo.weight.normal_(0, SMALL_SCALE, generator=generator)
    half = len(layer.wi_0.weight) // 2
    features = torch.randn(half, len(read), generator=generator)
    features = features * (GATE_SCALE * read.shape[1] ** 0.5 / len(read) ** 0.5)
    layer.wi_0.weight[:half] = features @ read
    layer.wi_1.weight[:half] = features @ write


def _cross_attention(attention, previous_word: list[tuple], generator) -> None:
    """Let a head for each encoder block match what that block copied from the token before."""
    for head, rows in enumerate(_heads(attention)):
        match, copy = _projections(attention, generator)
        query, key = previous_word[head] if head < len(previous_word) else (match, match)
        attention.q.weight[rows], attention.k.weight[rows] = MATCH_SCALE * query, MATCH_SCALE * key
        attention.v.weight[rows] = COPY_SCALE * copy
        attention.o.weight[:, rows] = COPY_SCALE * copy.T


def _heads(attention) -> list[slice]:
    size = attention.key_value_proj_dim
    return [slice(head * size, (head + 1) * size) for head in range(attention.n_heads)]


def _projections(attention, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two random maps of (head width, width) with orthonormal rows."""
    width, size = attention.d_model, attention.key_value_proj_dim
    return projection(width, size, generator).T, projection(width, size, generator).T
